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


def transpose_order(spacing: Spacing) -> tuple[int, int, int]:
    """Return the axes with the coarsest first, the others in their order.

    Args:
        spacing: Target spacing, (z, y, x), in mm; among equal axes the first counts as the coarsest.

    Source:
        Isensee et al. 2021, Methods: slices of a 2D network are cut along the coarsest axis.
    """
    coarse = max(range(3), key=lambda axis: (spacing[axis], -axis))
    first, second = (axis for axis in range(3) if axis != coarse)
    return coarse, first, second


def median_shape(shapes: Sequence[Shape], spacings: Sequence[Spacing], target: Spacing) -> tuple[float, ...]:
    """Return the median per axis of the shapes of all cases after resampling to the target spacing, in voxels."""
    resampled = [resampled_shape(shape, spacing, target) for shape, spacing in zip(shapes, spacings, strict=True)]
    return tuple(float(size) for size in np.median(np.asarray(resampled), axis=0))


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
