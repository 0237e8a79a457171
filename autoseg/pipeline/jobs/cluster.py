"""Trainings as jobs of a Slurm cluster, through submitit; or, to try that out, as processes that it starts here.

A job that Slurm is about to end for its time, or for the good of others, writes a checkpoint, is queued again, and goes
on from there. The command that submits them waits; if it is ended otherwise than by a signal to leave, the jobs go on,
and the same command takes them up again.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from autoseg.core.artefact import Artefact, digest_of
from autoseg.core.errors import InterruptionError, TrainingError
from autoseg.core.workspace import Workspace
from autoseg.pipeline.jobs.job import LEFT, Job, Running, Start
from autoseg.train.hooks import Hooks

if TYPE_CHECKING:
    import submitit

log = logging.getLogger(__name__)

PARAMETERS = (
    "account",
    "comment",
    "constraint",
    "cpus_per_task",
    "dependency",
    "exclude",
    "gpus_per_node",
    "gres",
    "mail_type",
    "mail_user",
    "mem",
    "mem_per_cpu",
    "mem_per_gpu",
    "nodelist",
    "partition",
    "qos",
    "signal_delay_s",
    "time",
)
"""Of `sbatch`, that a job of one process may be given. `time` is in minutes; so long before its end, in seconds of
`signal_delay_s`, a job is told that it ends."""

DEFAULT_MINUTES = 24 * 60
"""Of a job without a `time`; one that lasts longer is queued again."""

MOST_TIMES_QUEUED = 10_000
"""As often as its time may be over; submitit wants a number."""

QUEUE_S = 5.0
"""How often Slurm is asked what it has."""

QUEUE_TRIES = 5
"""So often, with pauses, Slurm is asked what it has where nothing may be done without an answer."""

GRACE_PAUSE_S = 2.0
"""Pause before a job that is about to end asks again; `QUEUE_TRIES` of them fit into the time that it is given."""

POLL_S = 0.1
"""How often a process is looked at that must end."""

LATE_S = 30.0
"""How long the result of a job that has left the queue may take to be seen here, on a disk that many machines share."""


class Submission(Artefact):
    """A job that trains in a folder; `made_from` names what was asked for.

    Attributes:
        job_id: Its number in Slurm's queue.
    """

    job_id: str


@dataclass(frozen=True)
class ClusterJob:
    """A job as submitit runs it."""

    job: Job

    def __call__(self) -> None:
        """Train; at the signal that Slurm sends before it ends a job, leave with a checkpoint and be queued again."""
        to_requeue = _signal()
        requeue, is_asked = signal.getsignal(to_requeue), False

        def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the system's arguments
            nonlocal is_asked
            is_asked = True
            os.kill(os.getpid(), signal.SIGTERM)  # What ends a training tidily.

        @contextmanager
        def open_hooks(workspace: Workspace) -> Iterator[Hooks]:
            with self.job.open_hooks(workspace) as hooks:
                signal.signal(to_requeue, note)
                try:
                    yield hooks
                finally:
                    signal.signal(to_requeue, requeue)

        try:
            replace(self.job, open_hooks=open_hooks)()
        except (InterruptionError, KeyboardInterrupt) as error:
            log.info("%s", error)
            if is_asked or _is_preempted():
                signal.raise_signal(to_requeue)  # Now submitit's own: it has the job queued again, and ends.
            sys.exit(LEFT)

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Return what is to be done when the job runs again: the same, as the training has its own checkpoint.

        None of them throws away what it has left: see `train_all`, which does that beforehand.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _is_preempted() -> bool:
    """Return whether Slurm wants this job's place, but not its end: one that leaves is not queued again by itself."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return False
    found = _patient_squeue(GRACE_PAUSE_S) or {}
    return found.get(os.environ["SLURM_JOB_ID"]) == "RUNNING"  # One that was cancelled is COMPLETING.


def _signal() -> signal.Signals:
    from submitit.core.job_environment import JobEnvironment

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


