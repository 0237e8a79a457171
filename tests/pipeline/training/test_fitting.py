"""Plans that do not fit a GPU: its error is raised on a CPU here, by how much is asked of it."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import filelock
import pytest
import torch
from torch import Tensor

from autoseg.core.errors import PlanError
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Dataset
from autoseg.fingerprint import Fingerprint
from autoseg.pipeline import DataOptions, PlanOptions, plan
from autoseg.pipeline.planning.prepare import Planning, load_plan
from autoseg.pipeline.training import fitting
from autoseg.pipeline.training.failure import noting_failure
from autoseg.plan.overrides import Overrides
from autoseg.plan.schema import Plan
from autoseg.train import trainer
from autoseg.train.record import TrainingState, save_state
from autoseg.train.sampling import Batch
from autoseg.train.trainer import Trainer
from tests.end_to_end.blobs import write_blobs, write_tiny_rules

DATA = DataOptions(group_by=None, num_folds=3, num_workers=1)


def _planned(tmp_path: Path, overrides: Overrides) -> tuple[Workspace, PlanOptions, Plan]:
    data, workspace = write_blobs(tmp_path / "data", num_cases=3), Workspace(tmp_path / "work")
    options = PlanOptions("cpu", write_tiny_rules(tmp_path / "rules"), overrides)
    return workspace, options, plan(data, workspace, DATA, options, Silent())


def _fitting(workspace: Workspace, planned: Plan) -> Planning:
    data = (Fingerprint.load(workspace.fingerprint), Dataset.load(workspace.dataset))
    return fitting.fitting_planning(Planning.load(workspace.planning), planned, data, "3d_fullres", "cpu")


@pytest.fixture
def asked_voxels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device that takes batches of less than 2500 voxels; the voxels of every batch that it was asked to take."""
    asked: list[int] = []
    take = Trainer.step

    def step(trainer: Trainer, batch: Batch, rate: float, step: int) -> Tensor:
        asked.append(batch.images.shape[0] * math.prod(trainer.configuration.patch_size))
        if asked[-1] > 2500:
            raise torch.OutOfMemoryError("the device is full")
        return take(trainer, batch, rate, step)

    monkeypatch.setattr(Trainer, "step", step)
    return asked


def test_a_plan_that_fits_stays(tmp_path: Path) -> None:
    workspace, _, planned = _planned(tmp_path, Overrides())
    assert _fitting(workspace, planned) == Planning.load(workspace.planning)


def test_a_plan_that_does_not_fit_shrinks_until_it_does_and_says_so(tmp_path: Path, asked_voxels: list[int]) -> None:
    workspace, options, planned = _planned(tmp_path, Overrides(gpu_memory_gb=0.06))
    proved = _fitting(workspace, planned)
    assert asked_voxels == sorted(asked_voxels, reverse=True)
    assert asked_voxels[0] > 2500
    assert asked_voxels[-2] == asked_voxels[-1] <= 2500
    assert proved.proved is not None
    assert proved.proved.alternatives[0].value == 0.06
    assert len(proved.proved.alternatives) == len(asked_voxels) - 2
    proved.save(workspace.planning)
    again = plan(tmp_path / "data", workspace, DATA, options, Silent())
    assert again.decisions[0] == proved.proved
    assert 2 * math.prod(again.configurations["3d_fullres"].patch_size) == asked_voxels[-1]


def test_steps_that_half_precision_skips_prove_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimiser's state is allocated with the first step that counts, and must fit too."""
    _, _, planned = _planned(tmp_path, Overrides())
    scaled = partial(torch.amp.GradScaler, init_scale=2.0**40, backoff_factor=2.0**-14)
    monkeypatch.setattr(torch.amp, "GradScaler", scaled)
    monkeypatch.setattr(trainer, "best_precision", lambda device: "float16")
    had_state: list[bool] = []
    take = Trainer.step

    def step(trainer: Trainer, batch: Batch, rate: float, step: int) -> Tensor:
        had_state.append(bool(trainer.optimizer.state))
        return take(trainer, batch, rate, step)

    monkeypatch.setattr(Trainer, "step", step)
    assert fitting.fits(planned, "3d_fullres", "cpu")
    assert len(had_state) > 2
    assert had_state == [False] * (len(had_state) - 1) + [True]


def test_another_request_forgets_what_was_proved(tmp_path: Path, asked_voxels: list[int]) -> None:
    workspace, _, planned = _planned(tmp_path, Overrides(gpu_memory_gb=0.06))
    _fitting(workspace, planned).save(workspace.planning)
    other = plan(tmp_path / "data", workspace, DATA, PlanOptions("cpu", None), Silent())
    assert other.decisions[0].name != "gpu_memory_gb"
    assert Planning.load(workspace.planning).proved is None


