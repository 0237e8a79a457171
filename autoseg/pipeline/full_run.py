"""All stages in one go, within a budget of time if there is one."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoseg.core.artefact import Artefact
from autoseg.core.progress import Progress
from autoseg.core.workspace import Workspace
from autoseg.data.splits import Splits
from autoseg.evaluate.scores import Evaluation
from autoseg.network.device import choose_device
from autoseg.pipeline.allocation import Allocation, BudgetedRun, allocate, plan_for_time
from autoseg.pipeline.fitting import fit_to_device
from autoseg.pipeline.heldout import score_held_out
from autoseg.pipeline.prediction import ModelChoice
from autoseg.pipeline.prepare import (
    AskedTime,
    DataOptions,
    PlanOptions,
    choose_configuration,
    load_plan,
    plan,
    preprocess,
    suited_preset,
)
from autoseg.pipeline.training import TrainingLength, load_split, num_loaders, train, training_length
from autoseg.plan.schema import ConfigurationName
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
        configuration: Of the plan; None for the usual one.
        folds: To train; None for all.
        num_epochs: Length of each training in epochs.
        budget_s: Seconds of wall time for everything together.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        seed: Of weights, patches and augmentation.
        init_from: Weights to begin with, a file or the folder of a finished training; None for random ones.
    """

    source: Path
    data: DataOptions
    planning: PlanOptions
    configuration: str | None
    folds: tuple[int, ...] | None
    num_epochs: int | None
    budget_s: float | None
    device: str
    seed: int
    init_from: Path | None = None


class RunResult(Artefact):
    """What a run has reached.

    Attributes:
        dataset: Its name.
        configuration: That was trained.
        folds: That were trained.
        evaluation: Of the held-out cases of these folds.
        seconds: Wall time per stage; of training, all its runs together.
        mirror: Whether the held-out cases were averaged over their mirror images.
    """

    dataset: str
    configuration: ConfigurationName
    folds: tuple[int, ...]
    evaluation: Evaluation
    seconds: dict[str, float]
    mirror: bool = True


@dataclass
class _Stopwatch:
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - began

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started


def run(workspace: Workspace, request: RunRequest, progress: Progress, hooks: Hooks = NO_HOOKS) -> RunResult:
    """Check, plan, preprocess, train folds, predict and score their held-out cases; what is done is not done again.

    Args:
        workspace: For everything.
        request: What to run.
        progress: Shows the stages.
        hooks: What ends a training early, and what its epochs bring about.

    Raises:
        AutosegError: Of the stage that fails.
    """
    watch = _Stopwatch()
    num_workers = request.data.num_workers
    with watch.measure("check and plan"):
        planned = plan(request.source, workspace, request.data, _planning(request), progress)
    configuration = choose_configuration(planned, request.configuration)
    folds = request.folds if request.folds is not None else tuple(range(len(Splits.load(workspace.splits).folds)))
    for fold in folds:
        load_split(workspace, fold)
    with watch.measure("preprocess"):
        preprocess(workspace, configuration, num_workers, progress)
    length = training_length(planned, request.num_epochs, request.budget_s)
    mirror = True
    if request.budget_s is not None:
        timed = BudgetedRun(configuration, folds, request.device, request.seed, request.budget_s, watch.elapsed_s)
        shares = _prepare_in_time(workspace, timed, num_workers, progress, watch)
        length, mirror = TrainingLength(None, shares.training_s), shares.mirror
    log.info(
        "Planned for %s with the preset %s. Training %s, fold %s.",
        choose_device(request.device),
        planned.preset,
        configuration,
        ", ".join(str(fold) for fold in folds),
    )
    for fold in folds:
        training = _training(request, configuration, fold, length)
        record = train(workspace, training, num_workers, progress, hooks)
        watch.seconds["train"] = watch.seconds.get("train", 0.0) + record.seconds
    with watch.measure("predict and score held-out cases"):
        model = ModelChoice(configuration, folds, request.device, mirror)
        evaluation = score_held_out(workspace, model, num_workers, progress)
    result = RunResult(
        dataset=planned.dataset,
        configuration=configuration,
        folds=folds,
        evaluation=evaluation,
        mirror=mirror,
        seconds=watch.seconds,
    )
    result.save(workspace.run)
    return result


def _planning(request: RunRequest) -> PlanOptions:
    """Return how a run is planned: with the preset that suits the device if none is named, and for its budget."""
    options = replace(request.planning, preset=suited_preset(request.planning.preset, request.device))
    if request.budget_s is None:
        return options
    time = AskedTime(
        seconds=request.budget_s,
        covers="a run",
        configuration=request.configuration,
        folds=request.folds,
        device=request.device,
    )
    return replace(options, time=time)


def _prepare_in_time(
    workspace: Workspace, timed: BudgetedRun, num_workers: int, progress: Progress, watch: _Stopwatch
) -> Allocation:
    """Plan again for the time that is left once all cases are preprocessed, and share it out."""
    with watch.measure("plan for the time"):
        plan_for_time(workspace, timed)
    with watch.measure("preprocess"):
        preprocess(workspace, timed.configuration, num_workers, progress)
    with watch.measure("plan for the time"):
        fit_to_device(workspace, timed.configuration, timed.device)
        return allocate(workspace, load_plan(workspace), timed)


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
        init_from=request.init_from,
    )