def starter(workspace: Workspace, executor: Literal["slurm", "local"], parameters: Mapping[str, str]) -> Start:
    """Return what submits jobs, or takes up those that are in the queue already.

    Args:
        workspace: Where submitit keeps its files; on a disk that all nodes share.
        executor: Slurm, or processes of this machine.
        parameters: Of the jobs, out of `PARAMETERS`; of processes here, `time` alone.

    Raises:
        TrainingError: If submitit is missing, or Slurm; or if Slurm does not tell whether jobs still run here.
    """
    try:
        import submitit
    except ImportError:
        raise TrainingError(
            f"--executor {executor}: submitit must be installed, found none. Run pip install submitit."
        ) from None
    minutes = float(parameters.get("time", DEFAULT_MINUTES))
    if executor == "local":
        import torch

        local = submitit.LocalExecutor(workspace.jobs, max_num_timeout=MOST_TIMES_QUEUED)
        num_gpus = torch.cuda.device_count()
        local.update_parameters(timeout_min=minutes, gpus_per_node=num_gpus, visible_gpus=tuple(range(num_gpus)))
        return lambda job: LocalJob(job, local.submit(ClusterJob(job)))
    try:
        slurm = submitit.SlurmExecutor(workspace.jobs, max_num_timeout=MOST_TIMES_QUEUED)
    except RuntimeError:
        raise TrainingError(
            "--executor slurm: sbatch and srun must be there to submit with, found none. Run this where jobs are"
            " submitted, or train here with --jobs."
        ) from None
    slurm.update_parameters(**_for_submitit(parameters, minutes))
    queue = Queue()
    if earlier := _without_result(workspace, slurm):
        _require_answer(queue, earlier)
    return lambda job: _submitted(job, slurm, queue)


def _without_result(workspace: Workspace, slurm: "submitit.SlurmExecutor") -> list[str]:
    """Return the numbers of jobs that were submitted for trainings of a workspace and may be in the queue still."""
    known = {Submission.load(path).job_id for path in workspace.submissions()}
    return [job_id for job_id in sorted(known) if _result(slurm.job_class(slurm.folder, job_id)) is None]


def _require_answer(queue: "Queue", job_ids: Sequence[str]) -> None:
    """Have the queue know what Slurm has before anything is submitted: a job in it must not get a second one beside it.

    Raises:
        TrainingError: If Slurm does not tell.
    """
    if queue.wait_for_answer():
        return
    raise TrainingError(
        f"squeue: must tell whether earlier jobs still train here, {', '.join(job_ids)}, got no answer {QUEUE_TRIES}"
        " times. Nothing was submitted, and they were left alone. The same command goes on once squeue answers."
    )


def _for_submitit(parameters: Mapping[str, str], minutes: float) -> dict[str, Any]:
    given: dict[str, Any] = {**parameters, "time": max(round(minutes), 1)}
    if "signal_delay_s" in given:
        given["signal_delay_s"] = int(given["signal_delay_s"])
    if "cpus_per_task" in given:
        given["srun_args"] = [f"--cpus-per-task={given['cpus_per_task']}"]  # Since 22.05, srun does not ask sbatch.
    return given


