"""`autoseg status` as a user meets it; what it looks at is tested in tests/pipeline/running/test_status.py."""

import json
from pathlib import Path

import pytest

from autoseg.core.errors import DatasetError, TrainingError
from autoseg.core.workspace import Workspace
from autoseg.data.splits import Split, Splits
from autoseg.pipeline.running.status import noting_failure_of_run
from autoseg.pipeline.training.failure import noting_failure
from tests.cli.commands import run_command
from tests.pipeline.models import untrained


def test_what_is_done_missing_and_failed_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    workspace = untrained(tmp_path, num_folds=1)
    Splits(folds=(Split(train=("a",), validation=("b",)),) * 3, seed=0).save(workspace.splits)
    workspace.fold("3d_fullres", 1).root.mkdir(parents=True)
    with pytest.raises(TrainingError), noting_failure(workspace.fold("3d_fullres", 1)):
        raise TrainingError("loss: must be finite, got nan.")
    code, out, _ = run_command(monkeypatch, capsys, "status", "--workspace", tmp_path)
    assert code == 0
    assert out.startswith("phantom. Done: fingerprint, splits, plan. Missing: check, selection, run.")
    states = [line.split()[1:3] for line in out.splitlines() if line.startswith("3d_fullres")]
    assert states == [["0", "done"], ["1", "failed"], ["2", "missing"]]
    assert "failed  3d_fullres, fold 1: loss: must be finite, got nan." in out

    code, out, _ = run_command(monkeypatch, capsys, "status", "--workspace", tmp_path, "--json")
    assert code == 0
    assert [training["state"] for training in json.loads(out)["trainings"]] == ["done", "failed", "missing"]


def test_a_run_that_came_to_nothing_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(DatasetError), noting_failure_of_run(Workspace(tmp_path)):
        raise DatasetError("images/a.nii.gz: must be readable.")
    code, out, _ = run_command(monkeypatch, capsys, "status", "--workspace", tmp_path)
    assert code == 0
    assert out.startswith("No dataset yet. Missing: check, fingerprint, splits, plan, selection, run.")
    assert "The last run failed: images/a.nii.gz: must be readable." in out


def test_an_empty_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, errors = run_command(monkeypatch, capsys, "status", "--workspace", tmp_path)
    assert (code, out) == (1, "")
    assert "a workspace with a plan is needed" in errors
