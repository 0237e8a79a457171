"""The training of one network: one configuration, one fold, from an empty folder or a checkpoint to the record."""

import logging
import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import filelock
import numpy as np
import torch

from autoseg.core.artefact import digest_of, digest_of_file
from autoseg.core.errors import TrainingError
from autoseg.core.heap import freed_memory_kept
from autoseg.core.labels import Labels
from autoseg.core.progress import Progress
from autoseg.core.workspace import FoldFolder, FoldName
from autoseg.data.splits import Split
from autoseg.network.checkpoint import save_weights
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.train.cascade import EarlierStage
from autoseg.train.distributed import ALONE, Team
from autoseg.train.epoch import WAITING_SHARE, Fold, train_epochs, waiting_sentence
from autoseg.train.failure import computing, writing
from autoseg.train.hooks import NO_HOOKS, Hooks
from autoseg.train.initial import initial_weights_file, require_staying
from autoseg.train.keeping import make_room
from autoseg.train.record import (
    CASES,
    EARLIER_STAGE,
    MODEL,
    RECIPE,
    WEIGHTS,
    Row,
    TrainingRecord,
    TrainingState,
    different_training,
    load_state,
)
from autoseg.train.sampling import Batch, PatchSource, SamplingPlan, load_batches
from autoseg.train.schedule import Clock
from autoseg.train.trainer import Trainer
from autoseg.train.versions import versions

log = logging.getLogger(__name__)

VALIDATION_SHARE = 1 / 4
"""So many processes read patches for validation, as a share of those that read patches to learn from."""

GLANCE_S = 1.0
"""How long a training waits for the lock of its folder, which others take for a moment to see whether one runs."""


@dataclass(frozen=True)
class FoldData:
    """What a fold learns from.

    Attributes:
        split: Names of the cases to learn from and to watch.
        folder: Preprocessed cases of the configuration.
        digest: Of the dataset that they are of.
        cases: Digest of the content of the preprocessed cases to learn from.
        earlier_digest: In a cascade, of the networks of the stage before, whose predictions lie beside the cases.
    """

    split: Split
    folder: Path
    digest: str
    cases: str = ""
    earlier_digest: str | None = None


@dataclass(frozen=True)
class TrainingRequest:
    """What to train, for how long, where.

    Attributes:
        configuration: Entry of the plan.
        fold: Number of the split; `all-data` holds no case out.
        num_epochs: Length in epochs; None where the budget decides.
        budget_s: Length in seconds of wall time, of the training alone; None where the epochs decide.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        seed: Of weights, patches and augmentation.
        num_workers: Background processes that load patches to learn from; 0 loads between the steps.
        restart: Whether to throw away what an earlier training left in the folder.
        makes_room: Whether a training of other settings or data is set aside, instead of being refused.
        init_from: Weights to begin with, a file or the folder of a finished training; None for random ones.
        team: Processes that train together.
    """

    configuration: ConfigurationName
    fold: FoldName
    num_epochs: int | None
    budget_s: float | None
    device: str
    seed: int
    num_workers: int
    restart: bool
    makes_room: bool = False
    init_from: Path | None = None
    team: Team = ALONE

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.configuration}, fold {self.fold}"


