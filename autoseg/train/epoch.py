"""Epoch after epoch of one training; between any two steps it can be left and gone on with."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from autoseg.core.errors import InterruptionError, TrainingError
from autoseg.core.labels import Labels
from autoseg.core.progress import Progress, Task
from autoseg.core.workspace import FoldFolder
from autoseg.train.failure import broken_samples, computing, not_finite, reading, writing
from autoseg.train.record import OpenEpoch, Row, TrainingState, note_spent, save_state
from autoseg.train.sampling import Batch, PatchSource
from autoseg.train.schedule import Clock, learning_rate
from autoseg.train.trainer import Trainer

log = logging.getLogger(__name__)

FORWARD_SHARE = 1 / 3
"""Of a training step's operations; a guess at the time of validation before it was measured."""

CLASSES_SHOWN = 4
"""Beside the progress bar; of more classes, the ones with the lowest Dice."""

WAITING_SHARE = 0.05
"""Of the time of an epoch's steps; where more passes until patches are there, loading slows the training down."""

NOTE_S = 5.0
"""After so many seconds it is noted anew how long a training has taken: so much may a kill cost of a budget."""

MOST_SKIPPED_SHARE = 0.1
"""Of an epoch's steps, that half precision may skip because their loss is not finite; one in any case."""

LEAST_SCALE = 1.0
"""Of gradients in half precision; a lower one says that they are not finite even where they are not scaled up."""


@dataclass(frozen=True)
class Fold:
    """What takes part in the training of a fold.

    Attributes:
        name: Of the training, for people.
        trainer: Learns and judges.
        batches: To learn from, from the present step on.
        learning: Where these come from.
        watched: Patches of the held-out cases, the same ones for every epoch, without end.
        labels: Classes.
        clock: How long.
        folder: Where checkpoints go.
        should_stop: Whether to leave after the present step.
        after_epoch: Called when an epoch is on disk.
    """

    name: str
    trainer: Trainer
    batches: Iterator[Batch]
    learning: PatchSource
    watched: Iterator[Batch]
    labels: Labels
    clock: Clock
    folder: FoldFolder
    should_stop: Callable[[], bool]
    after_epoch: Callable[[], None]


def train_epochs(fold: Fold, state: TrainingState, progress: Progress) -> None:
    """Train until the clock is over; checkpoint after each epoch.

    Raises:
        InterruptionError: If `fold.should_stop` says so, with a checkpoint of that moment on disk.
        TrainingError: If the training cannot go on.
    """
    clock, team = fold.clock, fold.trainer.team
    with progress.task(fold.name, float(clock.budget_s or clock.num_epochs or 0)) as task:
        _show(task, clock, state.epoch + len(state.under_way.losses) / fold.trainer.recipe.steps_per_epoch)
        while not team.decided(state.epoch > 0 and clock.is_over(state.epoch, state.closing_s)):
            _learn(fold, state, task)
            learnt = time.monotonic()
            row = {**_learnt(fold, state), **team.by_first(partial(_validate, fold, state))}
            state.epoch += 1
            place = {"epoch": state.epoch, "steps": state.step, "seconds": clock.elapsed_s()}
            state.history.append({**place, **row})
            state.under_way = OpenEpoch()
            team.by_first(partial(_close, fold, state))
            state.closing_s = time.monotonic() - learnt
            _show(task, clock, state.epoch, **_epoch_texts(row))


def _learn(fold: Fold, state: TrainingState, task: Task) -> None:
    """Take the steps that the epoch lacks, fewer where the budget would not leave time to close it."""
    recipe, clock, epoch, team = fold.trainer.recipe, fold.clock, state.under_way, fold.trainer.team
    while len(epoch.losses) < recipe.steps_per_epoch and not team.decided(_must_close(fold, state)):
        if team.any(fold.should_stop()):
            team.by_first(partial(_leave, fold, state))
        started = time.monotonic()
        batch = _next_batch(fold, state, fold.batches)
        waited_s = time.monotonic() - started
        rate = learning_rate(
            clock.progress(state.epoch + len(epoch.losses) / recipe.steps_per_epoch),
            peak=recipe.learning_rate,
            exponent=recipe.schedule_exponent,
            warmup_fraction=recipe.warmup_fraction,
        )
        with computing():
            epoch.losses.append(fold.trainer.step(batch, team.decided(rate), state.step))
        state.step += 1
        epoch.learning_rate = rate
        epoch.waited_s += waited_s
        epoch.seconds += time.monotonic() - started
        _note(fold, state)
        _show(task, clock, state.epoch + len(epoch.losses) / recipe.steps_per_epoch, lr=f"{rate:.2g}")


def _must_close(fold: Fold, state: TrainingState) -> bool:
    """Return whether another step would not leave the time within the budget to validate and to write."""
    num_steps = len(state.under_way.losses)
    if num_steps == 0 or fold.clock.budget_s is None:
        return False
    step_s = state.under_way.seconds / num_steps
    closing_s = state.closing_s or fold.trainer.recipe.validation_steps * step_s * FORWARD_SHARE
    return fold.clock.is_over(state.epoch, closing_s + step_s)


def _next_batch(fold: Fold, state: TrainingState, batches: Iterator[Batch]) -> Batch:
    try:
        with reading():
            return next(batches)
    except TrainingError:
        if fold.should_stop() and fold.trainer.team.is_first:
            _leave(fold, state)  # What ends the training may end its workers at the same moment.
        raise


