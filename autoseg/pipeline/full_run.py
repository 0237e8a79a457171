"""All stages in one go, within a budget of time if there is one."""

import logging
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from autoseg.core.artefact import Artefact
from autoseg.core.progress import Progress
from autoseg.core.stopwatch import Stopwatch
from autoseg.core.workspace import Workspace
from autoseg.evaluate.scores import Evaluation
from autoseg.network.device import choose_device
from autoseg.pipeline.budget.allocation import BudgetedRun, allocate, plan_for_time
from autoseg.pipeline.budget.reserve import measure_scoring
from autoseg.pipeline.budget.schedule import Allocation, Contents, allocation_table, contents_of, predicted_allocation
from autoseg.pipeline.budget.timetable import Timetable
from autoseg.pipeline.heldout.maps import candidate_folder
from autoseg.pipeline.heldout.scores import score_held_out
from autoseg.pipeline.heldout.selection import SelectionRequest, make_selection
from autoseg.pipeline.jobs.side_by_side import ONE_BY_ONE, SideBySide, train_all
from autoseg.pipeline.planning.prepare import (
    AskedTime,
    DataOptions,
    PlanOptions,
    load_plan,
    plan,
    preprocess,
    suited_preset,
)
from autoseg.pipeline.prediction.models import ModelChoice
from autoseg.pipeline.training.fitting import fit_to_device
from autoseg.pipeline.training.fold import TrainingLength, num_loaders, training_length
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.select.choose import Selection, Together
from autoseg.train.hooks import NO_HOOKS, Hooks
from autoseg.train.loop import TrainingRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRequest:
    """What to run.

    Attributes:
        source: Folder or archive of the dataset.
        data: How it is read.
        planning: How it is planned; without a preset, the one that suits the device.
        configurations: Of the plan; None for all that are worth training or, with some of the folds alone, for the
            usual one. A cascade brings the stage before it.
        folds: To train; None for all, and a selection among the configurations.
        num_epochs: Length of each training in epochs.
        budget_s: Seconds of wall time for everything together.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        seed: Of weights, patches and augmentation.
        init_from: Weights to begin with, a file or the folder of a finished training; None for random ones.
        side_by_side: How many trainings run at a time, and who starts them.
        began_s: Reading of `time.monotonic` at which the budget began; None for the call of `run`.
    """

    source: Path
    data: DataOptions
    planning: PlanOptions
    configurations: tuple[str, ...] | None
    folds: tuple[int, ...] | None
    num_epochs: int | None
    budget_s: float | None
    device: str
    seed: int
    init_from: Path | None = None
    side_by_side: SideBySide = ONE_BY_ONE
    began_s: float | None = None


class RunResult(Artefact):
    """What a run has reached.

    Attributes:
        dataset: Its name.
        trained: Configurations that were trained, in that order.
        folds: That were trained.
        reached: Configurations whose held-out scores count: those that were selected; without a selection, the first
            one that was trained.
        evaluation: Of these, before postprocessing, on the held-out cases of these folds.
        others: Without a selection, the evaluations of the other configurations.
        selection: What was selected; None if folds were left out.
        allocation: What each configuration took.
        seconds: Wall time per stage; of training, all its runs together.
    """

    current_version: ClassVar[int] = 2

    schema_version: int = 2
    dataset: str
    trained: Together
    folds: tuple[int, ...]
    reached: Together
    evaluation: Evaluation
    others: dict[ConfigurationName, Evaluation] = Field(default_factory=dict)
    selection: Selection | None = None
    allocation: Allocation
    seconds: dict[str, float]

    @property
    def name(self) -> str:
        """Names of the configurations whose scores count, joined by a plus."""
        return " + ".join(self.reached)


