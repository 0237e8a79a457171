"""Logits of a whole scan from networks that see one patch: overlapping tiles, weighted, mirrored, merged on the way.

Letters: B tiles of a batch, C channels or classes, Z, Y, X space.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.core.geometry import Shape
from autoseg.infer.merging import FLOAT_BYTES, Front, Part, Shelter, front_voxels
from autoseg.network.device import Precision, mixed_precision
from autoseg.plan.schema import GaussianCentre

SMALLEST_WEIGHT = 1e-4
"""Of a tile's border along one axis, relative to its centre; keeps the product over the axes far above rounding."""


@dataclass(frozen=True)
class Tiling:
    """How a scan is cut and seen.

    Attributes:
        patch_size: Input of the networks, in voxels; two entries for networks that see slices.
        step: Largest distance of neighbouring tiles, as a share of the patch.
        gaussian_sigma: Of the weight of a tile's voxels, as a share of the patch.
        gaussian_centre: Of that weight.
        mirror_axes: Axes of the patch; the mean is taken over the tile and its mirror images along all their subsets.
        batch_size: Tiles, or mirror images of tiles, that a network sees at once.
    """

    patch_size: Shape
    step: float
    gaussian_sigma: float
    mirror_axes: tuple[int, ...]
    batch_size: int
    gaussian_centre: GaussianCentre = "middle"

    @property
    def tile_shape(self) -> Shape:
        """Shape of a tile, (z, y, x): one slice deep for networks that see slices."""
        return (1,) * (3 - len(self.patch_size)) + tuple(self.patch_size)


@dataclass(frozen=True)
class Computing:
    """Where and how networks compute.

    Attributes:
        device: Of the networks.
        precision: In which they compute; sums are float32.
        shelter: Where tiles are merged.
    """

    device: torch.device
    precision: Precision
    shelter: Shelter


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
    starts = (round((size - patch) / (num_tiles - 1) * tile) for tile in range(num_tiles))
    return tuple(dict.fromkeys(starts))  # Of a patch of few voxels, neighbours may fall together.


def gaussian_weights(patch: int, sigma: float, centre: GaussianCentre = "middle") -> Tensor:
    """Return the weight of a tile's voxels along one axis, float32 (patch,); a tile's is the product of three.

    Args:
        patch: Voxels along the axis.
        sigma: Standard deviation, as a share of the patch.
        centre: Where it is highest.

    Source:
        Isensee et al. 2021, Methods, inference; nnU-Net 2.8.1 for the other centre.
    """
    peak = (patch - 1) / 2 if centre == "middle" else patch // 2
    position = torch.arange(patch, dtype=torch.float64) - peak
    return torch.exp(-0.5 * (position / (sigma * patch)) ** 2).clamp(min=SMALLEST_WEIGHT).float()


def tiles_along(shape: Shape, tile_shape: Shape, step: float) -> tuple[tuple[int, ...], ...]:
    """Return the first voxels of the tiles along each axis of a scan that is padded to one tile at least."""
    return tuple(
        tuple(range(size)) if tile == 1 else tile_starts(max(size, tile), tile, step)
        for size, tile in zip(shape, tile_shape, strict=True)
    )


def sweep_order(shape: Shape, tiling: Tiling, num_classes: int, max_bytes: int | None) -> tuple[int, int, int]:
    """Return the axes of a scan in the order in which to sweep it: as stored, if memory allows, else the least front.

    Args:
        shape: Of the scan, in voxels.
        tiling: Tiles.
        num_classes: Outputs of the networks.
        max_bytes: Largest front; None for no limit.
    """
    starts = tiles_along(shape, tiling.tile_shape, tiling.step)

    def size(order: tuple[int, ...]) -> int:
        voxels = front_voxels([starts[axis] for axis in order], tuple(tiling.tile_shape[axis] for axis in order))
        return voxels * num_classes * FLOAT_BYTES

    stored = (0, 1, 2)
    if max_bytes is None or size(stored) <= max_bytes:
        return stored
    first, second, third = min(permutations(stored), key=size)
    return first, second, third


def predict_parts(
    networks: Sequence[nn.Module],
    image: Tensor,
    tiling: Tiling,
    computing: Computing,
    order: Sequence[int] = (0, 1, 2),
    report: Callable[[float], None] = lambda _: None,
) -> Iterator[Part]:
    """Give the logits of a scan part after part, each as soon as no later tile can change it.

    Only the front under work is held: about half a layer of tiles.

    Args:
        networks: Evaluating, on the device of `computing`; the mean of their logits counts.
        image: Prepared, float32 (C, Z, Y, X). A side shorter than the patch is padded by zeros on both ends.
        tiling: Tiles, weights, mirroring.
        computing: Devices and precision.
        order: Axes of the scan in the order in which it is swept; the axes of parts have this order too.
        report: Called with every further share of the work that is done; the shares sum to 1.

    Yields:
        Parts that make up the scan, as `Front.take_finished` orders them.
    """
    padded, inside = _padded(image.permute(0, *_spatial(order)), tuple(tiling.tile_shape[axis] for axis in order))
    viewer = _Viewer(networks, padded.to(computing.device), tiling, computing, order)
    looks = viewer.looks
    share = len(viewer.constant) / (len(networks) * len(looks))
    profiles = [gaussian_weights(size, tiling.gaussian_sigma, tiling.gaussian_centre) for size in viewer.tile_shape]
    with Front(viewer.starts, viewer.tile_shape, profiles, computing.shelter) as front:
        for first in range(0, len(looks), tiling.batch_size):
            after = first + tiling.batch_size
            for look, logits_CZYX in viewer.view(looks[first:after]):
                front.add(logits_CZYX, look.place, look.mirrored, share)
                del logits_CZYX  # else it would live beside the next
            report(len(looks[first:after]) / len(looks))
            for part in front.take_finished(looks[after].place if after < len(looks) else None):
                yield from _without_padding(part, inside)