def _learnt(fold: Fold, state: TrainingState) -> Row:
    """Return what the steps of the epoch came to.

    Raises:
        TrainingError: If half precision has skipped steps for what will not change.
    """
    epoch = state.under_way
    losses = torch.stack([loss.cpu() for loss in epoch.losses])
    if fold.trainer.scaler.is_enabled():
        _judge_skipped(fold, state.step - len(losses), losses)
        losses = losses[torch.isfinite(losses)]
    state.stepping_s += epoch.seconds
    state.waited_s += epoch.waited_s
    return {
        "learning_rate": epoch.learning_rate,
        "training_loss": losses.mean().item(),
        "waiting_share": epoch.waited_s / max(epoch.seconds, 1e-9),
    }


def _judge_skipped(fold: Fold, first_step: int, losses: Tensor) -> None:
    """Say how many steps half precision has skipped, as it may: the scale of the gradients is found by trial.

    Args:
        fold: That is trained.
        first_step: Number of the epoch's first step.
        losses: Of its steps.

    Raises:
        TrainingError: If a scan is not finite, or so much else that nothing is learnt.
    """
    trainer = fold.trainer
    skipped = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
    refused = partial(not_finite, recipe=trainer.recipe, patch_size=trainer.configuration.patch_size, team=trainer.team)
    is_hopeless = len(skipped) > max(1, MOST_SKIPPED_SHARE * len(losses))
    for place in skipped:
        batch = fold.learning.batch(first_step + place)
        if trainer.team.any(bool(broken_samples(batch))) or (is_hopeless and place == skipped[-1]):
            found = f"loss {losses[place].item()} in {len(skipped)} of {len(losses)} steps"
            raise refused(first_step + place, found, batch)
    if (scale := trainer.scaler.get_scale()) < LEAST_SCALE:
        last = first_step + len(losses) - 1
        raise refused(last, f"gradients that are not, scaled by {scale:.2g}", fold.learning.batch(last))
    if skipped and trainer.team.is_first:
        log.warning(
            "%s: half precision has skipped %d of %d steps whose loss was not finite. The training goes on.",
            fold.folder.root,
            len(skipped),
            len(losses),
        )


def _validate(fold: Fold, state: TrainingState) -> Row:
    """Return loss and Dice per class on patches of the held-out cases, all their voxels together."""
    losses, counts = [], []
    for _ in range(fold.trainer.recipe.validation_steps):
        if fold.should_stop():
            _leave(fold, state)
        batch = _next_batch(fold, state, fold.watched)
        with computing():
            loss, count = fold.trainer.validate(batch)
        losses.append(loss)
        counts.append(count)
        _note(fold, state)
    hit, wrong, missed = torch.stack(counts).sum(0).cpu().double().numpy()[:, 1:]
    volume = 2 * hit + wrong + missed
    dice = np.divide(2 * hit, volume, out=np.full_like(hit, np.nan), where=volume > 0)
    names = [label.name for label in fold.labels.foreground]
    per_class = {f"dice_{name}": float(value) for name, value in zip(names, dice, strict=True)}
    return {
        "validation_loss": torch.stack(losses).mean().item(),
        "dice": float(np.nanmean(dice)) if not np.isnan(dice).all() else float("nan"),
        **per_class,
    }


def _leave(fold: Fold, state: TrainingState) -> NoReturn:
    _checkpoint(fold, state)
    raise InterruptionError(
        f"{fold.folder.root}: training left in epoch {state.epoch + 1} after step {state.step}, with a checkpoint."
        " The same command goes on from there."
    )


def _close(fold: Fold, state: TrainingState) -> None:
    """Write the checkpoint of an epoch that is done, and have its consequences follow."""
    _checkpoint(fold, state)
    fold.after_epoch()


def _note(fold: Fold, state: TrainingState) -> None:
    """Note now and then how long the training has taken: what it learns until it is killed is lost, the time is not."""
    clock = fold.clock
    if fold.trainer.team.is_first and clock.elapsed_s() - clock.noted_s >= NOTE_S:
        clock.noted_s = clock.elapsed_s()
        with writing(fold.folder.spent):
            note_spent(state.identity, clock.noted_s, fold.folder)


def _checkpoint(fold: Fold, state: TrainingState) -> None:
    state.spent_s = fold.clock.noted_s = fold.clock.elapsed_s()
    state.tensors = fold.trainer.snapshot()
    with writing(fold.folder.checkpoint):
        save_state(state, fold.folder)


def _show(task: Task, clock: Clock, epochs_done: float, **shown: str) -> None:
    task.position(clock.elapsed_s() if clock.budget_s is not None else epochs_done, **shown)


def waiting_sentence(share: float, num_workers: int) -> str:
    """Return what to do about patches that a training waits for.

    Args:
        share: Of the time of the steps that passed until their patches were there.
        num_workers: Processes that load patches.
    """
    remedy = (
        f"Load with more --workers than {num_workers}, or keep the workspace on a faster disk."
        if num_workers
        else "They are read between its steps, which shows with small networks: if the disk is slow, use a faster disk."
    )
    return f"Training waited for patches {share:.0%} of the time of its steps. {remedy}"


def _epoch_texts(row: Row) -> dict[str, str]:
    """Return losses, learning and held out, and Dice, mean and per class, as they stand beside the progress bar."""
    classes = {name.removeprefix("dice_"): dice for name, dice in row.items() if name.startswith("dice_")}
    lowest = sorted(classes, key=lambda name: (np.isnan(classes[name]), classes[name]))[:CLASSES_SHOWN]
    each = ", ".join(f"{name} {classes[name]:.2f}" for name in classes if name in lowest)
    return {
        "waiting": f"{row['waiting_share']:.0%}",
        "loss": f"{row['training_loss']:.3f}/{row['validation_loss']:.3f}",
        "dice": f"{row['dice']:.3f} ({each})",
    }
