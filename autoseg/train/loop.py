"""The training loop: one network, one configuration, one fold."""

import platform
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from torch import Tensor

import autoseg
from autoseg.core.artefact import digest_of
from autoseg.core.errors import TrainingError
from autoseg.core.labels import Labels
from autoseg.core.progress import Progress, Task
from autoseg.core.workspace import FoldFolder
from autoseg.data.splits import Split
from autoseg.network.checkpoint import save_weights
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan, Plan
from autoseg.train.record import (
    Row,
    TrainingRecord,
    TrainingState,
    different_training,
    load_state,
    save_state,
)
from autoseg.train.sampling import Batch, PatchSource, SamplingPlan, load_batches
from autoseg.train.schedule import Clock, learning_rate
from autoseg.train.trainer import Trainer

FORWARD_SHARE = 1 / 3
"""Of a training step's operations; a guess at the time of validation before it was measured."""


@dataclass(frozen=True)
class TrainingRequest:
    """What to train, for how long, where.

    Attributes:
        configuration: Entry of the plan.
        fold: Number of the split.
        num_epochs: Length in epochs; None where the budget decides.
        budget_s: Length in seconds of wall time, all included; None where the epochs decide.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        seed: Of weights, patches and augmentation.
        num_workers: Background processes that load patches; 0 loads between the steps.
        restart: Whether to throw away what an earlier training left in the folder.
    """

    configuration: ConfigurationName
    fold: int
    num_epochs: int | None
    budget_s: float | None
    device: str
    seed: int
    num_workers: int
    restart: bool


def train_fold(
    plan: Plan, split: Split, data_folder: Path, folder: FoldFolder, request: TrainingRequest, progress: Progress
) -> TrainingRecord:
    """Train one network, or go on with a training that was broken off, and return its record.

    Args:
        plan: Recipe and network.
        split: Names of the cases to learn from and to watch.
        data_folder: Preprocessed cases of the configuration.
        folder: Where weights, checkpoint and history go; held by a lock meanwhile.
        request: What to train, for how long, where.
        progress: Shows the training.

    Raises:
        TrainingError: If another process trains here, the folder holds another training, the split leaves a side empty,
            the configuration needs an earlier stage, or the loss is not finite.
    """
    configuration = plan.configurations[request.configuration]
    _require_trainable(plan, split, request)
    identity = digest_of(
        [
            configuration.model_dump(mode="json"),
            plan.training.model_dump(mode="json"),
            split.model_dump(mode="json"),
            (request.seed, request.num_epochs, request.budget_s),
        ]
    )
    with _locked(folder):
        if request.restart:
            for path in (folder.record, folder.checkpoint, folder.history, folder.weights):
                path.unlink(missing_ok=True)
        if folder.record.exists() and folder.weights.exists():
            record = TrainingRecord.load(folder.record)
            if record.identity != identity:
                raise TrainingError(different_training(folder))
            return record
        clock_start = time.monotonic()
        state = load_state(identity, folder)
        clock = Clock(request.num_epochs, request.budget_s, state.spent_s, clock_start)
        trainer = Trainer(plan.training, configuration, request.device, request.seed)
        trainer.restore(state)
        learning, watching = _sources(plan, configuration, split, data_folder, request)
        with closing(load_batches(learning, state.step, request.num_workers)) as batches:
            _run(_Fold(trainer, batches, watching, plan.labels, clock, folder), state, progress)
        save_weights(trainer.final_network.state_dict(), folder.weights)
        record = TrainingRecord(
            configuration=request.configuration,
            fold=request.fold,
            identity=identity,
            num_epochs=state.epoch,
            num_steps=state.step,
            seconds=clock.elapsed_s(),
            device=_device_name(trainer.device),
            precision=trainer.precision,
            versions={"autoseg": autoseg.__version__, "torch": torch.__version__, "python": platform.python_version()},
            validation_dice=_class_dice(state.history[-1], plan.labels),
        )
        record.save(folder.record)
        folder.checkpoint.unlink(missing_ok=True)
        return record


def _require_trainable(plan: Plan, split: Split, request: TrainingRequest) -> None:
    if previous := plan.configurations[request.configuration].previous_stage:
        raise TrainingError(
            f"--configuration: must be one that sees the scan alone, got {request.configuration}, which refines the"
            f" prediction of {previous}; cascades cannot be trained yet. Choose another one."
        )
    for side, names in (("train on", split.train), ("hold out", split.validation)):
        if not names:
            raise TrainingError(
                f"fold {request.fold}: at least one case to {side} is needed, got none. Plan with fewer --num-folds."
            )


