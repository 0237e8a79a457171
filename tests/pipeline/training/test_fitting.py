"""Plans that do not fit a GPU: its error is raised on a CPU here, by how much is asked of it."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoseg.core.errors import PlanError
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Dataset
from autoseg.fingerprint import Fingerprint
from autoseg.pipeline import DataOptions, PlanOptions, plan
from autoseg.pipeline.planning.prepare import Planning
from autoseg.pipeline.training import fitting
from autoseg.plan.overrides import Overrides
from autoseg.plan.schema import Plan
from autoseg.train import trainer
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


def test_nothing_is_tried_on_a_cpu(tmp_path: Path, asked_voxels: list[int]) -> None:
    workspace, _, _ = _planned(tmp_path, Overrides())
    fitting.fit_to_device(workspace, "3d_fullres", "cpu")
    assert asked_voxels == []
