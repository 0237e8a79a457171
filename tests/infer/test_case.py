from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoseg.core.errors import PredictionError
from autoseg.core.geometry import Geometry
from autoseg.data.image import Image
from autoseg.infer.case import Model, Settings, default_settings, segment
from autoseg.plan.rulebook import load_rulebook
from autoseg.preprocess.case import prepare_image
from tests.preprocess.plans import configuration, plan

SETTINGS = Settings(device=torch.device("cpu"), precision="float32", mirror=True, batch_size=2)


class Threshold(nn.Module):
    """Class 0 below 0.5, class 1 up to 1.5, class 2 above."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(x), x - 0.5, 2 * x - 2), dim=1)


def _blocks() -> Image:
    array = np.zeros((11, 14, 20), np.float32)
    array[2:9, 3:12, 4:18] = 1
    array[4:7, 5:9, 6:12] = 2
    return Image(array[None], Geometry(spacing=(2, 1, 1), origin=(5, 6, 7)))


@pytest.mark.parametrize(
    ("spacing", "patch"), [((2.0, 1.0, 1.0), (8, 8, 8)), ((2.0, 1.0, 1.0), (4, 16, 32)), ((1.0, 1.0), (8, 8))]
)
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_a_scan_is_segmented_on_its_grid(
    spacing: tuple[float, ...], patch: tuple[int, ...], transpose: tuple[int, int, int]
) -> None:
    image = _blocks()
    seen = tuple(image.geometry.spacing[axis] for axis in transpose)[-len(spacing) :]
    settings = configuration(seen, patch)
    model = Model(plan(transpose), settings, (Threshold(),))
    label = segment(prepare_image(image, model.plan, settings), model, SETTINGS)
    assert np.array_equal(label.array, np.array([0, 1, 5])[image.array[0].astype(int)])
    assert label.array.dtype == np.uint8
    assert label.geometry == image.geometry


def test_the_reported_shares_sum_to_one() -> None:
    settings = configuration()
    model = Model(plan(), settings, (Threshold(),))
    shares: list[float] = []
    segment(prepare_image(_blocks(), model.plan, settings), model, SETTINGS, shares.append)
    assert len(shares) > 1
    assert sum(shares) == pytest.approx(1)


class Overflow(nn.Module):
    """Leaves the range of its numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, x, x * torch.inf * 0), dim=1)


def test_output_that_is_no_number_is_an_error() -> None:
    settings = configuration()
    model = Model(plan(), settings, (Overflow(),))
    with pytest.raises(PredictionError, match="la_1: logits must be finite numbers, got infinity or NaN, in float32"):
        segment(prepare_image(_blocks(), model.plan, settings, "la_1"), model, SETTINGS)


def test_a_gpu_takes_the_batch_of_training_and_a_cpu_one_tile() -> None:
    settings = configuration()
    assert default_settings(torch.device("cuda"), settings).batch_size == settings.batch_size
    assert default_settings(torch.device("cpu"), settings).batch_size == 1


def test_paces_are_those_of_the_rules() -> None:
    cpu, settings, rules = torch.device("cpu"), configuration(), load_rulebook().blueprint
    standard = default_settings(cpu, settings)
    fast, accurate = (default_settings(cpu, settings, pace) for pace in ("fast", "accurate"))
    assert (standard.mirror, standard.tile_step) == (True, None)
    assert (fast.mirror, fast.tile_step, fast.precision) == (False, rules.fast.tile_step, standard.precision)
    assert (accurate.mirror, accurate.tile_step, accurate.precision) == (True, rules.accurate.tile_step, "float32")
    assert rules.accurate.tile_step < rules.inference.tile_step < rules.fast.tile_step
    assert standard.merging_share == rules.merging.memory_share


def test_a_smaller_step_sees_more_tiles() -> None:
    image, settings = _blocks(), configuration((2.0, 1.0, 1.0))
    model = Model(plan(), settings, (Threshold(),))
    prepared = prepare_image(image, model.plan, settings)
    counts = []
    for step in (1.0, None, 0.25):
        shares: list[float] = []
        label = segment(prepared, model, replace(SETTINGS, mirror=False, tile_step=step), shares.append)
        assert np.array_equal(label.array > 0, image.array[0] > 0)
        counts.append(len(shares))
    assert counts == sorted(counts)
    assert counts[0] < counts[1] < counts[2]
