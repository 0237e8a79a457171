"""Prediction: tiles as inference makes them."""

import pytest

from autoseg.infer.tiles import tile_starts
from autoseg.plan.memory import Arithmetic
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.tiling import Scan, num_passes, num_tiles, prediction_memory, tiles_of
from tests.train.plans import cube_configuration

RULES = load_rulebook().inferred.cost


@pytest.mark.parametrize(("size", "patch"), [(16, 16), (17, 16), (24, 16), (25, 16), (100, 24), (7, 7)])
@pytest.mark.parametrize("step", [0.5, 0.3])
def test_tiles_are_counted_as_inference_places_them(size: int, patch: int, step: float) -> None:
    assert num_tiles(size, patch, step) == len(tile_starts(size, patch, step))


def test_every_slice_is_a_tile_of_its_own() -> None:
    flat = cube_configuration((16, 16))
    scan = Scan(shape=(9, 10, 40), num_networks=1, mirror=True, tiles_at_once=4, tile_step=0.5)
    assert tiles_of(flat, scan) == 9 * 1 * 4
    assert num_passes(flat, scan) == 4
    apart = flat.model_copy(update={"mirror_axes": (0,)})
    assert num_passes(apart, scan) == 2


def test_prediction_grows_with_the_scan_by_what_holds_it() -> None:
    configuration = cube_configuration((16, 16, 16))
    small, large = (
        prediction_memory(
            configuration,
            Scan(shape=(depth, 64, 64), num_networks=1, mirror=True, tiles_at_once=1, tile_step=0.5),
            Arithmetic(is_cpu=True, number_bytes=4),
            RULES,
        )
        for depth in (64, 128)
    )
    voxels = 64 * 64 * 64
    # Twice the scan in float32, and one byte of class index: the merging buffer does not grow with the depth.
    assert large.data - small.data == voxels * (4 + 4 + 1)
    assert large.activations == small.activations
