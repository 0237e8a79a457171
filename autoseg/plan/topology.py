"""Rules for the patch and the topology of the network: what is pooled when, and which kernels see it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.core.geometry import Shape, Spacing
from autoseg.plan.rules import TopologyRules


@dataclass(frozen=True)
class Topology:
    """Stages of a network and the patch that fits them.

    Attributes:
        patch_size: In voxels, a multiple of `divisors`.
        strides: Downsampling on entering each stage, per axis; the first is all ones.
        kernels: Size of the convolution kernels of each stage, per axis.
        divisors: Product of the strides, per axis.
    """

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    divisors: tuple[int, ...]


def initial_patch(spacing: Spacing, shape: Sequence[float], *, edge: int) -> tuple[float, ...]:
    """Return the patch from which the search starts.

    As many voxels as a cube (square) of the given edge, equally long in mm along all axes, but no longer than the
    median case.

    Args:
        spacing: In mm, two or three axes.
        shape: Median shape at that spacing, in voxels; may be fractional.
        edge: In voxels.

    Source:
        rules/inferred.toml [patch]; Isensee et al. 2021, Supplementary Note 2.
    """
    axes = len(spacing)
    density = [1 / value for value in spacing]
    scale = (edge**axes / math.prod(density)) ** (1 / axes)
    return tuple(min(max(1, round(value * scale)), size) for value, size in zip(density, shape, strict=True))


def poolable_axes(sizes: Sequence[float], spacing: Spacing, rules: TopologyRules) -> tuple[int, ...]:
    """Return the axes that the next stage halves; none ends the network.

    An axis must keep `min_edge` voxels, and must not be coarser than the finest such axis by `similar_spacing_ratio`
    or more: finer axes go ahead until the voxels are about cubic. An axis left alone must have `lone_axis_min_edge`.

    Args:
        sizes: Of the feature map, in voxels; may be fractional.
        spacing: Of its voxels, in mm.
        rules: Constants.

    Source:
        rules/inferred.toml [topology]; Isensee et al. 2021, Supplementary Note 2.
    """
    long_enough = [axis for axis, size in enumerate(sizes) if size >= 2 * rules.min_edge]
    if not long_enough:
        return ()
    finest = min(spacing[axis] for axis in long_enough)
    similar = tuple(axis for axis in long_enough if spacing[axis] / finest < rules.similar_spacing_ratio)
    if len(similar) == 1 and sizes[similar[0]] < rules.lone_axis_min_edge:
        return ()
    return similar


def topology(spacing: Spacing, patch: Sequence[float], rules: TopologyRules) -> Topology:
    """Return the stages for a patch, and the patch enlarged to a multiple of its strides.

    Each stage halves the axes of `poolable_axes`. The kernel of an axis is 1 as long as its spacing exceeds the finest
    by `similar_spacing_ratio` or more, then 3; the last stage has kernels of 3.

    Args:
        spacing: In mm, two or three axes.
        patch: In voxels; may be fractional.
        rules: Constants.

    Source:
        rules/inferred.toml [topology]; Isensee et al. 2021, Supplementary Note 2.
    """
    axes = range(len(spacing))
    sizes, current = list(patch), list(spacing)
    kernel = [1 for _ in axes]
    strides, kernels = [tuple(1 for _ in axes)], []
    while pooled := poolable_axes(sizes, tuple(current), rules):
        finest = min(current)
        kernel = [3 if current[axis] / finest < rules.similar_spacing_ratio else kernel[axis] for axis in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            current[axis] *= 2
            sizes[axis] = math.ceil(sizes[axis] / 2)
    kernels.append(tuple(3 for _ in axes))
    divisors = tuple(math.prod(stride[axis] for stride in strides) for axis in axes)
    fitting = tuple(math.ceil(size / divisor) * divisor for size, divisor in zip(patch, divisors, strict=True))
    return Topology(fitting, tuple(strides), tuple(kernels), divisors)


def poolable_patch(spacing: Spacing, patch: Sequence[float], rules: TopologyRules) -> tuple[float, ...]:
    """Return the patch, enlarged where no axis of it could be pooled at all, since a U-Net needs two stages.

    The axes of similar spacing grow to the least size that is pooled; images smaller than the patch are padded.

    Source:
        autoseg; rules/inferred.toml [topology].
    """
    if poolable_axes(patch, spacing, rules):
        return tuple(patch)
    similar = [value / min(spacing) < rules.similar_spacing_ratio for value in spacing]
    least = rules.lone_axis_min_edge if sum(similar) == 1 else 2 * rules.min_edge
    return tuple(max(size, least) if grows else size for size, grows in zip(patch, similar, strict=True))


def axis_to_shrink(patch: Shape, shape: Sequence[float]) -> int:
    """Return the axis along which the patch covers the largest share of the median shape; the last among equals.

    Source:
        Isensee et al. 2021, Supplementary Note 2: the patch approaches the aspect of the data's field of view.
    """
    shares = [size / whole for size, whole in zip(patch, shape, strict=True)]
    return max(range(len(shares)), key=lambda axis: (shares[axis], axis))


def shrink(spacing: Spacing, current: Topology, axis: int, rules: TopologyRules) -> Topology | None:
    """Return the topology of a patch that is one step shorter along an axis; None where nothing would be left.

    The step is the divisor that this axis has in the shorter patch's own topology.

    Args:
        spacing: Of the voxels, in mm.
        current: Topology of the patch.
        axis: To shorten.
        rules: Constants.

    Source:
        nnU-Net 2.8.1, experiment planner; Isensee et al. 2021, Supplementary Note 2.
    """
    shorter = list(current.patch_size)
    shorter[axis] -= current.divisors[axis]
    if shorter[axis] < 1:
        return None
    step = topology(spacing, shorter, rules).divisors[axis]
    patch = list(current.patch_size)
    patch[axis] -= step
    smaller = topology(spacing, patch, rules)
    return smaller if smaller.patch_size != current.patch_size else None
