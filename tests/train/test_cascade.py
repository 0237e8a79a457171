"""The earlier stage's prediction, made worse."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.morphology import dilation, erosion
from torch import Tensor

from autoseg.train.cascade import (
    EarlierDraw,
    Operation,
    Removal,
    Reshaping,
    dilate,
    draw_earlier,
    earlier_channels,
    erode,
)
from tests.train.plans import augmentation


def _blobs(*shape: int, seed: int = 0) -> Tensor:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return torch.from_numpy(smooth > 0.05)


@pytest.mark.parametrize("radius", [1.0, 1.5, 3.0, 7.9])
@pytest.mark.parametrize("shape", [(24, 20), (14, 16, 18), (3, 30, 30)])
def test_balls_grow_and_shrink_masks_as_elsewhere(shape: tuple[int, ...], radius: float) -> None:
    """Against scikit-image with a ball of the same voxels; beyond the border nothing is known, as there."""
    mask = _blobs(*shape)
    reach = int(radius)
    offsets = np.indices((2 * reach + 1,) * len(shape)) - reach
    ball = (offsets**2).sum(axis=0) <= radius**2
    assert np.array_equal(dilate(mask, radius).numpy(), dilation(mask.numpy(), ball))
    assert np.array_equal(erode(mask, radius).numpy(), erosion(mask.numpy(), ball))


def _change(indices: list[int], *reshaped: Reshaping, removed: tuple[Removal, ...] = ()) -> list[int]:
    """Return a line of class indices after changes; voxels of two classes at once are an error."""
    line = torch.tensor([indices], dtype=torch.int16)
    channels = earlier_channels(line, [EarlierDraw(reshaped, removed)], 2)[0]
    assert int(channels.sum(dim=0).max()) <= 1
    return [int(entry) for entry in (channels * torch.tensor([[1], [2]])).sum(dim=0)]


LINE = [0, 0, 0, 1, 1, 1, 0, 1, 2, 2, 0, 0]


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("dilate", [0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 0, 0]),
        ("erode", [0, 0, 0, 0, 1, 0, 0, 0, 2, 2, 0, 0]),
        ("open", [0, 0, 0, 1, 1, 1, 0, 0, 2, 2, 0, 0]),
        ("close", [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 0, 0]),
    ],
)
def test_a_class_is_reshaped_and_the_other_yields(operation: Operation, expected: list[int]) -> None:
    assert _change(LINE, Reshaping(1, operation, 1.0)) == expected


def test_classes_are_reshaped_one_after_the_other() -> None:
    first, second = Reshaping(1, "dilate", 1.0), Reshaping(2, "dilate", 1.0)
    assert _change([1, 0, 2], first, second) == [1, 2, 2]
    assert _change([1, 0, 2], second, first) == [1, 1, 2]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (0.0, [0, 0, 2, 0, 1, 1, 1, 1, 0, 1]),
        (0.49, [0, 0, 2, 0, 1, 1, 1, 1, 0, 1]),
        (0.5, [1, 0, 2, 0, 1, 1, 1, 1, 0, 0]),
        (0.99, [1, 0, 2, 0, 1, 1, 1, 1, 0, 0]),
    ],
)
def test_a_small_component_is_removed_and_a_large_one_stays(choice: float, expected: list[int]) -> None:
    line = [1, 0, 2, 0, 1, 1, 1, 1, 0, 1]
    assert _change(line, removed=(Removal(1, choice, 0.15),)) == expected


def test_where_no_component_is_small_enough_nothing_is_removed() -> None:
    assert _change([1, 1, 0, 2], removed=(Removal(1, 0.0, 0.5), Removal(2, 0.5, 0.25))) == [1, 1, 0, 2]


def test_components_touch_at_corners() -> None:
    plane = torch.zeros((1, 8, 8), dtype=torch.int16)
    plane[0, 0, 0] = plane[0, 1, 1] = 1
    channels = earlier_channels(plane, [EarlierDraw(removed=(Removal(1, 0.0, 0.15),))], 1)
    assert not channels.any()


def test_each_sample_has_its_own_draw() -> None:
    lines = torch.tensor([LINE, LINE], dtype=torch.int16)
    channels = earlier_channels(lines, [EarlierDraw((Reshaping(1, "dilate", 1.0),)), EarlierDraw()], 2)
    assert not torch.equal(channels[0], channels[1])
    assert torch.equal(channels[1:], earlier_channels(lines[1:], [], 2))


def test_beyond_the_scan_there_is_no_class() -> None:
    assert not earlier_channels(torch.tensor([[-1, 0]], dtype=torch.int16), [], 2).any()


def test_things_happen_as_often_as_they_should() -> None:
    recipe = augmentation(
        0.0,
        earlier_reshaping_probability=0.4,
        earlier_reshaping_class_probability=0.5,
        earlier_removal_probability=0.2,
        earlier_removal_class_probability=0.5,
    )
    draws = [draw_earlier(np.random.default_rng(seed), recipe, 2) for seed in range(3000)]
    reshaped = [change for draw in draws for change in draw.reshaped]
    for label in (1, 2):
        assert np.mean([change.label == label for change in reshaped]) == pytest.approx(0.5, abs=0.05)
        removed = [any(removal.label == label for removal in draw.removed) for draw in draws]
        assert np.mean(removed) == pytest.approx(0.1, abs=0.02)
    assert len(reshaped) / len(draws) == pytest.approx(0.4, abs=0.04)
    for operation in ("dilate", "erode", "open", "close"):
        assert np.mean([change.operation == operation for change in reshaped]) == pytest.approx(0.25, abs=0.05)
    radii = [change.radius for change in reshaped]
    assert (min(radii), max(radii)) == pytest.approx((1, 8), abs=0.1)
    first = [draw.reshaped[0].label for draw in draws if len(draw.reshaped) == 2]
    assert np.mean(np.asarray(first) == 1) == pytest.approx(0.5, abs=0.1)


def test_probability_zero_draws_nothing() -> None:
    assert draw_earlier(np.random.default_rng(0), augmentation(0.0), 3) == EarlierDraw()


def test_a_draw_can_be_written_down() -> None:
    draw = draw_earlier(np.random.default_rng(0), augmentation(1.0), 3)
    read = json.loads(json.dumps(dataclasses.asdict(draw)))
    assert len(draw.reshaped) == len(draw.removed) == 3
    again = EarlierDraw(
        tuple(Reshaping(**entry) for entry in read["reshaped"]), tuple(Removal(**entry) for entry in read["removed"])
    )
    assert again == draw