def test_a_patch_that_is_set_and_does_not_fit_is_an_error(tmp_path: Path, asked_voxels: list[int]) -> None:
    workspace, _, planned = _planned(tmp_path, Overrides(patch_size=(8, 24, 24), batch_size=2))
    with pytest.raises(PlanError, match="2 patches of 8x24x24 voxels"):
        _fitting(workspace, planned)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is tried on a GPU that takes every plan, for which it takes the CPU."""
    names: list[str] = []

    def fits(planned: Plan, name: str, device: str) -> bool:
        names.append(name)
        return True

    monkeypatch.setattr(fitting, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(fitting, "device_name", lambda device: "a GPU")
    monkeypatch.setattr(fitting, "fits", fits)
    return names


def _begun(workspace: Workspace, name: str, recipe: str) -> None:
    """Leave what a training leaves that was broken off."""
    save_state(TrainingState("identity", recipe=recipe), workspace.fold(name, 0))


def test_what_fails_before_it_trains_does_not_count_as_proof(tmp_path: Path, tried: list[str]) -> None:
    """A folder is no training: a job that waits in a queue has one, and one that found no room on the device."""
    workspace, _, _ = _planned(tmp_path, Overrides())
    with pytest.raises(PlanError), noting_failure(workspace.fold("3d_fullres", 0)):
        raise PlanError("3d_fullres: a training step must fit the memory of cuda.")
    fitting.fit_to_device(workspace, "3d_fullres", "cuda")
    assert tried == ["3d_fullres"]


def test_a_plan_is_proved_once_and_another_one_again(tmp_path: Path, tried: list[str]) -> None:
    workspace, options, _ = _planned(tmp_path, Overrides())
    for name in ("3d_fullres", "3d_fullres", "2d"):
        fitting.fit_to_device(workspace, name, "cuda")
    plan(tmp_path / "data", workspace, DATA, options, Silent())
    fitting.fit_to_device(workspace, "3d_fullres", "cuda")
    assert tried == ["3d_fullres", "2d"]
    plan(tmp_path / "data", workspace, DATA, replace(options, overrides=Overrides(batch_size=3)), Silent())
    fitting.fit_to_device(workspace, "3d_fullres", "cuda")
    assert tried == ["3d_fullres", "2d", "3d_fullres"]


def test_all_folds_are_trained_by_the_plan_of_the_first(tmp_path: Path, tried: list[str]) -> None:
    workspace, _, planned = _planned(tmp_path, Overrides())
    _begun(workspace, "3d_fullres", planned.recipe_digest("3d_fullres"))
    fitting.fit_to_device(workspace, "3d_fullres", "cuda")
    assert tried == []
    _begun(workspace, "3d_fullres", "that of a plan for more memory")
    another = workspace.fold("3d_fullres", 1)
    another.root.mkdir()
    with filelock.FileLock(another.lock):  # It has no checkpoint yet.
        fitting.fit_to_device(workspace, "3d_fullres", "cuda")
    assert tried == []
    fitting.fit_to_device(workspace, "3d_fullres", "cuda")
    assert tried == ["3d_fullres"]


def test_no_plan_is_made_that_another_configuration_was_not_trained_by(
    tmp_path: Path, tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, _, planned = _planned(tmp_path, Overrides())
    smaller = {
        name: entry.model_copy(update={"batch_size": entry.batch_size - 1})
        for name, entry in planned.configurations.items()
    }
    anew = planned.model_copy(update={"configurations": smaller})
    monkeypatch.setattr(fitting, "fits", lambda found, *_: found == anew)
    monkeypatch.setattr(fitting, "plan_asked", lambda *_: anew)
    before = workspace.planning.read_bytes(), workspace.plan.read_bytes()
    _begun(workspace, "2d", planned.recipe_digest("2d"))
    with pytest.raises(PlanError, match=r"3d_fullres: must fit the device by a plan that leaves 2d alone"):
        fitting.fit_to_device(workspace, "3d_fullres", "cuda")
    assert (workspace.planning.read_bytes(), workspace.plan.read_bytes()) == before
    workspace.fold("2d", 0).checkpoint.unlink()
    fitting.fit_to_device(workspace, "3d_fullres", "cuda")
    assert load_plan(workspace) == anew


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: out of memory"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")]
)
def test_memory_is_lacking_whatever_the_wording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def step(*_: object, **__: object) -> None:
        raise error

    _, _, planned = _planned(tmp_path, Overrides())
    monkeypatch.setattr(Trainer, "step", step)
    assert not fitting.fits(planned, "3d_fullres", "cpu")


def test_nothing_is_tried_on_a_cpu(tmp_path: Path, asked_voxels: list[int]) -> None:
    workspace, _, _ = _planned(tmp_path, Overrides())
    fitting.fit_to_device(workspace, "3d_fullres", "cpu")
    assert asked_voxels == []
