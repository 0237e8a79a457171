"""A cascade predicts its stages one after the other, each on its own grid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoseg.core.geometry import Geometry
from autoseg.data.image import Image
from autoseg.infer.case import Model, predict_classes, predict_classes_on, prepare_scan, segment
from autoseg.infer.predictor import Predictor
from tests.infer.test_case import SETTINGS, Threshold
from tests.preprocess.plans import configuration, network, plan

FINE, COARSE = (1.0, 1.0, 1.0), (2.0, 2.0, 2.0)
GEOMETRY = Geometry(spacing=(1, 1, 1), origin=(5, 6, 7))


class TellsApart(nn.Module):
    """Where the image is bright, the class that the earlier stage says; background elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, :1] - 0.5
        return torch.cat((-bright, bright * x[:, 1:2], bright * x[:, 2:3]), dim=1)


class Everywhere(nn.Module):
    """Class 2 in the right half of whatever it sees whole, class 1 in the left."""

    def forward(self, x: Tensor) -> Tensor:
        side = torch.linspace(-1, 1, x.shape[-1]).expand_as(x)
        return torch.cat((torch.full_like(x, -5), -side, side), dim=1)


def _cascade(earlier: nn.Module, later: nn.Module) -> Model:
    """Return a first stage that sees all of a scan of 16 x 16 x 24 voxels, and a second that sees 8 x 8 x 8 of them."""
    first = Model(plan(), configuration(COARSE, (8, 8, 12)), (earlier,))
    fine = configuration(FINE, (8, 8, 8)).model_copy(
        update={"previous_stage": "3d_lowres", "network": network(num_channels=3)}
    )
    return Model(plan(), fine, (later,), first)


def _two_blocks() -> Image:
    """Two equal blocks, left and right."""
    array = np.zeros((16, 16, 24), np.float32)
    array[0, 0, 0] = array[-1, -1, -1] = 0.01
    array[5:10, 3:12, 2:9] = array[5:10, 3:12, 15:22] = 1
    return Image(array[None], GEOMETRY)


def test_the_second_stage_sees_what_the_first_one_found() -> None:
    """Only the first stage sees where left is, only the second where the blocks end."""
    image = _two_blocks()
    label = Predictor(_cascade(Everywhere(), TellsApart()), replace(SETTINGS, mirror=False)).predict(image)
    bright = image.array[0] == 1
    side = np.where(np.arange(24) < 12, 1, 5)
    assert np.array_equal(label.array, np.where(bright, side, 0))
    assert label.geometry == GEOMETRY


def test_mirroring_moves_the_earlier_prediction_with_the_image() -> None:
    image = _two_blocks()
    model = _cascade(Threshold(), TellsApart())
    prepared = prepare_scan(image, model, "scan")
    assert prepared.earlier is not None
    one_way, both_ways = (segment(prepared, model, replace(SETTINGS, mirror=mirror)) for mirror in (False, True))
    assert np.array_equal(one_way.array, both_ways.array)
    assert np.array_equal(one_way.array, (image.array[0] == 1).astype(np.uint8))


def test_the_first_stage_is_brought_to_the_grid_of_the_second() -> None:
    model = _cascade(Threshold(), TellsApart())
    assert model.earlier is not None
    prepared = prepare_scan(_two_blocks(), model.earlier, "scan")
    assert prepared.array.shape == (1, 8, 8, 12)
    found = predict_classes_on(((16, 16, 24), FINE), prepared, model.earlier, SETTINGS)
    assert found.shape == (16, 16, 24)
    assert np.array_equal(found, predict_classes(prepared, model.earlier, SETTINGS))
    on_own = predict_classes_on(((8, 8, 12), COARSE), prepared, model.earlier, SETTINGS)
    assert np.array_equal(on_own, (prepared.array[0] > 0.5).astype(np.uint8))


def test_the_reported_shares_of_all_stages_sum_to_one() -> None:
    model = _cascade(Threshold(), TellsApart())
    shares: list[float] = []
    segment(prepare_scan(_two_blocks(), model, "scan"), model, SETTINGS, shares.append)
    assert sum(shares) == pytest.approx(1)
    assert len(shares) > 2
