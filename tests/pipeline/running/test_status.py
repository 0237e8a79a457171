"""One folder, one status: what is done, running, broken off, failed and why, missing."""

import os
from pathlib import Path

import filelock
import pytest

from autoseg import pipeline
from autoseg.core.errors import DatasetError, InterruptionError, PlanError, TrainingError
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.data.splits import Split, Splits
from autoseg.pipeline.budget.schedule import Allocation
from autoseg.pipeline.running.request import RunResult
from autoseg.pipeline.running.status import TrainingStatus, noting_failure_of_run, status_of
from autoseg.pipeline.training.failure import noting_failure
from autoseg.select.choose import Selection
from tests.end_to_end.blobs import write_blobs
from tests.pipeline.models import leave_training, untrained
from tests.pipeline.packing.packable import packable, write_scores


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """One fold of four that is trained."""
    workspace = untrained(tmp_path, num_folds=1)
    split = Split(train=("a",), validation=("b",))
    Splits(folds=(split,) * 4, seed=0).save(workspace.splits)
    for fold in range(1, 4):
        workspace.fold("3d_fullres", fold).root.mkdir(parents=True)
    return workspace


def _trainings(workspace: Workspace) -> list[TrainingStatus]:
    return list(status_of(workspace).trainings)


def test_every_state_of_a_training_is_told(workspace: Workspace) -> None:
    first, second, third, _ = (workspace.fold("3d_fullres", fold) for fold in range(4))
    second.checkpoint.write_bytes(b"state")
    second.history.write_text("epoch,loss\n1,0.5\n2,0.4\n")
    with pytest.raises(TrainingError), noting_failure(third):
        raise TrainingError("loss: must be finite, got nan. Lower the learning rate.")
    found = _trainings(workspace)
    assert [training.state for training in found] == ["done", "broken off", "failed", "missing"]
    assert [training.num_epochs for training in found] == [0, 2, 0, 0]
    assert found[2].error == "loss: must be finite, got nan. Lower the learning rate."
    with filelock.FileLock(second.lock):
        assert _trainings(workspace)[1].state == "running"
    assert first.record.exists()


def test_what_is_done_stays_done_though_it_was_asked_for_in_vain(workspace: Workspace) -> None:
    folder = workspace.fold("3d_fullres", 0)
    with pytest.raises(TrainingError), noting_failure(folder):
        raise TrainingError("another length is asked for")
    found = _trainings(workspace)[0]
    assert (found.state, found.error) == ("done", "another length is asked for")


def test_folds_that_there_are_and_folders_that_are_seen_count_as_predicted(workspace: Workspace) -> None:
    place = workspace.crossval("3d_fullres")
    place.mkdir(parents=True)
    for fold in (0, 2, 7):
        (place / f"fold_{fold}.json").write_text("{}")
    (workspace.root / "crossval" / ".writing-1a2b-3-front").mkdir()
    assert status_of(workspace).held_out == {"3d_fullres": 2}


def test_why_a_run_failed_is_told_until_the_next_one(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(DatasetError), noting_failure_of_run(workspace):
        raise DatasetError("images/a.nii.gz: must be readable.")
    found = status_of(workspace)
    assert found.error == "images/a.nii.gz: must be readable."
    assert (found.dataset, set(found.stages.values()), found.trainings) == (None, {"missing"}, ())
    with pytest.raises(InterruptionError), noting_failure_of_run(workspace):
        raise InterruptionError("left")
    with pytest.raises(PlanError, match="a workspace with a plan is needed"):
        status_of(workspace)


def test_stages_of_other_data_are_out_of_date(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    source = write_blobs(tmp_path / "data", num_cases=3)
    options = pipeline.DataOptions(None, 3, 0)
    pipeline.plan(source, workspace, options, pipeline.PlanOptions("cpu", None), Silent())
    prepared = ("check", "fingerprint", "splits", "plan")
    assert {name: status_of(workspace).stages[name] for name in prepared} == dict.fromkeys(prepared, "done")
    os.utime(min((source / "labels").iterdir()))
    pipeline.check(source, workspace, options, Silent())
    found = status_of(workspace).stages
    assert (found["check"], found["fingerprint"], found["splits"]) == ("done", "out of date", "out of date")
    label = min((source / "labels").iterdir())
    label.write_bytes(b"no label map")
    pipeline.check(source, workspace, options, Silent())
    assert status_of(workspace).stages["check"] == "failed"


def test_a_selection_of_other_networks_is_out_of_date(tmp_path: Path) -> None:
    workspace = packable(tmp_path)
    assert status_of(workspace).stages["selection"] == "done"
    planned = pipeline.load_plan(workspace)
    leave_training(workspace, planned, "2d", 1, seed=99)
    assert status_of(workspace).stages["selection"] == "out of date"
    selection = Selection.load(workspace.selection)
    evaluation = write_scores(workspace, ("2d", "3d_fullres"))
    result = RunResult(
        dataset="phantom",
        trained=("2d", "3d_fullres"),
        folds=(0, 1),
        reached=selection.configurations,
        evaluation=evaluation,
        selection=selection,
        allocation=Allocation(shares=(), mirror=True),
        seconds={},
    )
    result.save(workspace.run)
    assert status_of(workspace).stages["run"] == "done"
    result.model_copy(update={"failed": {"2d fold 0": "loss: must be finite."}}).save(workspace.run)
    assert status_of(workspace).stages["run"] == "failed"
    result.model_copy(update={"selection": selection.model_copy(update={"num_cases": 9})}).save(workspace.run)
    assert status_of(workspace).stages["run"] == "out of date"


def test_a_training_that_ends_well_has_not_failed(workspace: Workspace) -> None:
    folder = workspace.fold("3d_fullres", 3)
    with pytest.raises(TrainingError), noting_failure(folder):
        raise TrainingError("disk: must have space, got none. Free some.")
    with noting_failure(folder):
        pass
    assert _trainings(workspace)[3].state == "missing"


def test_an_interruption_is_no_failure(workspace: Workspace) -> None:
    folder = workspace.fold("3d_fullres", 3)
    with pytest.raises(InterruptionError), noting_failure(folder):
        raise InterruptionError("training left in epoch 3")
    assert not folder.failure.exists()


def test_who_comes_second_does_not_call_the_running_training_failed(workspace: Workspace) -> None:
    folder = workspace.fold("3d_fullres", 3)
    with filelock.FileLock(folder.lock), pytest.raises(TrainingError), noting_failure(folder):
        raise TrainingError("locked")
    assert not folder.failure.exists()


def test_a_workspace_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="a workspace with a plan is needed"):
        status_of(Workspace(tmp_path))