@contextmanager
def _locked(folder: FoldFolder) -> Iterator[None]:
    folder.root.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.lock, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise TrainingError(
            f"{folder.root}: one training at a time must run here, found another. Wait for it, or end it."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _sources(
    plan: Plan, configuration: ConfigurationPlan, split: Split, data_folder: Path, request: TrainingRequest
) -> tuple[PatchSource, PatchSource]:
    """Return where training and validation patches come from."""

    def source(side: str, names: tuple[str, ...]) -> PatchSource:
        sampling = SamplingPlan(
            patch_size=configuration.patch_size,
            batch_size=configuration.batch_size,
            foreground_fraction=plan.training.foreground_fraction,
            augmentation=plan.training.augmentation if side == "train" else None,
            seed=request.seed,
            place=(side, request.configuration, request.fold),
        )
        return PatchSource(data_folder, names, sampling)

    return source("train", split.train), source("validation", split.validation)


@dataclass(frozen=True)
class _Fold:
    """What takes part in the training of a fold.

    Attributes:
        trainer: Learns and judges.
        batches: To learn from, from the present step on.
        watched: Patches of the held-out cases.
        labels: Classes.
        clock: How long.
        folder: Where checkpoints go.
    """

    trainer: Trainer
    batches: Iterator[Batch]
    watched: PatchSource
    labels: Labels
    clock: Clock
    folder: FoldFolder


def _run(fold: _Fold, state: TrainingState, progress: Progress) -> None:
    """Train epoch after epoch until the clock is over; checkpoint after each."""
    clock = fold.clock
    with progress.task("train", float(clock.budget_s or clock.num_epochs or 0)) as task:
        while not (state.epoch > 0 and clock.is_over(state.epoch, state.closing_s)):
            learnt = _train_epoch(fold, state, task)
            trained = time.monotonic()
            judged = _validate(fold)
            state.epoch += 1
            place = {"epoch": state.epoch, "steps": state.step, "seconds": clock.elapsed_s()}
            state.history.append({**place, **learnt, **judged})
            state.spent_s = clock.elapsed_s()
            state.tensors = fold.trainer.snapshot()
            save_state(state, fold.folder)
            state.closing_s = time.monotonic() - trained
            _show(task, clock, state.epoch, state.history[-1])


def _train_epoch(fold: _Fold, state: TrainingState, task: Task) -> Row:
    """Take the steps of an epoch, fewer where the budget would not leave time to close it; return what was learnt."""
    recipe, clock = fold.trainer.recipe, fold.clock
    started, waited = time.monotonic(), 0.0
    losses: list[Tensor] = []
    cases: list[list[str]] = []
    for index in range(recipe.steps_per_epoch):
        if index > 0 and clock.budget_s is not None:
            step_s = (time.monotonic() - started) / index
            closing_s = state.closing_s or recipe.validation_steps * step_s * FORWARD_SHARE
            if clock.is_over(state.epoch, closing_s + step_s):
                break
        asked = time.monotonic()
        batch = next(fold.batches)
        waited += time.monotonic() - asked
        rate = learning_rate(
            clock.progress(state.epoch + index / recipe.steps_per_epoch),
            peak=recipe.learning_rate,
            exponent=recipe.schedule_exponent,
            warmup_fraction=recipe.warmup_fraction,
        )
        losses.append(fold.trainer.step(batch, rate, state.step))
        cases.append(batch.cases)
        state.step += 1
        _show(task, clock, state.epoch + (index + 1) / recipe.steps_per_epoch)
    _require_finite(torch.stack(losses), cases)
    return {
        "learning_rate": rate,
        "training_loss": torch.stack(losses).mean().item(),
        "waiting_share": waited / max(time.monotonic() - started, 1e-9),
    }


def _require_finite(losses: Tensor, cases: list[list[str]]) -> None:
    """Raise if a loss of the epoch is not finite: with scaled gradients, steps skip what is not finite in silence."""
    bad = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
    if bad:
        names = sorted({name for index in bad for name in cases[index]})
        raise TrainingError(
            f"training: the loss must be finite, got {losses[bad[0]].item()} in {len(bad)} of {len(losses)} steps, for"
            f" the cases {', '.join(names)}. Run `autoseg check`; the last checkpoint is intact."
        )


def _validate(fold: _Fold) -> Row:
    """Return loss and Dice per class on patches of the held-out cases, all their voxels together."""
    losses, counts = [], []
    for step in range(fold.trainer.recipe.validation_steps):
        loss, count = fold.trainer.validate(fold.watched.batch(step))
        losses.append(loss)
        counts.append(count)
    hit, wrong, missed = torch.stack(counts).sum(0).double().cpu().numpy()[:, 1:]
    volume = 2 * hit + wrong + missed
    dice = np.divide(2 * hit, volume, out=np.full_like(hit, np.nan), where=volume > 0)
    names = [label.name for label in fold.labels.foreground]
    per_class = {f"dice_{name}": float(value) for name, value in zip(names, dice, strict=True)}
    return {
        "validation_loss": torch.stack(losses).mean().item(),
        "dice": float(np.nanmean(dice)) if not np.isnan(dice).all() else float("nan"),
        **per_class,
    }


def _show(task: Task, clock: Clock, epochs_done: float, row: Row | None = None) -> None:
    shown = {} if row is None else {"loss": f"{row['training_loss']:.3f}", "dice": f"{row['dice']:.3f}"}
    task.position(clock.elapsed_s() if clock.budget_s is not None else epochs_done, **shown)


def _class_dice(row: Row, labels: Labels) -> dict[str, float | None]:
    values = {label.name: row[f"dice_{label.name}"] for label in labels.foreground}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
