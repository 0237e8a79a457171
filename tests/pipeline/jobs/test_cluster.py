"""Trainings as jobs of a cluster: with submitit's own processes, and with programs that stand for Slurm's."""

import builtins
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from autoseg.core.errors import InterruptionError, TrainingError
from autoseg.core.progress import Silent
from autoseg.core.workspace import FoldName, Workspace
from autoseg.pipeline.jobs.cluster import PARAMETERS, QUEUE_TRIES, ClusterJob, Queue, SlurmJob, Submission, starter
from autoseg.pipeline.jobs.job import LEFT, Job, nothing_else
from autoseg.pipeline.jobs.side_by_side import SideBySide, train_all
from autoseg.pipeline.training.failure import Failure
from autoseg.plan.schema import ConfigurationName
from autoseg.train.hooks import Hooks
from tests.pipeline.jobs.test_jobs import leaving_hooks, request_for, workspace

submitit = pytest.importorskip("submitit")

__all__ = ["workspace"]
"""The fixture."""


@contextmanager
def ended_for_its_time(place: Workspace) -> Iterator[Hooks]:
    """Open what the command line opens; once, after the first epoch, do what Slurm does before a job's time is over.

    Each epoch leaves a line.
    """
    with leaving_hooks(place) as hooks:

        def after_epoch(configuration: ConfigurationName, fold: FoldName) -> None:
            told = place.root / "told"
            with (place.root / "epochs").open("a") as stream:
                stream.write("epoch\n")
            if not told.exists():
                told.touch()
                os.kill(os.getpid(), signal.SIGUSR2)

        yield replace(hooks, after_epoch=after_epoch)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_job_that_is_ended_early_is_queued_again_and_goes_on(workspace: Workspace) -> None:
    """What it was to throw away is thrown away once, and not what it has left itself."""
    how = SideBySide(executor="local", open_hooks=ended_for_its_time)
    folder = workspace.fold("2d", 0)
    folder.root.mkdir(parents=True)
    folder.checkpoint.write_bytes(b"of another training")
    request = replace(request_for(0, num_epochs=3), restart=True)
    (record,) = train_all(workspace, [request], how, 0, Silent())
    assert record.num_epochs == 3
    assert (workspace.root / "epochs").read_text().count("epoch") == 3
    (log,) = workspace.jobs.glob("*_log.out")
    assert log.read_text().count("Starting with") == 2
    assert "Requeued job" in log.read_text()
    (said,) = workspace.jobs.glob("*_log.err")
    assert "training left in epoch 2 after step 12" in " ".join(said.read_text().split())


