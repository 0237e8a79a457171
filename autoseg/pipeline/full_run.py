"""All stages in one go, within a budget of time if there is one."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from autoseg.core.artefact import Artefact, digest_of
from autoseg.core.errors import PlanError
from autoseg.core.progress import Progress
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.image import read_image
from autoseg.data.splits import Splits
from autoseg.evaluate.scores import Evaluation
from autoseg.infer.case import Model, default_settings
from autoseg.infer.predictor import Predictor
from autoseg.network.device import choose_device
from autoseg.network.unet import UNet
from autoseg.pipeline.heldout import score_held_out
from autoseg.pipeline.prediction import ModelChoice
from autoseg.pipeline.prepare import DataOptions, PlanOptions, choose_configuration, plan, preprocess
from autoseg.pipeline.training import TrainingLength, load_split, num_loaders, train, training_length
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.train.hooks import NO_HOOKS, Hooks
from autoseg.train.loop import TrainingRequest

log = logging.getLogger(__name__)

CPU_PRESET = "cpu"
"""What `run` plans for where there is no GPU and no preset was named."""

PREDICTION_MARGIN = 1.5
"""Factor on the probed time of predicting and scoring held-out cases."""

SHORTEST_TRAINING_S = 20.0
"""Below this, a training says nothing."""


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
    """

    dataset: str
    configuration: ConfigurationName
    folds: tuple[int, ...]
    evaluation: Evaluation
    seconds: dict[str, float]


class Allocation(Artefact):
    """How a run shares out its budget; kept, so that a run that was broken off goes on with the same shares.

    Attributes:
        training_s: For each fold, in seconds.
        prediction_s: Set aside for the held-out cases of each fold, in seconds.
    """

    training_s: float
    prediction_s: float


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
    device = choose_device(request.device)
    planning = request.planning
    if planning.preset is None and device.type == "cpu":
        planning = replace(planning, preset=CPU_PRESET)
    with watch.measure("check and plan"):
        planned = plan(request.source, workspace, request.data, planning, progress)
    configuration = choose_configuration(planned, request.configuration)
    folds = request.folds if request.folds is not None else tuple(range(len(Splits.load(workspace.splits).folds)))
    for fold in folds:
        load_split(workspace, fold)
    log.info(
        "Planned for %s with the preset %s. Training %s, fold %s.",
        device,
        planned.preset,
        configuration,
        ", ".join(str(fold) for fold in folds),
    )
    with watch.measure("preprocess"):
        preprocess(workspace, configuration, request.data.num_workers, progress)
    length = training_length(planned, request.num_epochs, request.budget_s)
    if request.budget_s is not None:
        shares = _allocate(workspace, planned, configuration, folds, request, watch)
        length = TrainingLength(None, shares.training_s)
    for fold in folds:
        training = TrainingRequest(
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
        record = train(workspace, training, request.data.num_workers, progress, hooks)
        watch.seconds["train"] = watch.seconds.get("train", 0.0) + record.seconds
    with watch.measure("predict and score held-out cases"):
        model = ModelChoice(configuration, folds, request.device, mirror=True)
        evaluation = score_held_out(workspace, model, request.data.num_workers, progress)
    result = RunResult(
        dataset=planned.dataset,
        configuration=configuration,
        folds=folds,
        evaluation=evaluation,
        seconds=watch.seconds,
    )
    result.save(workspace.run)
    return result


def _allocate(
    workspace: Workspace,
    planned: Plan,
    configuration: ConfigurationName,
    folds: tuple[int, ...],
    request: RunRequest,
    watch: _Stopwatch,
) -> Allocation:
    """Return what each training may take: the budget, less what is spent and what prediction will take.

    Raises:
        PlanError: If nothing worth the name is left for training.
    """
    budget_s = request.budget_s or 0.0
    made_from = {
        "plan": planned.digest(),
        "request": digest_of([budget_s, folds, configuration, request.device, request.seed]),
    }
    if workspace.allocation.exists():
        kept = Allocation.load(workspace.allocation)
        if kept.made_from == made_from:
            return kept
    held_out = sum(len(load_split(workspace, fold).validation) for fold in folds)
    prediction_s = PREDICTION_MARGIN * held_out * _probe_prediction_s(workspace, planned, configuration, request.device)
    training_s = (budget_s - watch.elapsed_s() - prediction_s) / len(folds)
    if training_s < SHORTEST_TRAINING_S:
        needed = watch.elapsed_s() + prediction_s + SHORTEST_TRAINING_S * len(folds)
        raise PlanError(
            f"--budget: must leave {SHORTEST_TRAINING_S:.0f} s for each of {len(folds)} trainings, got"
            f" {training_s:.0f} s. Give at least {needed:.0f} s, or fewer --folds."
        )
    log.info("Of %.0f s, each training gets %.0f s; prediction %.0f s in all.", budget_s, training_s, prediction_s)
    shares = Allocation(made_from=made_from, training_s=training_s, prediction_s=prediction_s / len(folds))
    shares.save(workspace.allocation)
    return shares


def _probe_prediction_s(
    workspace: Workspace, planned: Plan, configuration: ConfigurationName, device_name: str
) -> float:
    """Return the seconds that predicting a case takes, measured on the one of median size with an untrained network."""
    dataset = Dataset.load(workspace.dataset)
    by_size = sorted(dataset.cases, key=lambda case: Path(case.images[0]).stat().st_size)
    case = by_size[len(by_size) // 2]
    device = choose_device(device_name)
    chosen = planned.configurations[configuration]
    network = UNet(chosen.network).to(device).eval()
    predictor = Predictor(Model(planned, chosen, (network,)), default_settings(device, chosen))
    image = read_image([Path(path) for path in case.images])
    predictor.predict(image)
    began = time.monotonic()
    predictor.predict(image)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - began
