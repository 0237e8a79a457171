"""Training of one fold, from the workspace into the workspace."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import filelock

from autoseg.core.artefact import digest_of
from autoseg.core.errors import TrainingError
from autoseg.core.progress import Progress
from autoseg.core.workspace import ALL_DATA, Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.store import stored_properties
from autoseg.network.device import choose_device
from autoseg.pipeline.planning.folds import load_split
from autoseg.pipeline.planning.prepare import preprocess
from autoseg.pipeline.training.cascade import predict_earlier_stage, require_earlier_stage
from autoseg.pipeline.training.failure import noting_failure
from autoseg.pipeline.training.fitting import fit_to_device
from autoseg.plan.schema import Plan
from autoseg.preprocess.run import CONTENT
from autoseg.train.failure import writing
from autoseg.train.hooks import NO_HOOKS, Hooks
from autoseg.train.loop import FoldData, TrainingRequest, train_fold
from autoseg.train.record import TrainingRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingLength:
    """How long a training lasts: one of the two is None.

    Attributes:
        num_epochs: In epochs.
        budget_s: In seconds of wall time.
    """

    num_epochs: int | None
    budget_s: float | None


def training_length(planned: Plan, num_epochs: int | None, budget_s: float | None) -> TrainingLength:
    """Return the length that was asked for; without one, the epochs of the plan's recipe.

    Raises:
        TrainingError: If both were asked for.
    """
    if num_epochs is not None and budget_s is not None:
        raise TrainingError("training: its length must be --epochs or --budget, got both. Leave one out.")
    if budget_s is not None:
        return TrainingLength(None, budget_s)
    return TrainingLength(num_epochs or planned.training.num_epochs, None)


def train(
    workspace: Workspace, request: TrainingRequest, num_workers: int, progress: Progress, hooks: Hooks = NO_HOOKS
) -> TrainingRecord:
    """Train one fold of one configuration, or go on with it; preprocess first where needed.

    In a cascade, the stage before predicts the cases first, where that has not been done.

    On a GPU, the first fold proves that the plan fits it; see `fit_to_device`.

    Args:
        workspace: Of a planned dataset.
        request: What to train.
        num_workers: Processes that preprocess.
        progress: Shows the stages.
        hooks: What ends the training early, and what its epochs bring about.

    Raises:
        TrainingError: If there is no such fold, or a cascade's stage before is not trained; see also `train_fold`.
    """
    folder = workspace.fold(request.configuration, request.fold)
    with noting_failure(folder):
        planned, data = request.team.by_first(partial(prepare_training, workspace, request, num_workers, progress))
        return train_fold(planned, data, folder, request, progress, hooks)


def prepare_training(
    workspace: Workspace, request: TrainingRequest, num_workers: int, progress: Progress
) -> tuple[Plan, FoldData]:
    """Return the plan, proved on the device, and what a fold learns from, preprocessed.

    Of folds that begin side by side, the first does what has not been done; the others wait for it.
    """
    lock = filelock.FileLock(workspace.preparing)
    with writing(workspace.root):
        lock.acquire()
    try:
        return _prepared(workspace, request, num_workers, progress)
    finally:
        lock.release()


def _prepared(
    workspace: Workspace, request: TrainingRequest, num_workers: int, progress: Progress
) -> tuple[Plan, FoldData]:
    split = load_split(workspace, request.fold)
    stage = require_earlier_stage(workspace, request.configuration)
    if request.fold == ALL_DATA:
        log.info("Learning from every case: loss and Dice of validation are of the same cases, not of held-out ones.")
    fit_to_device(workspace, request.configuration, request.device)
    planned, data_folder = preprocess(workspace, request.configuration, num_workers, progress)
    earlier = None
    if stage is not None:
        earlier = predict_earlier_stage(workspace, request.configuration, request.device, num_workers, progress)
    digest = Dataset.load(workspace.dataset).digest()
    return planned, FoldData(split, data_folder, digest, _content_of(data_folder, split.train), earlier)


def _content_of(folder: Path, names: Sequence[str]) -> str:
    """Return the digest of the content of preprocessed cases."""
    properties = {name: stored_properties(folder, name) for name in names}
    return digest_of({name: found.made_from[CONTENT] for name, found in properties.items() if found is not None})


def num_loaders(device: str, num_workers: int) -> int:
    """Return how many background processes load patches: none on a CPU, whose cores the network needs."""
    return 0 if choose_device(device).type == "cpu" else num_workers
