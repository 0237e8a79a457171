"""All stages in one go, within a budget of time if there is one."""

import logging
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial

import torch

from autoseg.core.progress import Progress
from autoseg.core.stopwatch import Stopwatch
from autoseg.core.workspace import Workspace
from autoseg.network.device import choose_device
from autoseg.pipeline.budget.allocation import allocate, plan_for_time
from autoseg.pipeline.budget.paces import BudgetedRun
from autoseg.pipeline.budget.reserve import measure_scoring
from autoseg.pipeline.budget.schedule import (
    Allocation,
    Contents,
    allocation_table,
    contents_of,
    predicted_allocation,
    side_by_side_s,
    untimed_allocation,
)
from autoseg.pipeline.budget.spent import BEFORE, Expenses
from autoseg.pipeline.heldout.maps import HeldOutRequest
from autoseg.pipeline.heldout.scores import score_candidates, score_held_out
from autoseg.pipeline.heldout.selection import SelectionRequest, make_selection
from autoseg.pipeline.planning.prepare import AskedTime, PlanOptions, load_plan, plan, preprocess, suited_preset
from autoseg.pipeline.prediction.models import ModelChoice
from autoseg.pipeline.running.request import RunRequest, RunResult
from autoseg.pipeline.running.status import noting_failure_of_run
from autoseg.pipeline.running.trainings import Trained, train_contents
from autoseg.pipeline.training.fitting import fit_to_device
from autoseg.pipeline.training.fold import TrainingLength, training_length
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.train.hooks import NO_HOOKS, Hooks
from autoseg.train.keeping import set_aside

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Run:
    """A run under way.

    Attributes:
        workspace: For everything.
        request: What to run.
        watch: Measures its stages.
        progress: Shows them.
    """

    workspace: Workspace
    request: RunRequest
    watch: Stopwatch
    progress: Progress


def run(workspace: Workspace, request: RunRequest, progress: Progress, hooks: Hooks = NO_HOOKS) -> RunResult:
    """Check, plan, preprocess, train, predict and score held-out cases, select; what is done is not done again.

    Before the trainings begin, a table of them and of what they take is logged. A training that fails does not keep the
    run from a result without its configuration, which says so.

    Args:
        workspace: For everything.
        request: What to run.
        progress: Shows the stages.
        hooks: What ends a training early, and what its epochs bring about.

    Raises:
        AutosegError: Of the stage that fails.
    """
    watch = Stopwatch()
    if request.began_s is not None:
        watch.seconds["begin"] = watch.started - request.began_s
        watch.started = request.began_s
    counting: AbstractContextManager[None] = nullcontext()
    if request.budget_s is not None:
        expenses = Expenses(workspace, request.budget_digest, watch, progress)
        expenses.take_up()
        counting, progress, hooks = expenses.until_over(), expenses, expenses.noting(hooks)
    running = _Run(workspace, request, watch, progress)
    with noting_failure_of_run(workspace), counting:
        contents, allocation, length = _begun(running)
        _announce(load_plan(workspace), request, allocation)
        with watch.measure("train"):
            wanted = contents, allocation, length
            trained = train_contents(workspace, request, wanted, watch.elapsed_s, progress, hooks)
        if BEFORE not in watch.seconds:
            watch.seconds["train"] = trained.seconds
        if request.budget_s is not None:
            allocation = Allocation.load(workspace.allocation)
        result = _outcome(running, trained, allocation)
        result.save(workspace.run)
    return result


def _begun(running: _Run) -> tuple[Contents, Allocation, TrainingLength]:
    """Do what comes before the trainings; return what is trained, what it takes and how long each training lasts."""
    workspace, request = running.workspace, running.request
    with running.watch.measure("check and plan"):
        planned = plan(request.source, workspace, request.data, _planning(request), running.progress)
    contents = contents_of(workspace, planned, request.configurations, request.folds)
    _make_room(workspace, planned, contents)
    length = training_length(planned, request.num_epochs, request.budget_s)
    num_threads = torch.get_num_threads()
    with request.side_by_side.sharing(request.device, contents.num_trainings):
        contents, allocation = _allocated(running, contents, length, num_threads)
    return contents, allocation, length


def _make_room(workspace: Workspace, planned: Plan, contents: Contents) -> None:
    """Set aside the trainings of folds that there are no longer, which would else predict with the others."""
    for name in planned.configurations:
        for fold, folder in workspace.folds(name).items():
            if fold not in contents.all_folds:
                set_aside(folder)


