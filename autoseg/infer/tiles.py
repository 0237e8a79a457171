"""Logits of a whole scan from networks that see one patch: overlapping tiles, weighted, mirrored, merged slab by slab.

Letters: B tiles of a batch, C channels or classes, Z, Y, X space.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations, product

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.core.geometry import Shape
from autoseg.network.device import Precision, mixed_precision

SMALLEST_WEIGHT = 1e-4
"""Of a tile's border along one axis, relative to its centre; keeps the product over the axes far above rounding."""


SLAB_ROWS = 16
"""Most rows of merged logits that are handed over at once."""


@dataclass(frozen=True)
class Tiling:
    """How a scan is cut and seen.

    Attributes:
        patch_size: Input of the networks, in voxels; two entries for networks that see slices.
        step: Largest distance of neighbouring tiles, as a share of the patch.
        gaussian_sigma: Of the weight of a tile's voxels, as a share of the patch.
        mirror_axes: Axes of the patch; the mean is taken over the tile and its mirror images along all their subsets.
        batch_size: Tiles that a network sees at once.
    """

    patch_size: Shape
    step: float
    gaussian_sigma: float
    mirror_axes: tuple[int, ...]
    batch_size: int

    @property
    def tile_shape(self) -> Shape:
        """Shape of a tile, (z, y, x): one slice deep for networks that see slices."""
        return (1,) * (3 - len(self.patch_size)) + tuple(self.patch_size)


def tile_starts(size: int, patch: int, step: float) -> tuple[int, ...]:
    """Return the first voxel of each tile along an axis: as few tiles as `step` allows, spread evenly.

    Args:
        size: Voxels along the axis, at least `patch`.
        patch: Voxels of a tile.
        step: Largest distance of neighbours, as a share of the patch.

    Source:
        Isensee et al. 2021, Methods, inference.
    """
    if size < patch:
        raise ValueError(f"size must be at least the patch of {patch} voxels, got {size}")
    num_tiles = math.ceil((size - patch) / (patch * step)) + 1
    if num_tiles == 1:
        return (0,)
    return tuple(round((size - patch) / (num_tiles - 1) * tile) for tile in range(num_tiles))


def gaussian_weights(patch: int, sigma: float) -> Tensor:
    """Return the weight of a tile's voxels along one axis, float32 (patch,); a tile's is the product of three.

    Args:
        patch: Voxels along the axis.
        sigma: Standard deviation, as a share of the patch.

    Source:
        Isensee et al. 2021, Methods, inference.
    """
    position = torch.arange(patch, dtype=torch.float64) - (patch - 1) / 2
    return torch.exp(-0.5 * (position / (sigma * patch)) ** 2).clamp(min=SMALLEST_WEIGHT).float()


def predict_logits(
    networks: Sequence[nn.Module], image: Tensor, tiling: Tiling, device: torch.device, precision: Precision
) -> Tensor:
    """Return the logits of a whole scan, float32 (classes, Z, Y, X), on `device`; for arguments see `predict_slabs`."""
    return torch.cat(list(predict_slabs(networks, image, tiling, device, precision)), dim=1)


