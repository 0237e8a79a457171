"""A run within a budget of time: five folds, selection, postprocessing and pictures, and over in time."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autoseg import pipeline
from autoseg.core.errors import PlanError
from autoseg.core.progress import Silent
from autoseg.core.workspace import FoldFolder, Workspace
from autoseg.pipeline.budget.schedule import Allocation
from autoseg.pipeline.budget.spent import BEFORE
from autoseg.report.run import draw_run
from autoseg.train.record import TrainingRecord
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_run_that_is_killed_goes_on_within_its_budget(tmp_path: Path) -> None:
    """Killed while it is planned and while it trains, and given again after a file was touched: nothing trains anew."""
    workspace, source = Workspace(tmp_path / "work"), write_blobs(tmp_path / "data")
    budget_s = 30.0
    command = [sys.executable, "-m", "autoseg", "run", str(source), "--workspace", str(workspace.root)]
    command += ["--rules", str(write_tiny_rules(tmp_path / "rules")), "--preset", "cpu", "--num-folds", "3"]
    command += ["--folds", "0,1", "--budget", f"{budget_s:.0f}s", "--device", "cpu", "--workers", "0", "--jobs", "1"]
    first, second = (workspace.fold("3d_fullres", fold) for fold in (0, 1))
    _kill_when(command, workspace.fingerprint.exists)
    assert not workspace.allocation.exists()
    _kill_when(command, first.history.exists)
    allocated = Allocation.load(workspace.allocation)
    assert list(allocated.begun) == ["3d_fullres fold 0"]
    identity = _identity(first)
    said = subprocess.run(command, check=True, capture_output=True).stderr
    assert b"To train, of a budget of 30 s:" in said

    kept = Allocation.load(workspace.allocation)
    assert (kept.shares, list(kept.begun)) == (allocated.shares, ["3d_fullres fold 0", "3d_fullres fold 1"])
    assert kept.begun["3d_fullres fold 0"] == allocated.begun["3d_fullres fold 0"]
    assert TrainingRecord.load(first.record).identity == identity
    assert not list(workspace.root.glob("models/*/earlier"))
    assert not workspace.spent.exists()
    assert kept.begun["3d_fullres fold 1"] <= kept.shares[0].training_s
    assert 0 < pipeline.RunResult.load(workspace.run).seconds[BEFORE] < budget_s

    weights = [folder.weights.stat().st_mtime_ns for folder in (first, second)]
    os.utime(min((source / "labels").iterdir()))
    subprocess.run(command, check=True, capture_output=True)
    assert [folder.weights.stat().st_mtime_ns for folder in (first, second)] == weights
    assert Allocation.load(workspace.allocation) == kept


def _kill_when(command: list[str], is_time: Callable[[], bool]) -> None:
    """Kill a command as soon as it is time."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while not is_time():
            assert child.poll() is None, "the run ended before it could be killed"
            time.sleep(0.02)
        child.kill()


def _identity(folder: FoldFolder) -> str:
    """Return the identity of a training that was broken off."""
    document = torch.load(folder.checkpoint, map_location="cpu", weights_only=True)
    return str(document["identity"])