def _allocated(
    running: _Run, contents: Contents, length: TrainingLength, num_threads: int
) -> tuple[Contents, Allocation]:
    """Preprocess, and return what is trained and what it takes; for a budget, the plan is made anew on the way.

    Args:
        running: Whose request says how long it may take.
        contents: What is to be trained.
        length: Of each training; in seconds, it is that of the run.
        num_threads: Of the CPU, with which held-out cases are predicted.
    """
    workspace, request, watch = running.workspace, running.request, running.watch
    if length.num_epochs is not None:
        with watch.measure("check and plan"):
            contents = _fitted(workspace, request, contents)
        _preprocess(running, contents.configurations)
        with watch.measure("check and plan"):
            planned = load_plan(workspace)
            if request.side_by_side.executor == "slurm":
                return contents, untimed_allocation(planned, contents, length.num_epochs)
            return contents, predicted_allocation(workspace, planned, contents, length.num_epochs, request.device)
    assert request.budget_s is not None
    _preprocess(running, contents.configurations[:1])
    rules = load_rulebook(request.planning.rules).empirical
    timed = BudgetedRun(
        contents=contents,
        device=request.device,
        seed=request.seed,
        budget_s=request.budget_s,
        elapsed_s=watch.elapsed_s,
        together_s=partial(request.side_by_side.wall_s, device=request.device),
        num_workers=request.data.num_workers,
        num_threads=num_threads,
        scoring=cache(partial(measure_scoring, workspace, contents, rules)),
    )
    with watch.measure("plan for the time"):
        contents = plan_for_time(workspace, timed)
    _preprocess(running, contents.configurations)
    with watch.measure("plan for the time"):
        for name in contents.configurations:
            fit_to_device(workspace, name, request.device)
        return contents, allocate(workspace, timed, contents)


def _fitted(workspace: Workspace, request: RunRequest, contents: Contents) -> Contents:
    """Prove all that is trained on the device before any of it is, as the plan may change; return what then is.

    Jobs of a cluster prove their own, where its GPUs are.
    """
    if request.side_by_side.executor == "slurm":
        return contents
    for name in contents.configurations:
        fit_to_device(workspace, name, request.device)
        then = contents_of(workspace, load_plan(workspace), request.configurations, request.folds)
        if then != contents:
            return _fitted(workspace, request, then)
    return contents


def _preprocess(running: _Run, configurations: Sequence[ConfigurationName]) -> None:
    with running.watch.measure("preprocess"):
        for name in configurations:
            preprocess(running.workspace, name, running.request.data.num_workers, running.progress)


def _announce(planned: Plan, request: RunRequest, allocation: Allocation) -> None:
    """Log what is trained and what it takes, before it begins."""
    how = request.side_by_side
    num_places = how.num_places(request.device, sum(share.num_trainings for share in allocation.shares))
    together = "" if num_places == 1 else f", {num_places} at a time"
    if allocation.is_timed:
        wall_s = partial(how.wall_s, device=request.device)
        table = allocation_table(allocation, None if num_places == 1 else side_by_side_s(allocation, planned, wall_s))
        preset = f"for {choose_device(request.device)} with the preset {planned.preset}"
        limit = "as predicted" if request.budget_s is None else f"of a budget of {request.budget_s:.0f} s"
        what = f"To train, {limit}{together}"
    else:
        table, preset = allocation_table(allocation), f"with the preset {planned.preset}"
        what = f"To train{together}; how long that takes is not known before Slurm has chosen nodes"
    log.info("Planned %s. %s:\n%s", preset, what, textwrap.indent(table, "  "))
    mirrored = "with" if allocation.mirror else "without"
    log.info("Held-out cases are predicted %s their mirror images.", mirrored)


def _outcome(running: _Run, trained: Trained, allocation: Allocation) -> RunResult:
    """Predict and score the held-out cases; where all folds are trained, select."""
    workspace, request, contents = running.workspace, running.request, trained.contents
    num_workers, selection, others = request.data.num_workers, None, {}
    if contents.selects:
        with running.watch.measure("predict held-out cases and select"):
            asked = SelectionRequest(
                device=request.device,
                num_workers=num_workers,
                mirror=allocation.mirror,
                configurations=contents.configurations,
            )
            selection = make_selection(workspace, asked, running.progress)
            reached = selection.configurations
            # The files may hold the scores of fewer folds by now, of `--folds 0`, though the selection is kept.
            candidates = tuple(dict.fromkeys((reached, *((name,) for name in contents.configurations))))
            wanted = HeldOutRequest(candidates, contents.all_folds, request.device, allocation.mirror)
            evaluation = score_candidates(workspace, wanted, num_workers, running.progress)[reached]
    else:
        with running.watch.measure("predict and score held-out cases"):
            for name in contents.configurations:
                model = ModelChoice(name, contents.folds, request.device, allocation.mirror)
                others[name] = score_held_out(workspace, model, num_workers, running.progress)
        reached = (next(name for name in contents.configurations if name not in contents.stages),)
        evaluation = others.pop(reached[0])
    return RunResult(
        dataset=load_plan(workspace).dataset,
        trained=contents.configurations,
        folds=contents.folds,
        reached=reached,
        evaluation=evaluation,
        others=others,
        selection=selection,
        allocation=allocation,
        seconds=running.watch.seconds,
        failed=trained.failed,
    )


def _planning(request: RunRequest) -> PlanOptions:
    """Return how a run is planned: with the preset that suits the device if none is named, and for its budget."""
    options = replace(request.planning, preset=suited_preset(request.planning.preset, request.device))
    if request.budget_s is None:
        return options
    time = AskedTime(
        seconds=request.budget_s,
        covers="a run",
        configurations=request.configurations,
        folds=request.folds,
        device=request.device,
    )
    return replace(options, time=time)