def train_fold(
    plan: Plan,
    data: FoldData,
    folder: FoldFolder,
    request: TrainingRequest,
    progress: Progress,
    hooks: Hooks = NO_HOOKS,
) -> TrainingRecord:
    """Train one network, or go on with a training that was broken off, and return its record.

    Args:
        plan: Recipe and network.
        data: Cases to learn from and to watch.
        folder: Where weights, checkpoint and history go; held by a lock meanwhile.
        request: What to train, for how long, where.
        progress: Shows the training.
        hooks: What ends it early, and what its epochs bring about.

    Raises:
        InterruptionError: If `hooks` ends it early; a checkpoint of that moment is on disk.
        TrainingError: If another process trains here, the folder holds another training or cannot be written, the split
            leaves a side empty, a preprocessed case cannot be read, the loss is not finite, or the GPU's memory is too
            small.
    """
    _require_cases(data.split, request)
    team = request.team
    initial = initial_weights_file(request.init_from) if request.init_from is not None else None
    origins = _origins(data, initial)
    identity = _identity(plan, data.split, request, origins)
    with _locked(folder, team):
        _make_way(folder, request, identity, initial)
        if folder.record.exists() and folder.weights.exists():
            record = TrainingRecord.load(folder.record)
            if record.identity != identity:
                raise TrainingError(different_training(folder))
            team.by_first(partial(_forget_progress, folder))
            return record
        clock_start = time.monotonic()
        state = load_state(identity, folder)
        state.recipe = plan.recipe_digest(request.configuration)
        clock = Clock(request.num_epochs, request.budget_s, state.spent_s, clock_start)
        configuration = plan.configurations[request.configuration]
        with computing():
            trainer = Trainer(plan.training, configuration, request.device, request.seed, team)
            if state.tensors:
                trainer.restore(state)
            elif initial is not None:
                trainer.start_from(initial)
        learning, watched = _sources(plan, data, request)
        with (
            freed_memory_kept(),
            hooks.stopping() as should_stop,
            closing(load_batches(learning, state.step, request.num_workers)) as batches,
            closing(_watching(watched, plan, request)) as watched_batches,
        ):
            fold = Fold(
                name=request.name,
                trainer=trainer,
                batches=batches,
                learning=learning,
                watched=watched_batches,
                labels=plan.labels,
                clock=clock,
                folder=folder,
                should_stop=should_stop,
                after_epoch=partial(hooks.after_epoch, request.configuration, request.fold),
            )
            train_epochs(fold, state, progress)
        model = plan.model_digest(request.configuration)
        digests = {"plan": plan.digest(), MODEL: model, RECIPE: state.recipe, "dataset": data.digest}
        made_from = digests | origins
        return team.by_first(partial(_finish, fold, state, request, made_from))


def throw_away(folder: FoldFolder, patience_s: float) -> None:
    """Delete what earlier trainings have left in a folder.

    Args:
        folder: Of trainings.
        patience_s: How long a training may take to leave that is leaving.

    Raises:
        TrainingError: If a training runs there, or the folder cannot be written.
    """
    with _locked(folder, ALONE, patience_s):
        _clear(folder)


def is_finished(plan: Plan, data: FoldData, folder: FoldFolder, request: TrainingRequest) -> bool:
    """Return whether the very training that is asked for is over, and need not begin again."""
    if request.restart or not (folder.record.exists() and folder.weights.exists()):
        return False
    initial = initial_weights_file(request.init_from) if request.init_from is not None else None
    identity = _identity(plan, data.split, request, _origins(data, initial))
    return TrainingRecord.load(folder.record).identity == identity


def _origins(data: FoldData, initial: Path | None) -> dict[str, str]:
    """Return the digests of what a training begins with and learns from, by name."""
    found = {CASES: data.cases, EARLIER_STAGE: data.earlier_digest}
    origins = {name: digest for name, digest in found.items() if digest}
    return origins if initial is None else {"initial weights": digest_of_file(initial), **origins}


def _identity(plan: Plan, split: Split, request: TrainingRequest, origins: dict[str, str]) -> str:
    """Return the digest of all that decides the weights, but for the machine."""
    return digest_of(
        [
            plan.configurations[request.configuration].model_dump(mode="json"),
            plan.training.model_dump(mode="json"),
            split.model_dump(mode="json"),
            (request.seed, request.num_epochs, request.budget_s),
            origins,
        ]
    )


def _clear(folder: FoldFolder) -> None:
    """Delete what earlier trainings left."""
    with writing(folder.root):
        for path in (folder.record, folder.checkpoint, folder.spent, folder.history, folder.weights):
            path.unlink(missing_ok=True)


