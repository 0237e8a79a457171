"""One folder, one status: what is done, running, broken off, failed and why, missing."""

from pathlib import Path

import filelock
import pytest

from autoseg.core.errors import InterruptionError, PlanError, TrainingError
from autoseg.core.workspace import Workspace
from autoseg.data.splits import Split, Splits
from autoseg.pipeline.training.status import TrainingStatus, noting_failure, status_of
from tests.pipeline.models import untrained


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