def run(workspace: Workspace, request: RunRequest, progress: Progress, hooks: Hooks = NO_HOOKS) -> RunResult:
    """Check, plan, preprocess, train, predict and score held-out cases, select; what is done is not done again.

    Before the trainings begin, a table of them and of what they take is logged.

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
    with watch.measure("check and plan"):
        planned = plan(request.source, workspace, request.data, _planning(request), progress)
    contents = contents_of(workspace, planned, request.configurations, request.folds)
    length = training_length(planned, request.num_epochs, request.budget_s)
    with request.side_by_side.sharing(request.device, contents.num_trainings):
        contents, allocation = _allocated(workspace, request, (contents, length), progress, watch)
    _announce(load_plan(workspace), request, allocation)
    watch.seconds["train"] = _train(workspace, request, (contents, allocation, length), watch, progress, hooks)
    if request.budget_s is not None:
        allocation = Allocation.load(workspace.allocation)
    result = _outcome(workspace, request, contents, allocation, progress, watch)
    result.save(workspace.run)
    return result


def _train(
    workspace: Workspace,
    request: RunRequest,
    wanted: tuple[Contents, Allocation, TrainingLength],
    watch: Stopwatch,
    progress: Progress,
    hooks: Hooks,
) -> float:
    """Train all that is wanted; return the seconds that this took, in all runs together.

    Trainings that follow each other within a budget are cut where what came before took longer than planned.
    """
    contents, allocation, length = wanted
    how = request.side_by_side
    places = [(share, fold) for share in allocation.shares for fold in contents.folds_of(share.configuration)]
    follow_each_other = how.wall_s([1.0] * len(places), request.device) == len(places)
    train_these = partial(
        train_all, workspace, how=how, num_workers=request.data.num_workers, progress=progress, hooks=hooks
    )
    if request.budget_s is not None and follow_each_other:
        rules = load_rulebook(request.planning.rules).inferred.budget
        timetable = Timetable(workspace, contents, request.budget_s, watch.elapsed_s, rules.least_steps)
        records = []
        for share, fold in places:
            lasts = TrainingLength(None, timetable.begin(share.configuration, fold))
            with timetable.counting(workspace.fold(share.configuration, fold)):
                records += train_these([_training(request, share.configuration, fold, lasts)])
    else:
        lengths = {
            share.configuration: length if request.budget_s is None else TrainingLength(None, share.training_s)
            for share in allocation.shares
        }
        records = train_these(
            [_training(request, share.configuration, fold, lengths[share.configuration]) for share, fold in places]
        )
    return how.wall_s([record.seconds for record in records], request.device)


def _allocated(
    workspace: Workspace,
    request: RunRequest,
    wanted: tuple[Contents, TrainingLength],
    progress: Progress,
    watch: Stopwatch,
) -> tuple[Contents, Allocation]:
    """Preprocess, and return what is trained and what it takes; for a budget, the plan is made anew on the way."""
    contents, length = wanted
    num_workers = request.data.num_workers
    if length.num_epochs is not None:
        with watch.measure("check and plan"):
            contents = _fitted(workspace, request, contents)
        _preprocess(workspace, contents.configurations, num_workers, progress, watch)
        with watch.measure("check and plan"):
            planned = load_plan(workspace)
            return contents, predicted_allocation(workspace, planned, contents, length.num_epochs, request.device)
    assert request.budget_s is not None
    _preprocess(workspace, contents.configurations[:1], num_workers, progress, watch)
    together_s = partial(request.side_by_side.wall_s, device=request.device)
    rules = load_rulebook(request.planning.rules).empirical
    timed = BudgetedRun(
        contents=contents,
        device=request.device,
        seed=request.seed,
        budget_s=request.budget_s,
        elapsed_s=watch.elapsed_s,
        together_s=together_s,
        num_workers=num_workers,
        scoring=cache(partial(measure_scoring, workspace, contents, rules)),
    )
    with watch.measure("plan for the time"):
        contents = plan_for_time(workspace, timed)
    _preprocess(workspace, contents.configurations, num_workers, progress, watch)
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


def _preprocess(
    workspace: Workspace,
    configurations: Sequence[ConfigurationName],
    num_workers: int,
    progress: Progress,
    watch: Stopwatch,
) -> None:
    with watch.measure("preprocess"):
        for name in configurations:
            preprocess(workspace, name, num_workers, progress)


def _announce(planned: Plan, request: RunRequest, allocation: Allocation) -> None:
    """Log what is trained and what it takes, before it begins."""
    device = choose_device(request.device)
    table = textwrap.indent(allocation_table(allocation), "  ")
    limit = "as predicted" if request.budget_s is None else f"of a budget of {request.budget_s:.0f} s"
    mirrored = "with" if allocation.mirror else "without"
    log.info("Planned for %s with the preset %s. To train, %s:\n%s", device, planned.preset, limit, table)
    log.info("Held-out cases are predicted %s their mirror images.", mirrored)


def _outcome(
    workspace: Workspace,
    request: RunRequest,
    contents: Contents,
    allocation: Allocation,
    progress: Progress,
    watch: Stopwatch,
) -> RunResult:
    """Predict and score the held-out cases; where all folds are trained, select."""
    num_workers, selection, others = request.data.num_workers, None, {}
    if contents.selects:
        with watch.measure("predict held-out cases and select"):
            asked = SelectionRequest(
                device=request.device,
                num_workers=num_workers,
                mirror=allocation.mirror,
                configurations=contents.configurations,
            )
            selection = make_selection(workspace, asked, progress)
            reached = selection.configurations
            evaluation = Evaluation.load(candidate_folder(workspace, reached) / "evaluation.json")
    else:
        with watch.measure("predict and score held-out cases"):
            for name in contents.configurations:
                model = ModelChoice(name, contents.folds, request.device, allocation.mirror)
                others[name] = score_held_out(workspace, model, num_workers, progress)
        reached = contents.configurations[:1]
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
        seconds=watch.seconds,
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


def _training(
    request: RunRequest, configuration: ConfigurationName, fold: int, length: TrainingLength
) -> TrainingRequest:
    """Return the request for the training of one fold."""
    return TrainingRequest(
        configuration=configuration,
        fold=fold,
        num_epochs=length.num_epochs,
        budget_s=length.budget_s,
        device=request.device,
        seed=request.seed,
        num_workers=num_loaders(request.device, request.data.num_workers),
        restart=False,
        makes_room=True,
        init_from=request.init_from,
    )
