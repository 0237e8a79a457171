"""Tiles become one field of logits: a weighted sum along a front that gives away what is finished.

The front is cut into cells along its first two axes, wherever a tile begins or ends. A cell comes to be with the first
tile that touches it and goes with the last, so that about half a layer of tiles is held. Cells that are not needed for
long wait on disk where memory is short; their numbers stay the same.

Letters: C channels or classes, Z, Y, X space, in the order in which the scan is swept.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from autoseg.core.geometry import Shape
from autoseg.core.temporary import scratch_folder

PART_BYTES = 2**23
"""Of logits that are handed over or converted at once, where a row or a class is not more."""

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Part:
    """Mean logits of a part of the scan that no later tile changes; it is as wide as the scan.

    Attributes:
        rows: Its place along the first axis.
        columns: Its place along the second axis.
        logits: float32 (classes, z, y, X).
    """

    rows: slice
    columns: slice
    logits: Tensor


@dataclass(frozen=True)
class Shelter:
    """Where the front is kept.

    Attributes:
        device: Where sums are taken.
        max_bytes: Largest memory of the cells that no tile under work touches; on a CPU what goes beyond waits on
            disk. None for no limit.
        folder: For files that are gone when prediction ends; None for the system's folder of temporary files.
    """

    device: torch.device
    max_bytes: int | None = None
    folder: Path | None = None


class Cell(NamedTuple):
    """A part of the front.

    Attributes:
        rows, columns: First voxel and the one after the last, along the first and the second axis.
        layer: Number of the layer of tiles that finishes it.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    layer: int