def _finish(fold: Fold, state: TrainingState, request: TrainingRequest, made_from: dict[str, str]) -> TrainingRecord:
    """Write the weights and the record of a training that is over, and return the record."""
    folder, trainer = fold.folder, fold.trainer
    with writing(folder.weights):
        save_weights(trainer.final_network.state_dict(), folder.weights)
    record = TrainingRecord(
        made_from=made_from | {WEIGHTS: digest_of_file(folder.weights)},
        configuration=request.configuration,
        fold=request.fold,
        identity=state.identity,
        seed=request.seed,
        num_epochs=state.epoch,
        num_steps=state.step,
        seconds=fold.clock.elapsed_s(),
        device=_device_name(trainer.device),
        precision=trainer.precision,
        versions=versions(),
        validation_dice=_class_dice(state.history[-1], fold.labels),
        waiting_share=state.waited_s / max(state.stepping_s, 1e-9),
        num_processes=request.team.size,
    )
    if record.waiting_share > WAITING_SHARE:
        log.warning("%s: %s", request.name, waiting_sentence(record.waiting_share, request.num_workers))
    with writing(folder.record):
        record.save(folder.record)
    _forget_progress(folder)
    return record


def _make_way(folder: FoldFolder, request: TrainingRequest, identity: str, initial: Path | None) -> None:
    """Delete or set aside, as was asked, what another training has left; weights to begin with must stay."""
    if initial is not None and (request.restart or request.makes_room):
        require_staying(initial, folder.weights)
    if request.restart:
        request.team.by_first(partial(_clear, folder))
    elif request.makes_room:
        request.team.by_first(partial(make_room, folder, identity))


def _forget_progress(folder: FoldFolder) -> None:
    """Delete what a training that is over would go on from; it may have been killed before it did so."""
    with writing(folder.root):
        for path in (folder.checkpoint, folder.spent):
            path.unlink(missing_ok=True)


def _require_cases(split: Split, request: TrainingRequest) -> None:
    for side, names in (("train on", split.train), ("hold out", split.validation)):
        if not names:
            raise TrainingError(
                f"fold {request.fold}: at least one case to {side} is needed, got none. Plan with fewer --num-folds."
            )


@contextmanager
def _locked(folder: FoldFolder, team: Team, patience_s: float = GLANCE_S) -> Iterator[None]:
    """Within the block, the first process holds the folder for all."""
    lock = filelock.FileLock(folder.lock, timeout=patience_s)
    team.by_first(partial(_hold, lock, folder))
    try:
        yield
    finally:
        lock.release()


def _hold(lock: filelock.BaseFileLock, folder: FoldFolder) -> None:
    with writing(folder.root):
        folder.root.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise TrainingError(
                f"{folder.root}: one training at a time must run here, found another. Wait for it, or end it."
            ) from None


def _sources(plan: Plan, data: FoldData, request: TrainingRequest) -> tuple[PatchSource, PatchSource]:
    """Return where training and validation patches come from."""
    configuration = plan.configurations[request.configuration]
    stage, num_foreground = configuration.previous_stage, configuration.num_earlier_channels
    earlier = EarlierStage(stage, num_foreground) if stage is not None else None

    def sampling(side: str) -> SamplingPlan:
        place = (side, request.configuration, request.fold)
        return replace(SamplingPlan.of(plan.training, configuration, request.seed, place), earlier=earlier)

    learnt = replace(sampling("train"), part=request.team.part(configuration.batch_size))
    watched = replace(sampling("validation"), augmentation=None)
    return PatchSource(data.folder, data.split.train, learnt), PatchSource(data.folder, data.split.validation, watched)


def _watching(watched: PatchSource, plan: Plan, request: TrainingRequest) -> Generator[Batch, None, None]:
    """Give the batches of validation, epoch after epoch; the first ones are read while an epoch learns."""
    num_workers = math.ceil(VALIDATION_SHARE * request.num_workers)
    return load_batches(watched, 0, num_workers, plan.training.validation_steps)


def _class_dice(row: Row, labels: Labels) -> dict[str, float | None]:
    values = {label.name: row[f"dice_{label.name}"] for label in labels.foreground}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
