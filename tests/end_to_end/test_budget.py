"""A run within a budget of time: five folds, selection, postprocessing and pictures, and over in time."""

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.core.errors import PlanError
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.pipeline.budget.schedule import Allocation
from autoseg.report.run import draw_run
from tests.end_to_end.blobs import write_blobs, write_tiny_rules

BUDGET_S = 45.0
MOST = 1.1
"""Times its budget, that a run may take."""


def _affordable(workspace: Workspace, request: pipeline.RunRequest) -> pipeline.RunRequest:
    """Return the request, with as much more time as a busy machine says that it needs at least."""
    trial = Workspace(workspace.root.with_name("trial"))
    with pytest.raises(PlanError, match=r"Give at least \d+s") as caught:
        pipeline.run(trial, replace(request, budget_s=1.0), Silent())
    least_s = float(re.findall(r"at least (\d+)s", str(caught.value))[0])
    return replace(request, budget_s=max(BUDGET_S, 2.0 * least_s))


@pytest.mark.slow
def test_a_small_budget_holds_and_buys_everything(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    request = pipeline.RunRequest(
        source=write_blobs(tmp_path / "data", num_cases=10),
        data=pipeline.DataOptions(group_by=r"(pat\d+)_", num_folds=5, num_workers=0),
        planning=pipeline.PlanOptions(preset="cpu", rules=write_tiny_rules(tmp_path / "rules")),
        configurations=None,
        folds=None,
        num_epochs=None,
        budget_s=BUDGET_S,
        device="cpu",
        seed=1,
    )
    request = _affordable(workspace, request)
    began_s = time.monotonic()
    result = pipeline.run(workspace, request, Silent())
    pictures = draw_run(workspace, result)
    took_s = time.monotonic() - began_s

    assert request.budget_s is not None
    assert took_s <= MOST * request.budget_s
    assert took_s >= 0.5 * request.budget_s
    assert [list(workspace.folds(name)) for name in result.trained] == [[0, 1, 2, 3, 4]] * len(result.trained)
    assert result.selection is not None
    assert result.selection.num_groups == 5
    assert len(result.evaluation.cases) == 10
    assert {case.group for case in result.evaluation.cases} == {f"pat{number}" for number in range(5)}
    assert all(picture.exists() for picture in pictures)
    allocation = Allocation.load(workspace.allocation)
    assert result.allocation == allocation
    assert len(allocation.begun) == 5 * len(result.trained)
    assert all(
        allocation.begun[f"{share.configuration} fold {fold}"] <= share.training_s
        for share in allocation.shares
        for fold in range(5)
    )
    written = {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*.json") if path != workspace.run}
    again = pipeline.run(workspace, request, Silent())
    assert again.model_copy(update={"seconds": result.seconds}) == result
    assert written == {path: path.stat().st_mtime_ns for path in written}