class Front:
    """The weighted sum of the tiles so far, where it is not finished. Used in a `with` statement.

    Args:
        starts: First voxels of the tiles, per axis, ascending.
        tile_shape: Of a tile, in voxels.
        profiles: Weights of a tile's voxels along each axis, float32.
        shelter: Where it is kept.
    """

    def __init__(
        self, starts: Sequence[Sequence[int]], tile_shape: Shape, profiles: Sequence[Tensor], shelter: Shelter
    ) -> None:
        self.starts = starts
        self.tile_shape = tile_shape
        self.shape = front_shape(starts, tile_shape)
        # Tiles lie on a grid, so that the sum of their weights is the product of the sums along the axes, and dividing
        # each profile by its axis's sum makes the weights of every voxel sum to one.
        self.shares = [
            _shares(profile.to(shelter.device), firsts, size)
            for profile, firsts, size in zip(profiles, starts, self.shape, strict=True)
        ]
        self.cuts = [_cuts(firsts, tile) for firsts, tile in zip(starts[:2], tile_shape[:2], strict=True)]
        self.waiting = list(_in_order_of_finish(starts[0], *self.cuts))[::-1]
        self.sums: dict[tuple[int, int], Tensor] = {}
        self.shelter = shelter
        self.on_disk: set[tuple[int, int]] = set()
        self.open_folder = ExitStack()
        self.folder: Path | None = None
        self.weights: tuple[tuple[int, ...], Tensor] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sums.clear()
        self.open_folder.close()

    def add(self, logits_CZYX: Tensor, place: tuple[int, ...], mirrored: Sequence[int], share: float) -> None:
        """Add a share of the logits of a tile.

        Args:
            logits_CZYX: Of any floating type, on any device.
            place: First voxel of the tile.
            mirrored: Axes, 0 for Z, along which the logits run backwards.
            share: Factor; the shares of all that is added for a tile sum to one.
        """
        weights = self._weights(place) * share
        rows = _touched(self.cuts[0], place[0], self.tile_shape[0])
        columns = _touched(self.cuts[1], place[1], self.tile_shape[1])
        self._fetch({(first, left) for (first, _), (left, _) in product(rows, columns)}, len(logits_CZYX))
        lines = slice(place[2], place[2] + self.tile_shape[2])
        axes = [1 + axis for axis in mirrored]
        classes_at_once = max(PART_BYTES // (weights.numel() * FLOAT_BYTES), 1)
        for start in range(0, len(logits_CZYX), classes_at_once):
            classes = slice(start, start + classes_at_once)
            logits = logits_CZYX[classes].to(self.shelter.device).float()
            logits = logits.flip(axes) if axes else logits
            for (first, last), (left, right) in product(rows, columns):
                box = slice(first - place[0], last - place[0]), slice(left - place[1], right - place[1])
                self.sums[first, left][classes, :, :, lines].addcmul_(logits[:, *box], weights[box])

    def take_finished(self, following: tuple[int, ...] | None) -> Iterator[Part]:
        """Give the parts that no tile from now on touches, and forget them.

        Within a layer, parts come strip by strip along the second axis, and row by row within a strip.

        Args:
            following: First voxel of the next tile; None after the last.
        """
        layer = len(self.starts[0]) if following is None else self.starts[0].index(following[0])
        column = 0 if following is None else following[1]
        while self.waiting:
            cell = self.waiting[-1]
            if not (cell.layer < layer or (cell.layer == layer and cell.columns[1] <= column)):
                return
            self.waiting.pop()
            key = cell.rows[0], cell.columns[0]
            if key in self.on_disk:
                self._read(key)
            yield from self._cut_rows(self.sums.pop(key), cell)

    def _cut_rows(self, logits: Tensor, cell: Cell) -> Iterator[Part]:
        """Give a cell in parts; where they are cut is the same for all cells of the same rows."""
        widest = max(right - left for left, right in pairwise(self.cuts[1]))
        rows_at_once = max(PART_BYTES // (len(logits) * widest * self.shape[2] * FLOAT_BYTES), 1)
        for first in range(0, logits.shape[1], rows_at_once):
            # Copied, as who holds a view of a part holds the whole cell.
            part = logits[:, first : first + rows_at_once].clone()
            start = cell.rows[0] + first
            yield Part(slice(start, start + part.shape[1]), slice(*cell.columns), part)

    def _weights(self, place: tuple[int, ...]) -> Tensor:
        if self.weights is None or self.weights[0] != place:
            rows, columns, lines = (shares[start] for shares, start in zip(self.shares, place, strict=True))
            self.weights = place, rows[:, None, None] * columns[:, None] * lines
        return self.weights[1]

    def _fetch(self, keys: set[tuple[int, int]], num_classes: int) -> None:
        """Make sure that cells are in memory, zero at first; others may leave it."""
        for key in keys - self.sums.keys():
            if key in self.on_disk:
                self._read(key)
            else:
                self.sums[key] = torch.zeros((num_classes, *self._cell_shape(key)), device=self.shelter.device)
        limit = self.shelter.max_bytes
        if limit is None or self.shelter.device.type != "cpu":
            return
        idle = sorted(self.sums.keys() - keys)
        held = sum(self.sums[key].nbytes for key in idle)
        # The lower a cell's first row, the sooner it is needed.
        while held > limit:
            held -= self.sums[idle[-1]].nbytes
            self._write(idle.pop())

    def _cell_shape(self, key: tuple[int, int]) -> Shape:
        rows, columns = (cuts[cuts.index(start) + 1] - start for cuts, start in zip(self.cuts, key, strict=True))
        return rows, columns, self.shape[2]

    def _write(self, key: tuple[int, int]) -> None:
        self.sums.pop(key).numpy().tofile(self._file(key))
        self.on_disk.add(key)

    def _read(self, key: tuple[int, int]) -> None:
        values = np.fromfile(self._file(key), np.float32)
        self.sums[key] = torch.from_numpy(values).view(-1, *self._cell_shape(key))
        self._file(key).unlink()
        self.on_disk.remove(key)

    def _file(self, key: tuple[int, int]) -> Path:
        if self.folder is None:
            self.folder = self.open_folder.enter_context(scratch_folder(self.shelter.folder))
        return self.folder / f"{key[0]}-{key[1]}"


def front_shape(starts: Sequence[Sequence[int]], tile_shape: Shape) -> Shape:
    """Return the voxels per axis that tiles cover."""
    return tuple(firsts[-1] + tile for firsts, tile in zip(starts, tile_shape, strict=True))


def front_voxels(starts: Sequence[Sequence[int]], tile_shape: Shape) -> int:
    """Return about how many voxels a front holds at most: what neighbouring layers share, and a strip of tiles."""
    depth, breadth, _ = tile_shape
    shared = max((depth - (after - first) for first, after in pairwise(starts[0])), default=0)
    _, height, width = front_shape(starts, tile_shape)
    return (shared * height + max(shared, depth - shared) * breadth) * width


def _shares(profile: Tensor, starts: Sequence[int], size: int) -> dict[int, Tensor]:
    """Return the weights of each tile along an axis, relative to those of all tiles, by the tile's first voxel."""
    summed = profile.new_zeros(size)
    for start in starts:
        summed[start : start + len(profile)] += profile
    return {start: profile / summed[start : start + len(profile)] for start in starts}


def _cuts(starts: Sequence[int], tile: int) -> list[int]:
    """Return where tiles begin or end along an axis, ascending."""
    return sorted({*starts, *(start + tile for start in starts)})


def _touched(cuts: Sequence[int], start: int, tile: int) -> list[tuple[int, int]]:
    """Return the intervals between cuts that a tile covers."""
    return [(first, last) for first, last in pairwise(cuts) if start <= first and last <= start + tile]


def _in_order_of_finish(starts: Sequence[int], row_cuts: Sequence[int], column_cuts: Sequence[int]) -> Iterator[Cell]:
    layers = list(pairwise((*starts, math.inf)))
    for layer, (first_row, next_row) in enumerate(layers):
        rows = [part for part in pairwise(row_cuts) if first_row <= part[0] < next_row]
        for columns, part in product(pairwise(column_cuts), rows):
            yield Cell(part, columns, layer)