def predict_slabs(
    networks: Sequence[nn.Module], image: Tensor, tiling: Tiling, device: torch.device, precision: Precision
) -> Iterator[Tensor]:
    """Give the logits of a scan slab after slab along the first axis, each as soon as no later tile can change it.

    Only the slab under work is held, which is as thick as a tile or, for thin tiles, as a batch of them.

    Args:
        networks: Evaluating, on `device`; the mean of their logits counts.
        image: Prepared, float32 (C, Z, Y, X). A side shorter than the patch is padded by zeros on both ends.
        tiling: Tiles, weights, mirroring.
        device: Where networks and merging run.
        precision: In which networks compute; merging is float32.

    Yields:
        float32 (classes, z, Y, X) on `device`; together they have the depth of the image.
    """
    shape = tuple(image.shape[1:])
    tile_shape = tiling.tile_shape
    padding = [max(tile - size, 0) for tile, size in zip(tile_shape, shape, strict=True)]
    before = [missing // 2 for missing in padding]
    margins = [side for first, both in zip(before[::-1], padding[::-1], strict=True) for side in (first, both - first)]
    padded = functional.pad(image, margins).to(device)
    merger = _Merger(tuple(padded.shape[1:]), tiling, device)
    inside = (slice(None), slice(before[1], before[1] + shape[1]), slice(before[2], before[2] + shape[2]))
    done = 0
    for layers in merger.groups:
        tiles = list(product(layers, *merger.starts[1:]))
        for first in range(0, len(tiles), tiling.batch_size):
            places = tiles[first : first + tiling.batch_size]
            x_BCZYX = torch.stack([padded[(slice(None), *_box(place, tile_shape))] for place in places])
            merger.add(_mean_logits(networks, x_BCZYX, tiling, precision), places)
        for slab in merger.take_finished(layers):
            wanted = slice(max(before[0] - done, 0), max(before[0] + shape[0] - done, 0))
            done += slab.shape[1]
            yield slab[:, wanted][(slice(None), *inside)]


class _Merger:
    """The weighted sum of the tiles so far, for the rows that are not finished."""

    def __init__(self, shape: Shape, tiling: Tiling, device: torch.device) -> None:
        self.tile_shape = tiling.tile_shape
        self.starts = [
            tuple(range(size)) if tile == 1 else tile_starts(size, tile, tiling.step)
            for size, tile in zip(shape, self.tile_shape, strict=True)
        ]
        self.shape = shape
        profiles = [gaussian_weights(tile, tiling.gaussian_sigma).to(device) for tile in self.tile_shape]
        self.weights = _outer(profiles)
        # Tiles lie on a grid, so that the sum of their weights is the product of the sums along the axes.
        self.sums = [
            _summed_profile(profile, starts, size)
            for profile, starts, size in zip(profiles, self.starts, shape, strict=True)
        ]
        per_layer = len(self.starts[1]) * len(self.starts[2])
        self.layers_at_once = max(tiling.batch_size // per_layer, 1)
        self.first_row = 0
        self.total: Tensor | None = None

    @property
    def groups(self) -> Iterator[tuple[int, ...]]:
        """First rows of the layers of tiles that share batches."""
        rows = self.starts[0]
        for first in range(0, len(rows), self.layers_at_once):
            yield rows[first : first + self.layers_at_once]

    def add(self, logits_BCZYX: Tensor, places: Sequence[tuple[int, ...]]) -> None:
        """Add the logits of tiles at their places."""
        if self.total is None:
            depth = self.tile_shape[0] + self._widest_group()
            rows = min(depth, self.shape[0])
            self.total = logits_BCZYX.new_zeros((logits_BCZYX.shape[1], rows, *self.shape[1:]))
        for logits, (row, *others) in zip(logits_BCZYX, places, strict=True):
            box = _box((row - self.first_row, *others), self.tile_shape)
            self.total[(slice(None), *box)].addcmul_(logits, self.weights)

    def take_finished(self, layers: Sequence[int]) -> Iterator[Tensor]:
        """Give the mean logits of the rows that no layer after these reaches, then make room for more."""
        assert self.total is not None
        after = [start for start in self.starts[0] if start > layers[-1]]
        last_row = after[0] if after else self.shape[0]
        num_rows = last_row - self.first_row
        rows, columns, lines = self.sums
        for first in range(0, num_rows, SLAB_ROWS):
            part = slice(first, min(first + SLAB_ROWS, num_rows))
            mean = self.total[:, part] / rows[self.first_row :][part, None, None]
            mean /= columns[:, None]
            mean /= lines
            yield mean
        # Shifted in steps that do not overlap, so that no copy is needed.
        depth = self.total.shape[1]
        for first in range(0, depth, num_rows):
            following = self.total[:, first + num_rows : first + 2 * num_rows]
            self.total[:, first : first + following.shape[1]] = following
            self.total[:, first + following.shape[1] : first + num_rows] = 0
        self.first_row = last_row

    def _widest_group(self) -> int:
        return max(group[-1] - group[0] for group in self.groups)


def _mean_logits(networks: Sequence[nn.Module], x_BCZYX: Tensor, tiling: Tiling, precision: Precision) -> Tensor:
    """Return the mean over networks and mirror images of the logits, float32 (B, C, Z, Y, X)."""
    is_2d = len(tiling.patch_size) == 2
    x = x_BCZYX.squeeze(2) if is_2d else x_BCZYX
    axes = [2 + axis for axis in tiling.mirror_axes]
    mirrors = [subset for count in range(len(axes) + 1) for subset in combinations(axes, count)]
    views = [(network, mirror) for network in networks for mirror in mirrors]
    with torch.inference_mode(), mixed_precision(x.device, precision):
        mean = reduce(torch.add, (_seen_mirrored(network, x, mirror) for network, mirror in views))
        if len(views) > 1:
            mean /= len(views)
    return mean.unsqueeze(2) if is_2d else mean


def _seen_mirrored(network: nn.Module, x: Tensor, mirror: tuple[int, ...]) -> Tensor:
    logits: Tensor = network(x.flip(mirror)).flip(mirror) if mirror else network(x)
    return logits.float()


def _box(place: Sequence[int], tile_shape: Shape) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(place, tile_shape, strict=True))


def _outer(profiles: Sequence[Tensor]) -> Tensor:
    rows, columns, lines = profiles
    return rows[:, None, None] * columns[:, None] * lines


def _summed_profile(profile: Tensor, starts: Sequence[int], size: int) -> Tensor:
    summed = profile.new_zeros(size)
    for start in starts:
        summed[start : start + len(profile)] += profile
    return summed
