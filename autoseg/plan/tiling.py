"""What predicting a scan takes, from the specification: tiles, passes through the network, peak memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.core.geometry import Shape
from autoseg.plan.cost import num_parameters, stage_shapes
from autoseg.plan.memory import SINGLE, Arithmetic, MemoryEstimate, library_bytes, program_bytes
from autoseg.plan.rules import CostRules
from autoseg.plan.schema import ConfigurationPlan, NetworkPlan

MERGED_ROWS = 16
"""Most rows of merged logits that are handed over at once."""


@dataclass(frozen=True)
class Scan:
    """A scan to be predicted, as the network sees it.

    Attributes:
        shape: In voxels, (z, y, x), transposed axes.
        num_networks: Whose logits are averaged.
        mirror: Whether the mean over the mirror images that the configuration allows is taken.
        tiles_at_once: Tiles in a batch.
        tile_step: Distance of neighbouring tiles, as a share of the patch.
    """

    shape: Shape
    num_networks: int
    mirror: bool
    tiles_at_once: int
    tile_step: float


def prediction_memory(
    configuration: ConfigurationPlan, scan: Scan, arithmetic: Arithmetic, rules: CostRules
) -> MemoryEstimate:
    """Return the peak of predicting a scan, from the prepared scan to class indices.

    Args:
        configuration: Network and patch.
        scan: Its size, and how it is predicted.
        arithmetic: Of the device.
        rules: Constants.
    """
    network = configuration.network
    parameters = SINGLE * num_parameters(network)
    tile = tile_shape(configuration)
    padded = [max(size, edge) for size, edge in zip(scan.shape, tile, strict=True)]
    logits = SINGLE * network.num_outputs * scan.tiles_at_once * math.prod(tile)
    rows = min(tile[0] + _rows_between(tile, padded, scan), padded[0])
    merged = rows + 2 * min(MERGED_ROWS, tile[0], padded[0])
    scan_bytes = SINGLE * network.num_input_channels * (math.prod(padded) + math.prod(scan.shape) * arithmetic.is_cpu)
    return MemoryEstimate(
        program=program_bytes(arithmetic, rules),
        weights=scan.num_networks * parameters,
        optimizer=0,
        gradients=0,
        activations=_seen_bytes(network, configuration.patch_size, scan.tiles_at_once, arithmetic),
        loss=0,
        workspace=logits * min(num_passes(configuration, scan), 2) + library_bytes(arithmetic, rules),
        data=scan_bytes + SINGLE * network.num_outputs * merged * padded[1] * padded[2] + math.prod(scan.shape),
    )


def _rows_between(tile: Shape, padded: Sequence[int], scan: Scan) -> int:
    """Return the rows from the first to the last layer of tiles that share a batch."""
    per_layer = math.prod(
        num_tiles(size, edge, scan.tile_step) for size, edge in zip(padded[1:], tile[1:], strict=True)
    )
    layers = max(scan.tiles_at_once // per_layer, 1)
    all_layers = num_tiles(padded[0], tile[0], scan.tile_step)
    apart = (padded[0] - tile[0]) / max(all_layers - 1, 1)
    return math.ceil((min(layers, all_layers) - 1) * apart)


def num_passes(configuration: ConfigurationPlan, scan: Scan) -> int:
    """Return how many passes through a network each tile takes: one per network and mirror image."""
    return scan.num_networks * (2 ** len(configuration.mirror_axes) if scan.mirror else 1)


def tiles_of(configuration: ConfigurationPlan, scan: Scan) -> int:
    """Return how many tiles cover a scan."""
    tile = tile_shape(configuration)
    return math.prod(
        num_tiles(max(size, edge), edge, scan.tile_step) for size, edge in zip(scan.shape, tile, strict=True)
    )


def tile_shape(configuration: ConfigurationPlan) -> Shape:
    """Return the shape of a tile, (z, y, x): one slice deep for networks that see slices."""
    return (1,) * (3 - len(configuration.patch_size)) + configuration.patch_size


def num_tiles(size: int, patch: int, step: float) -> int:
    """Return how many tiles cover an axis; a patch of one voxel is not overlapped.

    Args:
        size: Voxels along the axis, at least `patch`.
        patch: Voxels of a tile.
        step: Largest distance of neighbours, as a share of the patch.
    """
    return size if patch == 1 else math.ceil((size - patch) / (patch * step)) + 1


def _seen_bytes(network: NetworkPlan, patch_size: Sequence[int], batch: int, arithmetic: Arithmetic) -> int:
    """Return the bytes of feature maps when most are held while tiles pass: in the decoder, beside all skips."""
    maps = [
        arithmetic.number_bytes * batch * features * math.prod(shape)
        for features, shape in zip(network.features, stage_shapes(network, patch_size), strict=True)
    ]
    # The first convolution of a decoder stage reads what is joined, twice as wide as what it puts out; a CPU copies it.
    held = 5 if arithmetic.is_cpu else 4
    return max(sum(maps) + sum(maps[stage + 1 : -1]) + held * maps[stage] for stage in range(len(maps) - 1))
