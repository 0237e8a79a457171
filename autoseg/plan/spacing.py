"""Rules for the voxel grid: target spacing, order of axes, shapes after resampling."""

from collections.abc import Sequence

import numpy as np

from autoseg.core.geometry import Shape, Spacing, resampled_shape


def target_spacing(
    spacings: Sequence[Spacing],
    shapes: Sequence[Shape],
    *,
    anisotropy_ratio: float,
    coarse_axis_percentile: float,
    min_excess_mm: float,
) -> Spacing:
    """Choose the full-resolution spacing of a dataset.

    The median per axis, except on a strongly anisotropic dataset: there the coarse axis takes a low percentile, so that
    the sharper scans are not blurred, but stays the coarsest axis.

    Args:
        spacings: One spacing per case, (z, y, x), in mm.
        shapes: One cropped shape per case, (z, y, x), in voxels, in the same order.
        anisotropy_ratio: An axis is coarse if its spacing exceeds the next largest by this factor, and short if it has
            this many times fewer voxels than the next smallest.
        coarse_axis_percentile: Percentile, 0 to 100, of an axis that is coarse and short.
        min_excess_mm: By how much the coarse axis stays above the next largest spacing.

    Raises:
        ValueError: If the sequences are empty or differ in length.

    Source:
        rules/inferred.toml [target_spacing]; Isensee et al. 2021, Supplementary Note 2.
    """
    if not spacings or len(spacings) != len(shapes):
        raise ValueError(f"one spacing per shape is needed, got {len(spacings)} spacings and {len(shapes)} shapes")
    target = np.percentile(np.asarray(spacings, dtype=np.float64), 50, axis=0)
    median = np.percentile(np.asarray(shapes, dtype=np.float64), 50, axis=0)
    coarse = int(np.argmax(target))
    next_spacing = float(np.delete(target, coarse).max())
    next_size = float(np.delete(median, coarse).min())
    if target[coarse] > anisotropy_ratio * next_spacing and median[coarse] * anisotropy_ratio < next_size:
        sharper = float(np.percentile([spacing[coarse] for spacing in spacings], coarse_axis_percentile))
        target[coarse] = sharper if sharper >= next_spacing else next_spacing + min_excess_mm
    return tuple(float(value) for value in target)


def transpose_order(spacing: Spacing, shape: Sequence[float]) -> tuple[int, int, int]:
    """Return the axes with that of one voxel first, or else the coarsest, and the others in their order.

    An axis of one voxel says how thick a slice is, if anything: 2D images in files without a third spacing have 1 mm.

    Args:
        spacing: Target spacing, (z, y, x), in mm; among equal axes the first counts as the coarsest, and among several
            axes of one voxel the coarsest comes first.
        shape: Median shape at that spacing, (z, y, x), in voxels; may be fractional.

    Source:
        Isensee et al. 2021, Methods: slices of a 2D network are cut along the coarsest axis. nnU-Net 2.8.1 gives 2D
        images a spacing of 999 times the largest across their plane, which puts it first.
    """
    across = max(range(3), key=lambda axis: (shape[axis] == 1, spacing[axis], -axis))
    first, second = (axis for axis in range(3) if axis != across)
    return across, first, second


def median_shape(shapes: Sequence[Shape], spacings: Sequence[Spacing], target: Spacing) -> tuple[float, ...]:
    """Return the median per axis of the shapes of all cases after resampling to the target spacing, in voxels.

    An axis along which the median case has one voxel keeps one: a slice that is resampled to several is still one.
    """
    resampled = [resampled_shape(shape, spacing, target) for shape, spacing in zip(shapes, spacings, strict=True)]
    is_one_slice = np.median(np.asarray(shapes), axis=0) == 1
    sizes = np.where(is_one_slice, 1.0, np.median(np.asarray(resampled), axis=0))
    return tuple(float(size) for size in sizes)


def coarser_spacing(spacing: Spacing, *, step: float, finer_axis_ratio: float) -> Spacing:
    """Return the next spacing to try for a coarse configuration.

    While some axes are finer than the coarsest by more than `finer_axis_ratio`, only these grow by the factor `step`;
    after that all do.

    Source:
        rules/inferred.toml [lowres]; Isensee et al. 2021, Supplementary Note 2.
    """
    finer = [max(spacing) / value > finer_axis_ratio for value in spacing]
    return tuple(
        value * step if is_finer or not any(finer) else value for value, is_finer in zip(spacing, finer, strict=True)
    )
