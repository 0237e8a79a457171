"""Which models there are, and whether their files belong together."""

from pathlib import Path

import pytest

from autoseg.core.errors import PlanError, PredictionError
from autoseg.core.labels import declare_labels
from autoseg.core.workspace import Workspace
from autoseg.pipeline import ModelChoice
from autoseg.pipeline.prediction import load_model
from tests.preprocess import plans

PLAN = plans.plan().model_copy(update={"channels": ("T1",), "labels": declare_labels({0: "background", 1: "organ"})})


def test_an_empty_workspace_asks_for_a_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="Run `autoseg plan DATA` first"):
        load_model(Workspace(tmp_path), ModelChoice("3d_fullres", None, "cpu", mirror=True))


@pytest.mark.parametrize("folds", [None, (0, 3)])
def test_untrained_folds_are_named_with_the_command(tmp_path: Path, folds: tuple[int, ...] | None) -> None:
    PLAN.save(Workspace(tmp_path).plan)
    with pytest.raises(PredictionError, match="autoseg train --fold 0 --configuration 3d_fullres"):
        load_model(Workspace(tmp_path), ModelChoice("3d_fullres", folds, "cpu", mirror=True))
