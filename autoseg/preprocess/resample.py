"""Arrays change their spacing: splines as one matrix per axis, nearest neighbours along a coarse axis.

Interpolation on a regular grid is linear in the voxels and separable, so that resampling is a product with one small
matrix per axis. The matrices hold spline prefilter, interpolation and treatment of edges.
"""

from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from autoseg.core.geometry import Shape, Spacing, bounding_box
from autoseg.plan.schema import ResamplingPlan

NEGLIGIBLE_WEIGHT = 1e-8
"""Weights of a spline decay exponentially with distance; below this, float32 would not notice them."""

HALF = 0.5 - 1e-6
"""One half, less what float32 may lose, so that a tie is a tie whatever the order of the sums."""

ROWS_AT_ONCE = 32
"""Rows of a matrix that are multiplied together with the few columns that they need."""


def coarse_axis(old_spacing: Spacing, new_spacing: Spacing, anisotropy_ratio: float) -> int | None:
    """Return the axis that is resampled on its own; None where there is none.

    It is the axis of largest spacing, if that exceeds the smallest by more than `anisotropy_ratio`, in the old spacing
    or else in the new one. Two axes that share the largest spacing are not coarse.

    Source:
        Isensee et al. 2021, Methods, resampling.
    """
    for spacing in (old_spacing, new_spacing):
        if max(spacing) > anisotropy_ratio * min(spacing):
            largest = [axis for axis, size in enumerate(spacing) if size == max(spacing)]
            return largest[0] if len(largest) == 1 else None
    return None


def axis_orders(order: int, coarse: int | None, coarse_order: int, num_axes: int = 3) -> tuple[int, ...]:
    """Return the spline order of each axis: `coarse_order` on the coarse one, if any, `order` on the others."""
    return tuple(coarse_order if axis == coarse else order for axis in range(num_axes))


def resample_image(
    image: NDArray[np.float32], shape: Shape, coarse: int | None, plan: ResamplingPlan
) -> NDArray[np.float32]:
    """Return an image resampled to `shape`, within the range of its values.

    Args:
        image: (C, Z, Y, X).
        shape: (z, y, x), in voxels.
        coarse: Axis from `coarse_axis`; its slices are interpolated each within its own range.
        plan: Orders.
    """
    if image.shape[1:] == tuple(shape):
        return image
    orders = axis_orders(plan.image_order, coarse, plan.coarse_axis_order)
    return np.stack([_resample_within_range(channel, shape, orders, coarse) for channel in image])


def resample_label(
    label: NDArray[np.integer], shape: Shape, coarse: int | None, plan: ResamplingPlan
) -> NDArray[np.integer]:
    """Return a label map resampled to `shape`: each class on its own, set where its interpolated mask reaches one half.

    The classes follow in ascending order, the last wins; a voxel that none claims becomes 0. Entries below 0 count as
    classes too.

    Args:
        label: (Z, Y, X), class indices, -1 outside the non-zero mask.
        shape: (z, y, x), in voxels.
        coarse: Axis from `coarse_axis`.
        plan: Orders.
    """
    if label.shape == tuple(shape):
        return label
    orders = axis_orders(plan.label_order, coarse, plan.coarse_axis_order)
    matrices = [interpolation_matrix(*sizes) for sizes in zip(label.shape, shape, orders, strict=True)]
    resampled = np.zeros(shape, dtype=label.dtype)
    for entry in np.unique(label):
        _claim_voxels(resampled, label, matrices, entry)
    return resampled


def resample_array(
    array: NDArray[np.float32], shape: Shape, orders: Sequence[int], origin: float = 0
) -> NDArray[np.float32]:
    """Return an array resampled by splines of the given order per axis; edges repeat, voxels are centred, no smoothing.

    Args:
        array: As many axes as there are orders.
        shape: Of the result, in voxels.
        orders: Spline order per axis.
        origin: Value from which distances are taken; regions of this value keep it to the last bit.

    Source:
        Unser 1999, IEEE Signal Processing Magazine 16(6), splines as a recursive filter and interpolation.
    """
    sizes = list(zip(array.shape, shape, orders, strict=True))
    shrinking_first = sorted(range(array.ndim), key=lambda axis: sizes[axis][1] / sizes[axis][0])
    changing = [axis for axis in shrinking_first if sizes[axis][0] != sizes[axis][1]]
    for axis in changing:
        shift = origin if axis == changing[0] else 0
        array = multiply_along(array, interpolation_matrix(*sizes[axis]), axis, shift)
    if changing and origin:
        array += np.float32(origin)
    return array