def _submitted(job: Job, slurm: "submitit.SlurmExecutor", queue: "Queue") -> Running:
    """Submit a job, unless it is in the queue."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    request = job.request
    length = (request.num_epochs, request.budget_s, request.seed, request.init_from)
    made_from = {"request": digest_of(length)}
    path = job.folder.submission
    if path.exists() and (known := Submission.load(path)).job_id in queue.states():
        if known.made_from != made_from:
            raise TrainingError(
                f"{job.folder.root}: a job in the queue must be of the same training, got {known.job_id}, which has"
                f" another length, seed or beginning. Ask for the same, or end it with scancel {known.job_id}."
            )
        log.info("%s: goes on as job %s.", job.name, known.job_id)
        return SlurmJob(job, slurm.job_class(slurm.folder, known.job_id), queue)
    slurm.update_parameters(job_name=f"autoseg_{request.configuration}_{request.fold}")
    try:
        submitted = slurm.submit(ClusterJob(job))
    except (FailedJobError, FailedSubmissionError) as error:
        reason = re.sub(r"\s+", " ", str(error)).strip()
        raise TrainingError(f"sbatch: must take a job, got: {reason}. See --slurm.") from None
    queue.found[submitted.job_id] = "PENDING"
    Submission(made_from=made_from, job_id=submitted.job_id).save(path)
    log.info("%s: submitted as job %s; what it says goes to %s.", job.name, submitted.job_id, submitted.paths.stderr)
    return SlurmJob(job, submitted, queue)


def squeue() -> dict[str, str] | None:
    """Return the state of each job of this user that waits or runs, by its number; None if Slurm does not tell."""
    asked = subprocess.run(
        ["squeue", "--me", "--noheader", "--format=%i %T"],  # noqa: S607 - where it is is the cluster's choice
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode != 0:
        log.warning("squeue: must tell of the jobs, got: %s.", asked.stderr.strip())
        return None
    pairs = (line.split() for line in asked.stdout.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _patient_squeue(pause_s: float) -> dict[str, str] | None:
    """Return what `squeue` does, asked up to `QUEUE_TRIES` times until it tells; None if it never does.

    Args:
        pause_s: Seconds before it is asked again.
    """
    found = squeue()
    for _ in range(QUEUE_TRIES - 1):
        if found is not None:
            break
        time.sleep(pause_s)
        found = squeue()
    return found


@dataclass
class Queue:
    """What Slurm has of this user's jobs; it is asked seldom.

    Attributes:
        asked_s: When it was asked last.
        found: State of each job by number, as it was then.
    """

    asked_s: float = float("-inf")
    found: dict[str, str] = field(default_factory=dict)

    def wait_for_answer(self) -> bool:
        """Return whether Slurm has told what it has; it is asked several times, with pauses."""
        found = _patient_squeue(QUEUE_S)
        self.asked_s = time.monotonic()
        self.found = found or {}
        return found is not None

    def states(self) -> dict[str, str]:
        """Return the state of each job that is in the queue or runs, by its number; if Slurm does not tell, as last."""
        now = time.monotonic()
        if now - self.asked_s < QUEUE_S:
            return self.found
        self.asked_s = now
        found = squeue()
        self.found = self.found if found is None else found
        return self.found


@dataclass
class SlurmJob:
    """A job in Slurm's queue; see `Running`.

    Attributes:
        job: What trains.
        submitted: As submitit knows it.
        queue: Where it is until it is over.
        gone_s: When it was missed there first.
    """

    job: Job
    submitted: "submitit.SlurmJob[None]"
    queue: Queue
    gone_s: float | None = None

    def has_ended(self) -> bool:
        """Return whether it is over, and what it has left behind is seen here or not to be expected."""
        if self.submitted.job_id in self.queue.states():
            self.gone_s = None
            return False
        self.gone_s = self.gone_s or time.monotonic()
        return _result(self.submitted) is not None or time.monotonic() - self.gone_s > LATE_S

    def waits_for(self) -> str | None:
        """Return why it does not run, in Slurm's words; None if it does."""
        state = self.queue.states().get(self.submitted.job_id, "RUNNING")
        return None if state == "RUNNING" else state.lower()

    def leave(self) -> None:
        """Cancel it: Slurm sends it SIGTERM, and gives it some seconds."""
        self.submitted.cancel(check=False)

    def end(self) -> None:
        """Do nothing more: Slurm sees to it."""

    def trouble(self) -> str | None:
        """Return why it has failed; None if it has not."""
        return _trouble(self.job, self.submitted)


@dataclass
class LocalJob:
    """A job in a process of this machine, which submitit has started; see `Running`."""

    job: Job
    submitted: "submitit.LocalJob[None]"

    def has_ended(self) -> bool:
        """Return whether it is over."""
        return bool(self.submitted.done())

    def waits_for(self) -> None:
        """Return None: it begins at once."""

    def leave(self) -> None:
        """Send SIGTERM to what has started it, which passes it on."""
        if not self.has_ended():
            os.kill(int(self.submitted.job_id), signal.SIGTERM)

    def end(self) -> None:
        """Wait for it."""
        while not self.has_ended():
            time.sleep(POLL_S)

    def trouble(self) -> str | None:
        """Return why it has failed; None if it has not."""
        return _trouble(self.job, self.submitted)


def _result(submitted: "submitit.Job[None]") -> str | None:
    """Return `success` or `error` as the job has left it; None if it has left neither."""
    from submitit.core.utils import pickle_load

    path = submitted.paths.result_pickle
    return str(pickle_load(path)[0]) if path.exists() else None


def _trouble(job: Job, submitted: "submitit.Job[None]") -> str | None:
    if _result(submitted) == "success":
        return None
    return job.failure(f"job {submitted.job_id} must train to the end, got none. See {submitted.paths.stderr}.")
