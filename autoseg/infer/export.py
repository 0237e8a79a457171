"""Logits become a label map on the grid of the scan, slab by slab, so that no array holds all classes of all voxels."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.core.geometry import Shape, box_slices
from autoseg.core.labels import Labels
from autoseg.data.store import CaseProperties
from autoseg.plan.schema import ResamplingPlan
from autoseg.preprocess.resample import axis_orders, coarse_axis, interpolation_matrix

BYTES_AT_ONCE = 2**26
"""Logits at full resolution that are held at a time."""


def output_orders(properties: CaseProperties, spacing: Sequence[float], plan: ResamplingPlan) -> tuple[int, ...]:
    """Return the spline order per axis that brings network outputs back to the spacing before resampling.

    Args:
        properties: Of the case.
        spacing: Of the network's input, transposed axes, in mm; an axis that it lacks was not resampled.
        plan: Orders.
    """
    original = properties.cropped_spacing
    target = original[: 3 - len(spacing)] + tuple(spacing)
    return axis_orders(plan.output_order, coarse_axis(target, original, plan.anisotropy_ratio), plan.coarse_axis_order)


def most_likely_classes(
    slabs: Iterable[Tensor], stored: Shape, shape: Shape, orders: Sequence[int]
) -> NDArray[np.uint8 | np.uint16]:
    """Return the class with the highest logit at every voxel of a resampled grid; the lower class wins a tie.

    Args:
        slabs: Logits, (classes, z, Y, X), one slab after the other along the first axis.
        stored: Shape of the logits, (z, y, x).
        shape: Of the result, (z, y, x).
        orders: Spline order per axis.
    """
    classes: NDArray[np.uint8 | np.uint16] | None = None
    for rows, logits in _resampled_slabs(slabs, stored, shape, orders):
        if classes is None:
            classes = np.empty(shape, np.uint8 if len(logits) <= 256 else np.uint16)
        classes[rows] = logits.argmax(dim=0).to(torch.int32).cpu().numpy()
    assert classes is not None
    return classes


def restore_label(indices: NDArray[np.integer], properties: CaseProperties, labels: Labels) -> NDArray[np.integer]:
    """Return class indices of the cropped box as label values on the grid of the scan, background around the box.

    Args:
        indices: (Z, Y, X), transposed axes, of the cropped shape.
        properties: Of the case.
        labels: Values of the classes.
    """
    whole = np.zeros([properties.original_shape[axis] for axis in properties.transpose], indices.dtype)
    whole[box_slices(properties.crop_box)] = indices
    return np.ascontiguousarray(labels.to_values(whole.transpose(np.argsort(properties.transpose))))


def _resampled_slabs(
    slabs: Iterable[Tensor], stored: Shape, shape: Shape, orders: Sequence[int]
) -> Iterator[tuple[slice, Tensor]]:
    """Give resampled logits and the rows that they fill, as soon as the slabs so far determine them."""
    matrices = [interpolation_matrix(*sizes) for sizes in zip(stored, shape, orders, strict=True)]
    first_needed, after_needed = _needed_rows(matrices[0])
    window: Tensor | None = None
    window_start = done = 0
    for slab in slabs:
        window = slab if window is None else torch.cat((window, slab), dim=1)
        ready = int(np.searchsorted(after_needed, window_start + window.shape[1], side="right"))
        at_once = max(BYTES_AT_ONCE // (4 * len(window) * shape[1] * shape[2]), 1)
        for start in range(done, ready, at_once):
            rows = slice(start, min(start + at_once, ready))
            used = slice(int(first_needed[rows.start]), int(after_needed[rows.stop - 1]))
            part = window[:, used.start - window_start : used.stop - window_start]
            yield rows, _multiply_axes(part, (matrices[0][rows, used], *matrices[1:]))
        done = ready
        needed_from = int(first_needed[done]) if done < shape[0] else stored[0]
        unneeded = min(needed_from - window_start, window.shape[1])
        window, window_start = window[:, unneeded:], window_start + unneeded


def _needed_rows(matrix: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return, per row of the result, the first row that it and all later ones need, and the one after the last."""
    used = matrix != 0
    first = used.argmax(axis=1)
    after = matrix.shape[1] - used[:, ::-1].argmax(axis=1)
    return np.minimum.accumulate(first[::-1])[::-1], np.maximum.accumulate(after)


def _multiply_axes(logits: Tensor, matrices: Sequence[NDArray[np.float32]]) -> Tensor:
    """Return the product of a matrix (new, old) per spatial axis with logits (classes, z, y, x)."""
    for axis, matrix in enumerate(matrices, start=1):
        if len(matrix) == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix))):
            continue
        on_device = torch.tensor(matrix, device=logits.device)
        before, after = logits.shape[:axis], logits.shape[axis + 1 :]
        if axis == logits.ndim - 1:
            logits = logits @ on_device.T
        else:
            lines = logits.reshape(before.numel(), matrix.shape[1], after.numel())
            logits = torch.matmul(on_device, lines).reshape(*before, len(matrix), *after)
    return logits