@lru_cache(maxsize=64)
def interpolation_matrix(old_size: int, new_size: int, order: int) -> NDArray[np.float32]:
    """Return the matrix (new size, old size) that resamples a line of voxels; read-only, as it is shared."""
    if old_size == new_size:
        matrix = np.eye(old_size, dtype=np.float32)
    else:
        zoom = partial(ndimage.zoom, zoom=new_size / old_size, order=order, mode="nearest", grid_mode=True)
        zoomed: list[NDArray[np.float64]] = [zoom(impulse) for impulse in np.eye(old_size)]
        matrix = np.stack(zoomed, axis=1)
        matrix[np.abs(matrix) < NEGLIGIBLE_WEIGHT] = 0
        matrix = matrix.astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def multiply_along(
    array: NDArray[np.float32], matrix: NDArray[np.float32], axis: int, origin: float = 0
) -> NDArray[np.float32]:
    """Return the product of a matrix (new, old) with every line of an array, less `origin`, along an axis."""
    new_size = len(matrix)
    before, old_size, after = _around(array.shape, axis)
    lines = np.ascontiguousarray(array).reshape(before, old_size, after)
    product = np.empty((before, new_size, after), dtype=np.float32)
    # The products are too small to be shared out: threads would wait for each other longer than they work.
    with _linear_algebra().limit(limits=1, user_api="blas"):
        for start in range(0, new_size, ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, new_size))
            used = needed_columns(matrix[rows])
            part = lines[:, used] - np.float32(origin) if origin else lines[:, used]
            if after == 1:
                product[:, rows, 0] = part[:, :, 0] @ matrix[rows, used].T
            else:
                np.matmul(matrix[rows, used], part, out=product[:, rows])
    return product.reshape(*array.shape[:axis], new_size, *array.shape[axis + 1 :])


def needed_columns(matrix: NDArray[np.float32]) -> slice:
    """Return the columns between the first and the last that are not all zero."""
    used = np.flatnonzero(matrix.any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0)


@cache
def _linear_algebra() -> ThreadpoolController:
    return ThreadpoolController()


def _around(shape: Shape, axis: int) -> tuple[int, int, int]:
    return int(np.prod(shape[:axis])), shape[axis], int(np.prod(shape[axis + 1 :]))


def _resample_within_range(
    channel: NDArray[np.float32], shape: Shape, orders: Sequence[int], coarse: int | None
) -> NDArray[np.float32]:
    """Return a channel resampled and clipped, because splines overshoot: to its range, or that of each coarse slice."""
    background = float(channel.min())
    if coarse is not None:
        stack = tuple(shape[axis] if axis == coarse else size for axis, size in enumerate(channel.shape))
        channel = resample_array(channel, stack, orders)
    others = tuple(axis for axis in range(channel.ndim) if axis != coarse)
    lowest, highest = channel.min(axis=others, keepdims=True), channel.max(axis=others, keepdims=True)
    resampled = resample_array(channel, shape, orders, background)
    return np.clip(resampled, lowest, highest, out=resampled)


def _claim_voxels(
    resampled: NDArray[np.integer],
    label: NDArray[np.integer],
    matrices: Sequence[NDArray[np.float32]],
    entry: np.integer[Any],
) -> None:
    """Set the voxels of one class, working inside the box that its mask can reach."""
    mask = label == entry
    box = bounding_box(mask)
    part = mask[tuple(slice(first, last) for first, last in box)].astype(np.float32)
    place = []
    for axis, ((first, last), matrix) in enumerate(zip(box, matrices, strict=True)):
        columns = matrix[:, first:last]
        rows = needed_columns(columns.T)
        part = multiply_along(part, columns[rows], axis)
        place.append(rows)
    resampled[tuple(place)][part >= HALF] = entry