def _job(place: Workspace, seed: int = 1) -> Job:
    return Job(place, replace(request_for(0), seed=seed), 0, nothing_else)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that keep what Slurm is asked for: `sbatch` takes every job as number 7, `queue` is what runs."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    programs = {
        "sbatch": f'cp "$1" {folder}/script\necho "7 PENDING" > {folder}/queue\necho Submitted batch job 7',
        "squeue": f"cat {folder}/queue",
        "scancel": f'echo "$@" > {folder}/cancelled\ntrue > {folder}/queue',
        "srun": "exit 1",
        "sacct": "exit 1",
    }
    for name, line in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_a_job_is_submitted_once_and_taken_up_again(slurm: Path, tmp_path: Path) -> None:
    place = Workspace(tmp_path / "work")
    asked = {"partition": "gpu", "gres": "gpu:1", "mem": "32G", "time": "480", "cpus_per_task": "8"}
    first = starter(place, "slurm", asked)(_job(place))
    script = (slurm / "script").read_text()
    for line in ("partition=gpu", "gres=gpu:1", "mem=32G", "time=480", "cpus-per-task=8", "job-name=autoseg_2d_0"):
        assert f"#SBATCH --{line}" in script
    assert "--cpus-per-task=8" in script.partition("srun")[2]
    assert first.waits_for() == "pending"
    assert Submission.load(place.fold("2d", 0).submission).job_id == "7"
    (slurm / "script").unlink()
    (slurm / "queue").write_text("7 RUNNING\n")
    again = starter(place, "slurm", asked)(_job(place))
    assert not (slurm / "script").exists()
    assert again.waits_for() is None
    assert not again.has_ended()
    with pytest.raises(TrainingError, match=r"a job in the queue must be of the same training, got 7.*scancel 7"):
        starter(place, "slurm", asked)(_job(place, seed=2))
    again.leave()
    assert (slurm / "cancelled").read_text() == "7\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_a_job_without_a_result_has_failed(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.pipeline.jobs.cluster.QUEUE_S", 0.0)
    place = Workspace(tmp_path / "work")
    running = starter(place, "slurm", {})(_job(place))
    (slurm / "queue").write_text("")
    assert not running.has_ended()
    monkeypatch.setattr("autoseg.pipeline.jobs.cluster.LATE_S", 0.0)
    assert running.has_ended()
    assert "job 7 must train to the end" in str(running.trouble())
    assert "job 7" in Failure.load(place.fold("2d", 0).failure).error


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_a_queue_that_cannot_be_asked_is_as_it_was(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.pipeline.jobs.cluster.QUEUE_S", 0.0)
    (slurm / "queue").write_text("7 RUNNING\n12_3 PENDING\n")
    queue = Queue()
    assert queue.states() == {"7": "RUNNING", "12_3": "PENDING"}
    (slurm / "queue").unlink()
    assert queue.states() == {"7": "RUNNING", "12_3": "PENDING"}


def _answer_after(slurm: Path, num_failures: int) -> None:
    """Have `squeue` fail so often before it tells what it has."""
    tries = slurm / "tries"
    (slurm / "squeue").write_text(
        f"#!/bin/sh\necho >> {tries}\n[ $(wc -l < {tries}) -gt {num_failures} ] || "
        f"{{ echo Socket timed out >&2; exit 1; }}\ncat {slurm}/queue\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.parametrize("has_ended", [False, True])
def test_no_second_job_is_submitted_where_the_queue_never_answers(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_ended: bool
) -> None:
    """But one that has left its result is not in the queue, whether or not that is asked."""
    monkeypatch.setattr("autoseg.pipeline.jobs.cluster.QUEUE_S", 0.0)
    place = Workspace(tmp_path / "work")
    running = starter(place, "slurm", {})(_job(place))
    (slurm / "script").unlink()
    _answer_after(slurm, num_failures=10**6)
    if has_ended:
        assert isinstance(running, SlurmJob)
        running.submitted.paths.result_pickle.write_bytes(pickle.dumps(("error", "of an earlier command")))
        starter(place, "slurm", {})(_job(place))
    else:
        with pytest.raises(TrainingError, match=r"squeue: .*here, 7, got no answer .* The same command goes on"):
            starter(place, "slurm", {})(_job(place))
        assert len((slurm / "tries").read_text()) == QUEUE_TRIES
    assert (slurm / "script").exists() == has_ended
    assert not (slurm / "cancelled").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_a_queue_that_answers_at_last_has_the_job(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.pipeline.jobs.cluster.QUEUE_S", 0.0)
    place = Workspace(tmp_path / "work")
    starter(place, "slurm", {})(_job(place))
    (slurm / "script").unlink()
    _answer_after(slurm, num_failures=QUEUE_TRIES - 1)
    assert starter(place, "slurm", {})(_job(place)).waits_for() == "pending"
    assert not (slurm / "script").exists()


@contextmanager
def left_at_once(place: Workspace) -> Iterator[Hooks]:
    """Do what a training does that is asked to leave."""
    raise InterruptionError("training left in epoch 1, with a checkpoint")
    yield


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals and a shell")
@pytest.mark.parametrize(("state", "is_requeued"), [("RUNNING", True), ("COMPLETING", False)])
def test_a_preempted_job_asks_a_busy_queue_again_before_it_ends(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, is_requeued: bool
) -> None:
    monkeypatch.setattr("autoseg.pipeline.jobs.cluster.GRACE_PAUSE_S", 0.0)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (slurm / "queue").write_text(f"7 {state}\n")
    _answer_after(slurm, num_failures=2)
    told: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: told.append(number))
    try:
        with pytest.raises(SystemExit) as ended:
            ClusterJob(replace(_job(Workspace(tmp_path / "work")), open_hooks=left_at_once))()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert ended.value.code == LEFT
    assert told == [signal.SIGUSR2] * is_requeued
    assert len((slurm / "tries").read_text()) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_what_sbatch_refuses_is_passed_on(slurm: Path, tmp_path: Path) -> None:
    (slurm / "sbatch").write_text("#!/bin/sh\necho invalid partition specified: nowhere >&2\nexit 1\n")
    place = Workspace(tmp_path / "work")
    with pytest.raises(TrainingError, match=r"sbatch: must take a job, got: .*invalid partition specified: nowhere"):
        starter(place, "slurm", {"partition": "nowhere"})(_job(place))


def test_a_machine_without_slurm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrainingError, match="sbatch and srun must be there"):
        starter(Workspace(tmp_path / "work"), "slurm", {})


def test_without_submitit_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = builtins.__import__

    def no_submitit(name: str, *arguments: object) -> object:
        if name == "submitit":
            raise ImportError(name)
        return found(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", no_submitit)
    with pytest.raises(TrainingError, match=r"pip install submitit"):
        starter(Workspace(tmp_path), "slurm", {})


def test_submitit_knows_all_parameters() -> None:
    assert set(PARAMETERS) <= submitit.SlurmExecutor._valid_parameters()
    assert list(PARAMETERS) == sorted(PARAMETERS)


def test_a_running_job_is_one(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    queue = Queue(asked_s=float("inf"), found={"3": "RUNNING"})
    assert not SlurmJob(_job(place), submitit.SlurmJob(tmp_path, "3"), queue).has_ended()
