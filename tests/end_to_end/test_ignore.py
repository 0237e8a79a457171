"""Sparse annotation: most slices say nothing."""

from pathlib import Path

import numpy as np
import pytest

from autoseg.core.geometry import Geometry
from autoseg.data.image import read_label
from autoseg.evaluate.metrics import overlaps
from tests.end_to_end.runs import ImageAndLabel, dice_by_class, tiny_run, write_cases

IGNORED = 9
DESCRIPTION: dict[str, object] = {"labels": {"background": 0, "organ": 4, "ignore": IGNORED}}


def _ball(rng: np.random.Generator) -> ImageAndLabel:
    """A bright ball and its whole truth."""
    shape = (9, 22, 20)
    centre = [int(rng.integers(size // 3, size - size // 3)) for size in shape]
    offset = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    label = np.where(np.sqrt((offset**2).sum(axis=0)) < 5, 4, 0).astype(np.uint8)
    return rng.normal(0.0, 0.3, shape) + 2.0 * (label > 0) + 10, label


def _annotated_in_a_third(rng: np.random.Generator) -> ImageAndLabel:
    image, label = _ball(rng)
    label[np.delete(np.arange(9), rng.choice(9, 3, replace=False))] = IGNORED
    return image, label


@pytest.mark.slow
def test_a_third_of_the_slices_teaches_whole_scans(tmp_path: Path) -> None:
    """Scored on all slices; a network that takes the others for background, or for a class, would miss most of them."""
    geometry = Geometry(spacing=(2.0, 1.0, 1.0))
    truth = write_cases(tmp_path / "truth", _ball, DESCRIPTION, geometry)
    source = write_cases(tmp_path / "data", _annotated_in_a_third, DESCRIPTION, geometry)
    workspace, result = tiny_run(tmp_path, source, num_epochs=14)
    assert dice_by_class(result)["organ"] > 0.9
    assert list(dice_by_class(result)) == ["organ"]
    for case in result.evaluation.cases:
        name = f"{case.name}.nii.gz"
        predicted = read_label(workspace.crossval(result.name) / name).array
        whole = read_label(truth / "labels" / name).array
        assert set(np.unique(predicted)) == {0, 4}
        dice = overlaps(predicted // 4, whole // 4, 2)[1].dice
        assert dice is not None
        assert dice > 0.85
