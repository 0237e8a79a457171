"""Trainings side by side: who gets which place, and what becomes of those that fail or are asked to leave."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autoseg import pipeline
from autoseg.core.errors import AutosegError, InterruptionError, TrainingError
from autoseg.core.progress import Silent
from autoseg.core.workspace import FoldName, Workspace
from autoseg.pipeline.jobs.job import Job, Slot
from autoseg.pipeline.jobs.processes import Process
from autoseg.pipeline.jobs.side_by_side import SideBySide, train_all
from autoseg.pipeline.running.status import status_of
from autoseg.train.hooks import NO_HOOKS, Hooks
from autoseg.train.loop import TrainingRequest
from tests.end_to_end.blobs import write_blobs, write_tiny_rules

TWO = SideBySide(2)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A plan for three folds of two cases each."""
    place = Workspace(tmp_path / "work")
    options = pipeline.PlanOptions("cpu", write_tiny_rules(tmp_path / "rules"))
    data = pipeline.DataOptions(r"(pat\d+)_", 3, 0)
    pipeline.plan(write_blobs(tmp_path / "data"), place, data, options, Silent())
    return place


def request_for(fold: FoldName, num_epochs: int = 2) -> TrainingRequest:
    return TrainingRequest(
        configuration="2d",
        fold=fold,
        num_epochs=num_epochs,
        budget_s=None,
        device="cpu",
        seed=1,
        num_workers=0,
        restart=False,
    )


@pytest.mark.slow
def test_side_by_side_gives_the_weights_of_one_after_the_other(workspace: Workspace, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = train_all(workspace, [request_for(0)], SideBySide(), 0, Silent())
    torch.set_num_threads(before)
    weights = workspace.fold("2d", 0).weights.read_bytes()
    requests = [replace(request_for(0), restart=True), request_for(1)]
    both = train_all(workspace, requests, TWO, 0, Silent())
    assert [record.fold for record in both] == [0, 1]
    assert both[0].identity == alone[0].identity
    assert workspace.fold("2d", 0).weights.read_bytes() == weights
    times = [workspace.fold("2d", fold).record.stat().st_mtime_ns for fold in (0, 1)]
    assert train_all(workspace, [request_for(0), request_for(1)], TWO, 0, Silent()) == both
    assert [workspace.fold("2d", fold).record.stat().st_mtime_ns for fold in (0, 1)] == times


@pytest.mark.slow
def test_a_training_that_fails_is_named_and_the_others_finish(workspace: Workspace) -> None:
    folder = workspace.fold("2d", 0)
    folder.root.mkdir(parents=True)
    folder.checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match=r"got 1 of 2 that did not:\n  2d, fold 0: .*must be a checkpoint"):
        train_all(workspace, [request_for(0), request_for(1)], TWO, 0, Silent())
    states = {found.fold: found for found in status_of(workspace).trainings if found.configuration == "2d"}
    assert states[1].state == "done"
    assert states[0].state == "failed"
    assert "must be a checkpoint" in str(states[0].error)


@contextmanager
def full_disk(place: Workspace) -> Iterator[Hooks]:
    """Fail as something does that nothing guards."""
    if not place.allocation.exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place.allocation))
    yield NO_HOOKS


@pytest.mark.slow
def test_what_the_system_refuses_a_process_is_told_by_the_one_that_attends_to_it(tmp_path: Path) -> None:
    job = Job(Workspace(tmp_path), request_for(0), 0, full_disk)
    process = Process(job)
    process.end()
    assert "allocation.json: must be readable and writable, got: No space left on device" in str(process.trouble())
    assert "Traceback" in job.folder.log.read_text()


def _stop_when(ready: Callable[[], bool]) -> Hooks:
    @contextmanager
    def stopping() -> Iterator[Callable[[], bool]]:
        yield ready

    return Hooks(stopping)


@contextmanager
def leaving_hooks(workspace: Workspace) -> Iterator[Hooks]:
    """Open what the command line opens in the process of a training."""
    from autoseg.cli.training import job_hooks

    with job_hooks(workspace, tensorboard=False) as hooks:
        yield hooks


@pytest.mark.slow
def test_all_leave_with_a_checkpoint_when_asked_to(workspace: Workspace) -> None:
    folders = [workspace.fold("2d", fold) for fold in (0, 1)]
    requests = [request_for(fold, num_epochs=500) for fold in (0, 1, 2)]
    hooks = _stop_when(lambda: all(folder.history.exists() for folder in folders))
    with pytest.raises(InterruptionError, match=r"(fold 0; 2d, fold 1|fold 1; 2d, fold 0)\. Not begun: 2d, fold 2"):
        train_all(workspace, requests, replace(TWO, open_hooks=leaving_hooks), 0, Silent(), hooks)
    assert all(folder.checkpoint.exists() and not folder.record.exists() for folder in folders)
    assert "training left in epoch" in folders[0].log.read_text()


