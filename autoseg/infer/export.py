"""Logits become a label map on the grid of the scan, part by part, so that no array holds all classes of all voxels."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.core.geometry import Shape, box_slices
from autoseg.core.labels import Labels
from autoseg.core.orientation import Turn
from autoseg.data.store import CaseProperties
from autoseg.infer.merging import Part
from autoseg.plan.schema import ResamplingPlan
from autoseg.preprocess.resample import axis_orders, coarse_axis, interpolation_matrix

BLOCK_VOXELS = 2**15
"""Voxels of the result that are decided together; their logits fit a processor's cache."""

BLOCK_ROWS = 32
"""Rows of such a block, where as many are ready."""


Place: TypeAlias = tuple[slice, slice, slice]
"""A part of the result, (z, y, x)."""

Observe: TypeAlias = Callable[[Place, Tensor], None]
"""Is shown each part of the result with its resampled logits, (outputs, z, y, x)."""


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


def decide_classes(
    parts: Iterable[Part],
    stored: Shape,
    shape: Shape,
    orders: Sequence[int],
    painted: Sequence[int] = (),
    observe: Observe | None = None,
) -> NDArray[np.uint8 | np.uint16]:
    """Return the class at every voxel: the one with the highest resampled logit, the lower one in a tie.

    Where outputs are regions, each whose resampled logit is above zero paints its class over those before it.

    Args:
        parts: Logits: within the same rows, parts follow each other along the second axis, and within the same columns
            along the first.
        stored: Shape of the logits, (z, y, x).
        shape: Of the result, (z, y, x).
        orders: Spline order per axis.
        painted: Class index that each region paints; empty where outputs are classes.
        observe: Is shown every part, each once.

    Raises:
        FloatingPointError: If a logit is not a finite number.
    """
    axes = [_AxisMap.between(*sizes) for sizes in zip(stored, shape, orders, strict=True)]
    is_convex = max(orders) <= 1
    classes: NDArray[np.uint8 | np.uint16] | None = None
    for rows, columns, window in _ready(parts, axes[0], axes[1]):
        if classes is None:
            highest = max((*painted, len(window) - 1))
            classes = np.empty(shape, np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16)
        edge = math.isqrt(BLOCK_VOXELS // (rows.stop - rows.start))
        first_column = axes[1].needed(columns).start
        with _one_thread():
            for across, lines in product(_cut(columns.stop, edge, columns.start), _cut(shape[2], edge)):
                needed = axes[1].needed(across)
                near = slice(needed.start - first_column, needed.stop - first_column)
                part = window[:, :, near, axes[2].needed(lines)]
                matrices = [axis.block(place) for axis, place in zip(axes, (rows, across, lines), strict=True)]
                if observe is not None:
                    part, matrices = _resampled(part, matrices), [None, None, None]
                    observe((rows, across, lines), part)
                classes[rows, across, lines] = (
                    _painted(part, matrices, painted) if painted else _winners(part, matrices, is_convex=is_convex)
                )
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
    turn = Turn(properties.transpose, properties.flipped)
    return np.ascontiguousarray(labels.to_values(turn.undo(whole)))


@dataclass(frozen=True)
class _AxisMap:
    """Resampling along one axis, and which voxels it needs.

    Attributes:
        matrix: (new, old); None where nothing changes.
        first: First old voxel that a new one and all after it need.
        after: The one after the last old voxel that a new one and all before it need.
    """

    matrix: NDArray[np.float32] | None
    first: NDArray[np.intp]
    after: NDArray[np.intp]

    @classmethod
    def between(cls, old_size: int, new_size: int, order: int) -> Self:
        if old_size == new_size:
            return cls(None, np.arange(new_size), np.arange(1, new_size + 1))
        matrix = interpolation_matrix(old_size, new_size, order)
        is_used = matrix != 0
        after = old_size - is_used[:, ::-1].argmax(axis=1)
        first = np.minimum.accumulate(is_used.argmax(axis=1)[::-1])[::-1]
        return cls(matrix, first, np.maximum.accumulate(after))

    def needed(self, place: slice) -> slice:
        """Return the old voxels that a range of new ones needs."""
        return slice(int(self.first[place.start]), int(self.after[place.stop - 1]))

    def block(self, place: slice) -> NDArray[np.float32] | None:
        """Return the matrix from the needed old voxels to a range of new ones."""
        return None if self.matrix is None else self.matrix[place, self.needed(place)]


class _Window:
    """What came along one axis of logits and is still needed.

    Args:
        axis: Resampling along it.
        dim: Of the logits.
    """

    def __init__(self, axis: _AxisMap, dim: int) -> None:
        self.axis = axis
        self.dim = dim
        self.kept: Tensor | None = None
        self.start = 0
        self.num_done = 0

    def push(self, logits: Tensor) -> tuple[slice, Tensor, int]:
        """Return which new voxels the next logits make ready, and logits that hold what they need, from which voxel."""
        held = logits if self.kept is None else torch.cat((self.kept, logits), dim=self.dim)
        start, size = self.start, held.shape[self.dim]
        first, after = self.axis.first, self.axis.after
        ready = slice(self.num_done, int(np.searchsorted(after, start + size, side="right")))
        unneeded = min(int(first[ready.stop]) - start, size) if ready.stop < len(first) else size
        # Copied, as a view would keep all of it in memory.
        self.kept = held.narrow(self.dim, unneeded, size - unneeded).clone() if unneeded < size else None
        self.start, self.num_done = start + unneeded, ready.stop
        return ready, held, start


def _ready(parts: Iterable[Part], row_axis: _AxisMap, column_axis: _AxisMap) -> Iterator[tuple[slice, slice, Tensor]]:
    """Give ranges of rows and columns of the result with the logits that they need, once the parts so far hold them."""
    beside: dict[int, _Window] = {}
    above: dict[int, _Window] = {}
    for part in parts:
        columns, wide, left = beside.setdefault(part.rows.start, _Window(column_axis, 2)).push(part.logits)
        if columns.stop == len(column_axis.after):
            del beside[part.rows.start]
        if columns.start == columns.stop:
            continue
        needed = column_axis.needed(columns)
        strip = wide[:, :, needed.start - left : needed.stop - left]
        rows, high, top = above.setdefault(columns.start, _Window(row_axis, 1)).push(strip)
        for block in _cut(rows.stop, BLOCK_ROWS, rows.start):
            needed = row_axis.needed(block)
            yield block, columns, high[:, needed.start - top : needed.stop - top]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread for a while: the operations on a block are too short to be shared out."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _cut(size: int, edge: int, start: int = 0) -> list[slice]:
    return [slice(first, min(first + edge, size)) for first in range(start, size, edge)]


def _winners(
    logits: Tensor, matrices: Sequence[NDArray[np.float32] | None], *, is_convex: bool
) -> NDArray[np.integer] | int:
    """Return the class of every voxel of a block, or the one class of all.

    Interpolation by weights that are positive and sum to one cannot leave the range of the voxels, so that a class
    whose highest logit is below the lowest of another has lost without being resampled.
    """
    lowest, highest = _finite_range(logits)
    candidates = torch.arange(len(logits), device=logits.device)
    if is_convex:
        candidates = candidates[highest >= lowest.max()]
        if len(candidates) == 1:
            return int(candidates)
    contenders = _resampled(logits[candidates], matrices)
    winners: NDArray[np.integer] = candidates[contenders.max(dim=0).indices].cpu().numpy()
    return winners


def _painted(
    logits: Tensor, matrices: Sequence[NDArray[np.float32] | None], painted: Sequence[int]
) -> NDArray[np.integer]:
    """Return the class of every voxel of a block: that of the last region with a logit above zero, else background."""
    _finite_range(logits)
    resampled = _resampled(logits, matrices)
    classes = torch.zeros(resampled.shape[1:], dtype=torch.int64, device=logits.device)
    for region, value in zip(resampled, painted, strict=True):
        classes[region > 0] = value
    found: NDArray[np.integer] = classes.cpu().numpy()
    return found


def _finite_range(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest logit of each output of a block.

    Raises:
        FloatingPointError: If one is not a finite number: resampling would spread it, and a class win by it.
    """
    voxels = logits.flatten(1)
    lowest, highest = voxels.amin(dim=1), voxels.amax(dim=1)
    # Infinity less infinity is NaN as well, and NaN less anything.
    if not (highest - lowest).isfinite().all():
        raise FloatingPointError("logits must be finite numbers, got infinity or NaN")
    return lowest, highest


def _resampled(logits: Tensor, matrices: Sequence[NDArray[np.float32] | None]) -> Tensor:
    for axis, matrix in enumerate(matrices, start=1):
        if matrix is not None:
            logits = _multiply_along(logits, torch.tensor(matrix, device=logits.device), axis)
    return logits


def _multiply_along(logits: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Return the product of a matrix (new, old) with all lines of logits (classes, z, y, x) along an axis."""
    if axis == logits.ndim - 1:
        return logits @ matrix.T
    before, after = logits.shape[:axis], logits.shape[axis + 1 :]
    lines = logits.reshape(before.numel(), matrix.shape[1], after.numel())
    return torch.matmul(matrix, lines).reshape(*before, len(matrix), *after)
