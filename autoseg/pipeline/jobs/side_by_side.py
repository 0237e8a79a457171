"""Several trainings: one after the other in this process, or side by side, each in a process of its own.

On GPUs each process has one of them, on a CPU its share of the cores. What the processes say goes to `training.log`
in the folder of each training; how far they are is read from their histories.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch

from autoseg.core.errors import WITHOUT_RESTART, InterruptionError, TrainingError
from autoseg.core.progress import Progress
from autoseg.core.temporary import remove_abandoned_below
from autoseg.core.workspace import Workspace
from autoseg.network.checkpoint import load_weights
from autoseg.network.device import choose_device, threads
from autoseg.pipeline.budget.together import wall_s
from autoseg.pipeline.jobs.attendance import attend
from autoseg.pipeline.jobs.cluster import starter
from autoseg.pipeline.jobs.job import PATIENCE_S, Begin, Job, OpenHooks, Slot, as_asked, nothing_else
from autoseg.pipeline.jobs.processes import Process
from autoseg.pipeline.planning.prepare import load_plan, preprocess
from autoseg.pipeline.training.fold import prepare_training, train
from autoseg.plan.schema import Plan
from autoseg.train.hooks import NO_HOOKS, Hooks
from autoseg.train.initial import initial_weights_file, require_staying
from autoseg.train.loop import TrainingRequest, is_finished, throw_away
from autoseg.train.record import TrainingRecord

log = logging.getLogger(__name__)

Executor = Literal["here", "slurm", "local"]
"""Who starts the processes: this one, Slurm, or submitit on this machine in the way that it has Slurm do it."""


@dataclass(frozen=True)
class SideBySide:
    """How several trainings run.

    Attributes:
        num_jobs: At a time; None for as many as there are GPUs, one on a CPU, and all of them on a cluster.
        executor: Who starts their processes.
        parameters: Of the jobs of a cluster, by name; see `cluster.PARAMETERS`.
        open_hooks: What accompanies a training in its own process.
    """

    num_jobs: int | None = 1
    executor: Executor = "here"
    parameters: Mapping[str, str] = field(default_factory=dict)
    open_hooks: OpenHooks = nothing_else

    def slots(self, device: str, num_trainings: int) -> tuple[Slot, ...]:
        """Return where so many trainings run at a time.

        Raises:
            TrainingError: If there are fewer GPUs than trainings at a time.
        """
        if self.executor == "slurm":
            num_threads = self.parameters.get("cpus_per_task")
            place = Slot(device, None if num_threads is None else int(num_threads))
            return (place,) * (self.num_jobs or num_trainings)
        kind, places = choose_device(device).type, [device]
        if kind == "cpu":
            places *= self.num_jobs or 1
        elif kind == "cuda" and device in ("auto", "cuda"):
            places = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        if (self.num_jobs or 1) > len(places):
            raise TrainingError(
                f"--jobs: must be at most one per device, got {self.num_jobs} for {', '.join(places)}. Use --jobs auto."
            )
        number = min(self.num_jobs or len(places), num_trainings)
        if number <= 1:
            return (Slot(device, None),)
        return tuple(Slot(place, max(torch.get_num_threads() // number, 1)) for place in places[:number])

    def wall_s(self, lengths_s: Sequence[float], device: str) -> float:
        """Return how long trainings take, each begun in its turn as soon as there is room.

        Args:
            lengths_s: Of each, in seconds, in their order.
            device: That they are for.
        """
        return wall_s(lengths_s, self.num_places(device, len(lengths_s)))

    def num_places(self, device: str, num_trainings: int) -> int:
        """Return how many of so many trainings run at a time; at least 1."""
        return max(len(self.slots(device, num_trainings)), 1)

    @contextmanager
    def sharing(self, device: str, num_trainings: int) -> Iterator[None]:
        """Within the block, compute with the threads that each of so many trainings gets: so they can be timed."""
        slot, *_ = self.slots(device, num_trainings)
        with threads(slot.num_threads or torch.get_num_threads()):
            yield


ONE_BY_ONE = SideBySide()


def train_all(
    workspace: Workspace,
    requests: Sequence[TrainingRequest],
    how: SideBySide,
    num_workers: int,
    progress: Progress,
    hooks: Hooks = NO_HOOKS,
    begin: Begin = as_asked,
) -> list[TrainingRecord]:
    """Train several networks, or go on with them; return their records in the order of the requests.

    Side by side, the first stage of a cascade comes before what refines it, and a training that fails does not keep the
    others from going on. What requests with `restart` throw away is gone before any of them begins, and once: a job
    that is queued again goes on with its own.

    Args:
        workspace: Of a planned dataset.
        requests: What to train, on one device or on `auto`.
        how: One after the other, or side by side.
        num_workers: Processes that preprocess, and load patches, of all trainings together.
        progress: Shows a line per training.
        hooks: What ends the trainings early; of those in this process, also what their epochs bring about.
        begin: Returns what is trained in place of each request, as its turn has come.

    Raises:
        InterruptionError: If `hooks` ends them early; each has left its checkpoint.
        TrainingError: Naming each that has failed, after the others are done.
        AutosegError: Of the first that has failed, where they follow each other.
    """
    if requests[0].team.size > 1 and how != replace(ONE_BY_ONE, open_hooks=how.open_hooks):
        raise TrainingError("torchrun: shares out one training at a time, got --jobs or --executor. Leave one out.")
    remove_abandoned_below(workspace.root)
    work = _Work(workspace, how, num_workers, progress, hooks, begin)
    if not any(request.restart for request in requests):
        return _train_all(work, requests)
    requests[0].team.by_first(partial(_throw_away, work, requests))
    try:
        return _train_all(work, [replace(request, restart=False) for request in requests])
    except (InterruptionError, TrainingError) as error:
        raise type(error)(f"{error} {WITHOUT_RESTART}") from error


@dataclass(frozen=True)
class _Work:
    """What all trainings share; see `train_all`."""

    workspace: Workspace
    how: SideBySide
    num_workers: int
    progress: Progress
    hooks: Hooks
    begin: Begin


def _train_all(work: _Work, requests: Sequence[TrainingRequest]) -> list[TrainingRecord]:
    how, workspace = work.how, work.workspace
    if how.executor == "here" and len(how.slots(requests[0].device, len(requests))) == 1:
        return [_train_here(work, request) for request in requests]
    planned = load_plan(workspace)
    for is_later in (False, True):
        wave = [request for request in requests if _refines(planned, request) == is_later]
        missing = [request for request in wave if not _is_trained(work, request)]
        if missing:
            _train_side_by_side(work, missing)
    return [TrainingRecord.load(workspace.fold(request.configuration, request.fold).record) for request in requests]


def _train_here(work: _Work, request: TrainingRequest) -> TrainingRecord:
    """Train in this process; what a cascade learns from is there before the training begins, as in processes."""
    if _refines(load_plan(work.workspace), request):
        request.team.by_first(partial(_prepare, work, [request]))
    return train(work.workspace, work.begin(request), work.num_workers, work.progress, work.hooks)


def _throw_away(work: _Work, requests: Sequence[TrainingRequest]) -> None:
    """Delete what earlier trainings have left where requests say so, once nothing else is in their way."""
    planned = load_plan(work.workspace)
    folders = [work.workspace.fold(request.configuration, request.fold) for request in requests if request.restart]
    for source in {request.init_from for request in requests if request.init_from is not None}:
        initial = initial_weights_file(source)
        load_weights(initial)
        for folder in folders:
            require_staying(initial, folder.weights)
    _prepare(work, [request for request in requests if not _refines(planned, request)] or requests)
    for folder in folders:
        throw_away(folder, PATIENCE_S)


def _refines(planned: Plan, request: TrainingRequest) -> bool:
    """Return whether a training refines what an earlier stage predicts."""
    return planned.configurations[request.configuration].previous_stage is not None


def _is_trained(work: _Work, request: TrainingRequest) -> bool:
    """Return whether a training is over, so that it needs no process."""
    folder = work.workspace.fold(request.configuration, request.fold)
    if not folder.record.exists():
        return False
    without_gpu = replace(request, device="cpu")  # None is needed to look.
    planned, data = prepare_training(work.workspace, without_gpu, work.num_workers, work.progress)
    return is_finished(planned, data, folder, request)


def _train_side_by_side(work: _Work, requests: Sequence[TrainingRequest]) -> None:
    """Train where there is room until all are done.

    Raises:
        InterruptionError: If the hooks end it early.
        TrainingError: Naming each that has failed.
    """
    how = work.how
    _prepare(work, requests)
    slots = how.slots(requests[0].device, len(requests))
    num_workers = work.num_workers if how.executor == "slurm" else max(work.num_workers // len(slots), 1)
    jobs = [Job(work.workspace, request, num_workers, how.open_hooks) for request in requests]
    if len(slots) > 1:
        log.info("Training %s; up to %d at a time.", "; ".join(job.name for job in jobs), len(slots))
    start = Process if how.executor == "here" else starter(work.workspace, how.executor, how.parameters)
    with work.hooks.stopping() as should_stop:
        outcome = attend(jobs, slots, start, work.progress, should_stop, work.begin)
        if outcome.left or outcome.not_begun:
            raise InterruptionError(
                f"{work.workspace.root}: trainings left with a checkpoint: {'; '.join(outcome.left) or 'none'}. Not"
                f" begun: {'; '.join(outcome.not_begun) or 'none'}. The same command goes on from there."
            )
    if outcome.troubles:
        listed = "\n".join(f"  {name}: {trouble}" for name, trouble in outcome.troubles.items())
        raise TrainingError(
            f"{work.workspace.root}: all trainings must end well, got {len(outcome.troubles)} of {len(jobs)} that did"
            f" not:\n{listed}\nThe others are done. Mend the cause; the same command goes on with what is missing."
        )


def _prepare(work: _Work, requests: Sequence[TrainingRequest]) -> None:
    """Do once, and visibly, what each training would do first; what needs a GPU is left to the jobs of a cluster."""
    for request in {request.configuration: request for request in requests}.values():
        if work.how.executor == "slurm":
            preprocess(work.workspace, request.configuration, work.num_workers, work.progress)
        else:
            prepare_training(work.workspace, request, work.num_workers, work.progress)
