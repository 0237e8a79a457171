from itertools import permutations, product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoseg.infer.merging import Front, Shelter, front_voxels
from autoseg.infer.tiles import gaussian_weights, tile_starts

CPU = torch.device("cpu")
SHAPE, TILE = (22, 19, 13), (8, 8, 8)
STARTS = [tile_starts(size, tile, 0.5) for size, tile in zip(SHAPE, TILE, strict=True)]


def _tile_logits(place: tuple[int, ...]) -> Tensor:
    return torch.randn((3, *TILE), generator=torch.Generator().manual_seed(hash(place)))


def _merge(shelter: Shelter) -> tuple[Tensor, int, int]:
    """Return the merged logits, the most voxels held at once, and the most cells on disk at once."""
    profiles = [gaussian_weights(tile, 0.125) for tile in TILE]
    places = list(product(*STARTS))
    merged = torch.full((3, *SHAPE), torch.nan)
    most_held = most_on_disk = 0
    with Front(STARTS, TILE, profiles, shelter) as front:
        for place, following in zip(places, [*places[1:], None], strict=True):
            front.add(_tile_logits(place), place, (), 1)
            most_held = max(most_held, sum(cell[0].numel() for cell in front.sums.values()))
            most_on_disk = max(most_on_disk, len(front.on_disk))
            for part in front.take_finished(following):
                merged[:, part.rows, part.columns] = part.logits
    return merged, most_held, most_on_disk


def _plainly() -> Tensor:
    """Merge the tiles in whole arrays."""
    rows, columns, lines = (gaussian_weights(tile, 0.125).double() for tile in TILE)
    weights = rows[:, None, None] * columns[:, None] * lines
    total, summed = torch.zeros(3, *SHAPE, dtype=torch.float64), torch.zeros(SHAPE, dtype=torch.float64)
    for place in product(*STARTS):
        box = tuple(slice(start, start + tile) for start, tile in zip(place, TILE, strict=True))
        total[:, *box] += weights * _tile_logits(place)
        summed[box] += weights
    return total / summed


def test_a_front_gives_the_mean_of_the_plain_way_and_holds_less() -> None:
    merged, most_held, _ = _merge(Shelter(CPU))
    assert torch.allclose(merged.double(), _plainly(), rtol=1e-5, atol=1e-6)
    assert most_held <= front_voxels(STARTS, TILE) < 0.5 * merged[0].numel()


@pytest.mark.parametrize("max_bytes", [0, 3_000, 10**9])
def test_what_waits_on_disk_comes_back_as_it_was(tmp_path: Path, max_bytes: int) -> None:
    merged, _, most_on_disk = _merge(Shelter(CPU, max_bytes, tmp_path))
    assert torch.equal(merged, _merge(Shelter(CPU))[0])
    assert (most_on_disk > 0) == (max_bytes < 10**9)
    assert not list(tmp_path.iterdir())


def _fail_with_cells_on_disk(folder: Path) -> None:
    profiles = [gaussian_weights(tile, 0.125) for tile in TILE]
    with Front(STARTS, TILE, profiles, Shelter(CPU, 0, folder)) as front:
        front.add(torch.zeros(3, *TILE), (0, 0, 0), (), 1)
        front.add(torch.zeros(3, *TILE), (14, 11, 5), (), 1)
        assert list(folder.iterdir())
        raise KeyboardInterrupt


def test_files_are_removed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _fail_with_cells_on_disk(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_estimate_of_a_front_is_least_along_the_longest_axis() -> None:
    starts = [tile_starts(size, 8, 0.5) for size in (40, 16, 24)]
    sizes = {order: front_voxels([starts[axis] for axis in order], TILE) for order in permutations(range(3))}
    assert min(sizes, key=sizes.__getitem__)[0] == 0
    assert max(sizes, key=sizes.__getitem__)[0] == 1


def test_mirrored_logits_are_turned_back_and_shared() -> None:
    starts, profiles = [(0,), (0,), (0,)], [gaussian_weights(tile, 0.125) for tile in TILE]
    logits = _tile_logits((0, 0, 0))
    with Front(starts, TILE, profiles, Shelter(CPU)) as front:
        front.add(logits, (0, 0, 0), (), 0.25)
        front.add(logits.flip(1, 3), (0, 0, 0), (0, 2), 0.75)
        (part,) = front.take_finished(None)
    assert torch.allclose(part.logits, logits, atol=1e-5)