@pytest.mark.parametrize("restart", [True, False])
def test_all_that_is_to_go_is_gone_before_the_first_begins_and_no_more(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    """So the same command goes on, but without the option: the second training is none of an earlier command."""
    folders = [workspace.fold("2d", fold) for fold in (0, 1)]
    for folder in folders:
        folder.root.mkdir(parents=True)
        folder.record.write_text("a record")
    seen = []

    def leave(place: Workspace, request: TrainingRequest, *_: object) -> None:
        seen.append((request.restart, [folder.record.exists() for folder in folders]))
        raise InterruptionError("training left. The same command goes on from there.")

    monkeypatch.setattr("autoseg.pipeline.jobs.side_by_side.train", leave)
    monkeypatch.setattr("autoseg.pipeline.jobs.side_by_side.prepare_training", lambda *_: None)
    requests = [replace(request_for(fold), restart=restart) for fold in (0, 1)]
    with pytest.raises(InterruptionError) as raised:
        train_all(workspace, requests, SideBySide(), 0, Silent())
    assert seen == [(False, [not restart] * 2)]
    assert ("Leave out --restart" in str(raised.value)) == restart


def test_nothing_is_thrown_away_for_what_cannot_begin(workspace: Workspace) -> None:
    folder = workspace.fold("2d", 0)
    folder.root.mkdir(parents=True)
    folder.record.write_text("a record")
    request = replace(request_for(0), restart=True, device="cuda:99")
    with pytest.raises(AutosegError, match="--device cuda:99"):
        train_all(workspace, [request], SideBySide(), 0, Silent())
    assert folder.record.exists()


@pytest.mark.parametrize(
    ("initial", "words"),
    [
        ("typo.safetensors", "found none"),
        ("models/2d/fold_0", "must be weights that stay"),
        ("damaged.safetensors", "damaged.safetensors"),
    ],
)
def test_nothing_is_thrown_away_for_weights_that_cannot_be_begun_with(
    workspace: Workspace, initial: str, words: str
) -> None:
    folder = workspace.fold("2d", 0)
    folder.root.mkdir(parents=True)
    folder.record.write_text("a record")
    save_file({"a": torch.zeros(2)}, folder.weights)
    (workspace.root / "damaged.safetensors").write_bytes(b"no weights")
    request = replace(request_for(0), restart=True, init_from=workspace.root / initial)
    with pytest.raises(AutosegError, match=words):
        train_all(workspace, [request], SideBySide(), 0, Silent())
    assert folder.record.exists()
    assert folder.weights.exists()


def test_a_cpu_is_shared_by_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert SideBySide(3).slots("cpu", 5) == (Slot("cpu", 2),) * 3
    assert SideBySide(3).slots("cpu", 2) == (Slot("cpu", 4),) * 2
    assert SideBySide(None).slots("cpu", 5) == (Slot("cpu", None),)


def test_each_gpu_trains_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.pipeline.jobs.side_by_side.choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert SideBySide(None).slots("auto", 5) == (Slot("cuda:0", 4), Slot("cuda:1", 4))
    assert SideBySide(None).slots("cuda:1", 5) == (Slot("cuda:1", None),)
    with pytest.raises(TrainingError, match="at most one per device, got 3 for cuda:0, cuda:1"):
        SideBySide(3).slots("cuda", 5)


@pytest.mark.parametrize(
    ("num_jobs", "lengths_s", "wall_s"),
    [
        (1, [3.0, 2.0, 1.0], 6.0),
        (2, [3.0, 2.0, 1.0], 3.0),
        (2, [1.0] * 5, 3.0),
        (2, [2.0, 2.0, 1.0, 1.0, 1.0], 4.0),
        (5, [1.0, 2.0], 2.0),
    ],
)
def test_wall_time_is_that_of_the_fullest_place(num_jobs: int, lengths_s: list[float], wall_s: float) -> None:
    assert SideBySide(num_jobs).wall_s(lengths_s, "cpu") == wall_s


def test_threads_are_as_before_once_a_share_was_timed() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    with SideBySide(2).sharing("cpu", 5):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


def test_nothing_accompanies_a_training_unless_it_is_named() -> None:
    with SideBySide().open_hooks(Workspace(Path())) as hooks:
        assert hooks == NO_HOOKS