class _Look(NamedTuple):
    """A tile as networks see it once; its axes have the order of the sweep.

    Attributes:
        place: First voxel.
        mirrored: Axes along which it runs backwards.
    """

    place: tuple[int, ...]
    mirrored: tuple[int, ...]


class _Viewer:
    """Shows the tiles of a scan to networks; tiles of one and the same value are seen once, as their logits are equal.

    Args:
        padded: The scan, (C, Z, Y, X), on the device of the networks; its axes have the order of the sweep.
        order: Axes of the scan as networks see it in the order of the sweep.
    """

    def __init__(
        self, networks: Sequence[nn.Module], padded: Tensor, tiling: Tiling, computing: Computing, order: Sequence[int]
    ) -> None:
        self.networks = networks
        self.padded = padded
        self.computing = computing
        self.order = order
        self.is_2d = len(tiling.patch_size) == 2
        self.tile_shape = tuple(tiling.tile_shape[axis] for axis in order)
        self.starts = tiles_along(tuple(padded.shape[1:]), self.tile_shape, tiling.step)
        places = list(product(*self.starts))
        self.constant = {place: _only_values(self._tile(place)) for place in places}
        axes = [order.index(axis + 3 - len(tiling.patch_size)) for axis in tiling.mirror_axes]
        mirrors = [subset for count in range(len(axes) + 1) for subset in combinations(axes, count)]
        self.looks = [_Look(place, mirrored) for place in places for mirrored in mirrors]
        self.seen: dict[tuple[float, ...], list[Tensor]] = {}

    def view(self, looks: Sequence[_Look]) -> Iterator[tuple[_Look, Tensor]]:
        """Give the logits of every look by every network, (C, Z, Y, X) in the order of the sweep, as mirrored."""
        varied = [look for look in looks if self.constant[look.place] is None]
        if varied:
            tiles = [self._tile(look.place).flip(_spatial(look.mirrored)) for look in varied]
            x_BCZYX = torch.stack(tiles)
            for network in self.networks:
                yield from zip(varied, self._logits(network, x_BCZYX), strict=True)
        for look in looks:
            values = self.constant[look.place]
            if values is not None:
                if values not in self.seen:
                    # Only the last ones are kept, as the logits of a tile are large.
                    tile = self._tile(look.place)[None]
                    self.seen = {values: [self._logits(network, tile)[0] for network in self.networks]}
                yield from ((look, logits) for logits in self.seen[values])

    def _tile(self, place: tuple[int, ...]) -> Tensor:
        box = (slice(start, start + size) for start, size in zip(place, self.tile_shape, strict=True))
        return self.padded[(slice(None), *box)]

    def _logits(self, network: nn.Module, x_BCZYX: Tensor) -> Tensor:
        as_stored = [2 + self.order.index(axis) for axis in range(3)]
        x = x_BCZYX.permute(0, 1, *as_stored).contiguous()
        with torch.inference_mode(), mixed_precision(x.device, self.computing.precision):
            logits: Tensor = network(x.squeeze(2) if self.is_2d else x)
        logits = logits.unsqueeze(2) if self.is_2d else logits
        return logits.permute(0, 1, *(2 + axis for axis in self.order))


def _padded(image: Tensor, tile_shape: Shape) -> tuple[Tensor, tuple[slice, slice, slice]]:
    """Return a scan with zeros around it, so that a tile fits, and where it lies in that."""
    shape = image.shape[1:]
    padding = [max(tile - size, 0) for tile, size in zip(tile_shape, shape, strict=True)]
    rows, columns, lines = (
        slice(missing // 2, missing // 2 + size) for missing, size in zip(padding, shape, strict=True)
    )
    if any(padding):
        sides = [side for missing in padding[::-1] for side in (missing // 2, missing - missing // 2)]
        image = functional.pad(image, sides)
    return image, (rows, columns, lines)


def _without_padding(part: Part, inside: tuple[slice, slice, slice]) -> Iterator[Part]:
    """Give what of a part lies inside the scan, if anything does."""
    (rows, kept_rows), (columns, kept_columns) = (
        _inside(place, kept) for place, kept in zip((part.rows, part.columns), inside[:2], strict=True)
    )
    if rows.start < rows.stop and columns.start < columns.stop:
        yield Part(rows, columns, part.logits[:, kept_rows, kept_columns, inside[2]])


def _inside(place: slice, kept: slice) -> tuple[slice, slice]:
    """Return the kept range of a place, counted from the first kept voxel, and counted from the first of the place."""
    first, after = max(place.start, kept.start), min(place.stop, kept.stop)
    return slice(first - kept.start, after - kept.start), slice(first - place.start, after - place.start)


def _only_values(tile: Tensor) -> tuple[float, ...] | None:
    """Return the value of each channel of a tile, (C, Z, Y, X), if it has one value each."""
    values = tile[:, :1, :1, :1]
    for part in (tile[:, ::7, ::7, ::7], tile):  # most tiles differ in few voxels already
        if not bool((part == values).all()):
            return None
    return tuple(values.flatten().tolist())


def _spatial(axes: Sequence[int]) -> tuple[int, ...]:
    """Return axes of space as axes of an array (C, Z, Y, X)."""
    return tuple(1 + axis for axis in axes)
