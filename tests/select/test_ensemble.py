"""Configurations of different spacing decide together, as the mean of whole fields of probabilities would."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoseg.core.geometry import Geometry
from autoseg.core.labels import Labels, declare_regions
from autoseg.data.image import Image
from autoseg.infer.case import Model, Onlooker, predict_classes, segment
from autoseg.infer.export import Place
from autoseg.preprocess.case import prepare_image
from autoseg.select.ensemble import Member, segment_together
from tests.infer.test_case import SETTINGS
from tests.preprocess.plans import LABELS, configuration, plan

REGIONS = declare_regions({"whole": [1, 5], "core": [5]}, painted=[1, 5])


class Leaning(nn.Module):
    """Leans towards classes by brightness, each instance in another way."""

    def __init__(self, num_outputs: int, seed: int) -> None:
        super().__init__()
        self.factors = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, num_outputs)).astype(np.float32))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x * self.factors[0].reshape(shape) * 4 + self.factors[1].reshape(shape)


def _image() -> Image:
    array = np.random.default_rng(0).normal(0.5, 1.0, (1, 9, 12, 14)).astype(np.float32)
    array[:, :2] = 0
    return Image(array, Geometry(spacing=(2, 1, 1), origin=(5, 6, 7)))


def _members(labels: Labels, transpose: tuple[int, int, int] = (0, 1, 2)) -> list[Member]:
    spacings = ((2.0, 1.0, 1.0), (1.7, 1.3, 0.8), (1.2, 1.1))
    members = []
    for seed, spacing in enumerate(spacings):
        chosen = configuration(spacing, (4, 8, 8)[-len(spacing) :], num_outputs=labels.num_outputs)
        planned = plan(transpose, labels)
        model = Model(planned, chosen, (Leaning(labels.num_outputs, seed),))
        members.append(Member(prepare_image(_image(), planned, chosen), model, SETTINGS))
    return members


def _probabilities(member: Member, *, regions: bool) -> NDArray[np.float32]:
    """Return the whole field, (outputs, z, y, x)."""
    shape = (member.model.plan.labels.num_outputs, *member.prepared.properties.cropped_shape)
    field = np.full(shape, np.nan, dtype=np.float32)

    def observe(place: Place, logits: Tensor) -> None:
        field[(slice(None), *place)] = (logits.sigmoid() if regions else logits.softmax(dim=0)).numpy()

    predict_classes(member.prepared, member.model, member.settings, onlooker=Onlooker(observe))
    return field


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["classes", "regions"])
def test_the_mean_probability_decides(labels: Labels, transpose: tuple[int, int, int]) -> None:
    members = _members(labels, transpose)
    wanted = [(0, 1), (0, 2), (0, 1, 2)]
    found = segment_together(members, wanted)
    for together, label in zip(wanted, found, strict=True):
        fields = [_probabilities(members[number], regions=bool(labels.regions)) for number in together]
        mean = np.mean(fields, axis=0)
        if labels.regions:
            classes = np.select([mean[1] > 0.5, mean[0] > 0.5], [2, 1], 0)
            sure = (np.abs(mean - 0.5) > 0.002).all(axis=0)
        else:
            classes = mean.argmax(axis=0)
            ranked = np.sort(mean, axis=0)
            sure = ranked[-1] - ranked[-2] > 0.002
        box = tuple(slice(*span) for span in members[0].prepared.properties.crop_box)
        indices = labels.to_indices(label.array.transpose(transpose))[box]
        assert sure.mean() > 0.95
        assert (indices == classes)[sure].all()
        assert len(np.unique(indices)) > 1
        assert label.geometry == _image().geometry


def test_an_ensemble_differs_from_each_of_its_members() -> None:
    members = _members(LABELS)
    (together,) = segment_together(members, [(0, 1)])
    alone = [segment(member.prepared, member.model, member.settings) for member in members[:2]]

    assert all((together.array != label.array).any() for label in alone)
    agreed = alone[0].array == alone[1].array
    assert (together.array == alone[0].array)[agreed].all()


def test_a_member_with_itself_is_itself() -> None:
    member = _members(LABELS)[0]

    (together,) = segment_together([member, member], [(0, 1)])

    assert np.array_equal(together.array, segment(member.prepared, member.model, member.settings).array)


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["classes", "regions"])
def test_the_mean_probabilities_are_shown(labels: Labels) -> None:
    members = _members(labels)[:2]
    shown = np.full_like(_probabilities(members[0], regions=bool(labels.regions)), np.nan)

    def observe(place: Place, logits: Tensor) -> None:
        shown[(slice(None), *place)] = (logits.sigmoid() if labels.regions else logits.softmax(dim=0)).numpy()

    segment_together(members, [(0, 1)], onlooker=Onlooker(observe))
    mean = np.mean([_probabilities(member, regions=bool(labels.regions)) for member in members], axis=0)
    np.testing.assert_allclose(shown, mean, atol=0.001)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    shares: list[float] = []
    settings = replace(SETTINGS, scratch=tmp_path)
    segment_together([replace(member, settings=settings) for member in _members(LABELS)], [(0, 1)], shares.append)

    assert list(tmp_path.iterdir()) == []
    assert sum(shares) == pytest.approx(1)
