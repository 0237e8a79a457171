"""Classes that are told apart by side alone."""

from pathlib import Path

import numpy as np
import pytest

from autoseg.core.geometry import Geometry
from autoseg.plan import planner
from autoseg.plan.mirroring import Sides
from tests.end_to_end.runs import ImageAndLabel, dice_by_class, tiny_run, write_cases

LEFT_RIGHT_ROWS = Geometry(spacing=(2.0, 1.0, 1.0), direction=(0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
"""Rows (array axis 1) run from right to left, columns from front to back."""

DESCRIPTION: dict[str, object] = {"labels": {"background": 0, "left organ": 1, "right organ": 2}}


def _mirror_images(rng: np.random.Generator) -> ImageAndLabel:
    """Two boxes, one the mirror image of the other along the rows: each is brighter towards the middle."""
    label = np.zeros((8, 24, 20), dtype=np.uint8)
    bright = np.zeros(label.shape)
    for value, first, brighter in ((1, int(rng.integers(2, 5)), 3), (2, int(rng.integers(14, 17)), 0)):
        plane, column = int(rng.integers(1, 4)), int(rng.integers(2, 11))
        label[plane : plane + 4, first : first + 6, column : column + 6] = value
        bright[plane : plane + 4, first + brighter : first + brighter + 3, column : column + 6] = 2.0
    return rng.normal(0.0, 0.2, label.shape) + 2.0 * (label > 0) + bright + 10, label


@pytest.mark.slow
def test_left_and_right_are_learnt(tmp_path: Path) -> None:
    source = write_cases(tmp_path / "data", _mirror_images, DESCRIPTION, LEFT_RIGHT_ROWS)
    _, result = tiny_run(tmp_path, source, num_epochs=20)
    assert min(dice_by_class(result).values()) > 0.75


@pytest.mark.slow
def test_mirroring_would_confuse_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same training with the left-right axis mirrored cannot do better than guess: 0.5 in the mean."""
    monkeypatch.setattr(planner, "find_sides", lambda *_: Sides((), None))
    source = write_cases(tmp_path / "data", _mirror_images, DESCRIPTION, LEFT_RIGHT_ROWS)
    _, result = tiny_run(tmp_path, source, num_epochs=20)
    assert sum(dice_by_class(result).values()) / 2 < 0.6
