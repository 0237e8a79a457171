"""Regions that lie in each other."""

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from autoseg import pipeline
from autoseg.core.geometry import Geometry
from autoseg.core.workspace import Workspace
from autoseg.data.image import Image, read_label
from autoseg.infer.case import Onlooker
from autoseg.infer.export import Place
from autoseg.pipeline.prediction.models import load_model
from autoseg.plan.schema import ConfigurationName
from tests.end_to_end.runs import ImageAndLabel, dice_by_class, tiny_run, write_cases

SHELL, CORE = 7, 3
DESCRIPTION: dict[str, object] = {
    "labels": {"background": 0, "whole": [SHELL, CORE], "core": CORE},
    "regions_class_order": [SHELL, CORE],
}


def _nested(rng: np.random.Generator) -> ImageAndLabel:
    """A bright ball with a brighter core."""
    shape = (9, 22, 20)
    centre = [int(rng.integers(size // 3, size - size // 3)) for size in shape]
    distance = np.sqrt(((np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(axis=0))
    label = np.where(distance < 3, CORE, np.where(distance < 6, SHELL, 0)).astype(np.uint8)
    return rng.normal(0.0, 0.3, shape) + 2.0 * (label > 0) + 2.0 * (label == CORE) + 10, label


@pytest.mark.slow
def test_nested_regions_are_learnt(tmp_path: Path) -> None:
    """The whole is found with its core, and scored so; what is painted keeps the two values apart."""
    source = write_cases(tmp_path / "data", _nested, DESCRIPTION, Geometry(spacing=(2.0, 1.0, 1.0)))
    workspace, result = tiny_run(tmp_path, source, num_epochs=20)
    dice = dice_by_class(result)
    assert list(dice) == ["whole", "core"]
    assert dice["whole"] > 0.85
    assert dice["core"] > 0.8
    for case in result.evaluation.cases:
        predicted = read_label(workspace.crossval(result.name) / f"{case.name}.nii.gz").array
        assert set(np.unique(predicted)) == {0, SHELL, CORE}
    whole, core = _regions_found(workspace, "3d_fullres")
    assert whole["core"] > 0.9
    assert whole["shell"] > 0.8
    assert whole["background"] < 0.1
    assert core["core"] > 0.7
    assert core["shell"] < 0.1


def _regions_found(workspace: Workspace, name: ConfigurationName) -> list[dict[str, float]]:
    """Return for each output of the network which share of core, shell and background of a new scan it takes in."""
    image, label = _nested(np.random.default_rng(77))
    predictor = load_model(workspace, pipeline.ModelChoice(name, (0,), "cpu", mirror=True))
    inside = np.zeros((2, *label.shape), dtype=bool)

    def keep(place: Place, logits: Tensor) -> None:
        inside[(slice(None), *place)] = (logits > 0).numpy()

    scan = Image(image[None].astype(np.float32), Geometry(spacing=(2.0, 1.0, 1.0)))
    predictor.predict_prepared(predictor.prepare(scan), onlooker=Onlooker(keep))
    parts = {"core": label == CORE, "shell": label == SHELL, "background": label == 0}
    return [{part: float(found[where].mean()) for part, where in parts.items()} for found in inside]
