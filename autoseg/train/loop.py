"""The training loop: one network, one configuration, one fold."""

import copy
import logging
import platform
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from torch import Tensor, nn

import autoseg
from autoseg.core.artefact import digest_of
from autoseg.core.errors import TrainingError
from autoseg.core.progress import Progress, Task
from autoseg.core.workspace import FoldFolder
from autoseg.data.splits import Split
from autoseg.network.checkpoint import save_weights
from autoseg.network.device import Precision, best_precision, choose_device, mixed_precision
from autoseg.network.unet import UNet
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan, Plan, TrainingPlan
from autoseg.train.augment import apply_augmentation
from autoseg.train.loss import supervised_loss
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

log = logging.getLogger(__name__)


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
        TrainingError: If another process trains here, the folder holds another training, or the loss is not finite.
    """
    configuration = plan.configurations[request.configuration]
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
        if folder.record.exists():
            record = TrainingRecord.load(folder.record)
            if record.identity != identity:
                raise TrainingError(different_training(folder))
            return record
        clock_start = time.monotonic()
        state = load_state(identity, folder)
        clock = Clock(request.num_epochs, request.budget_s, state.spent_s, clock_start)
        trainer = _Trainer(plan, configuration, request)
        trainer.restore(state)
        _run(trainer, state, clock, _sources(plan, configuration, split, data_folder, request), folder, progress)
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
            validation_dice=_class_dice(state.history[-1], plan),
        )
        record.save(folder.record)
        folder.checkpoint.unlink(missing_ok=True)
        return record


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


class _Trainer:
    """Network, optimiser and average of the weights, and what they do with a batch."""

    def __init__(self, plan: Plan, configuration: ConfigurationPlan, request: TrainingRequest) -> None:
        self.plan = plan
        self.recipe: TrainingPlan = plan.training
        self.configuration = configuration
        self.num_workers = request.num_workers
        self.device = choose_device(request.device)
        self.precision: Precision = best_precision(self.device)
        torch.manual_seed(request.seed)
        self.network = UNet(configuration.network).to(self.device)
        self.averaged = copy.deepcopy(self.network) if self.recipe.weight_average_decay > 0 else None
        self.optimizer = _optimizer(self.network, self.recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")

    @property
    def final_network(self) -> UNet:
        """The network that predicts: the average where there is one."""
        return self.averaged if self.averaged is not None else self.network

    def restore(self, state: TrainingState) -> None:
        """Go on from a checkpoint."""
        if not state.tensors:
            return
        self.network.load_state_dict(state.tensors["network"])
        self.optimizer.load_state_dict(state.tensors["optimizer"])
        self.scaler.load_state_dict(state.tensors["scaler"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state.tensors["averaged"])

    def snapshot(self) -> dict[str, object]:
        """Return everything that `restore` needs."""
        return {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return images and labels of a batch on the device."""
        images = torch.from_numpy(batch.images).to(self.device, non_blocking=True)
        labels = torch.from_numpy(batch.labels).to(self.device, non_blocking=True)
        return images, labels

    def step(self, batch: Batch, rate: float, step: int) -> Tensor:
        """Learn from a batch; return its loss."""
        images, labels = self.to_device(batch)
        images, labels = apply_augmentation(images, labels, batch.draws, self.configuration.patch_size)
        images = _blank_outside(images, labels, self.configuration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        with mixed_precision(self.device, self.precision):
            logits = self.network.forward_all(images)
        loss = self._loss(logits, labels)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip)
        if not self.scaler.is_enabled() and not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise TrainingError(
                f"step {step}: loss and gradient must be finite, got loss {loss.item()} and gradient norm {norm.item()}"
                f" for the cases {', '.join(batch.cases)} with {batch.draws}. Run `autoseg check`, or lower the"
                " learning rate; the last checkpoint is intact."
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averaged is not None:
            decay = min(self.recipe.weight_average_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.averaged.parameters()), list(self.network.parameters()), 1 - decay)
        return loss.detach()

    @torch.no_grad()
    def validate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return a batch's loss and, per class, its true positives, false positives, false negatives, (3, K)."""
        images, labels = self.to_device(batch)
        network = self.final_network.eval()
        with mixed_precision(self.device, self.precision):
            logits = network(images)
        loss = self._loss([logits], labels)
        classes = torch.arange(logits.shape[1], device=self.device).view(-1, *(1,) * labels.ndim)
        predicted, truth = logits.argmax(1) == classes, labels.clamp(min=0) == classes
        spatial = tuple(range(1, labels.ndim + 1))
        counts = [
            (predicted & truth).sum(spatial),
            (predicted & ~truth).sum(spatial),
            (~predicted & truth).sum(spatial),
        ]
        return loss, torch.stack(counts)

    def _loss(self, logits: list[Tensor], labels: Tensor) -> Tensor:
        return supervised_loss(
            logits,
            labels.clamp(min=0),
            batch_dice=self.configuration.batch_dice,
            smoothing=self.recipe.dice_smoothing,
        )


def _optimizer(network: UNet, recipe: TrainingPlan) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            network.parameters(), recipe.learning_rate, betas=(recipe.momentum, 0.999), weight_decay=recipe.weight_decay
        )
    return torch.optim.SGD(
        network.parameters(),
        recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )


def _blank_outside(images: Tensor, labels: Tensor, configuration: ConfigurationPlan) -> Tensor:
    """Set channels that are normalised within the mask to zero outside it, as they are in whole scans."""
    masked = torch.tensor([entry.within_mask for entry in configuration.normalization], device=images.device)
    if not bool(masked.any()):
        return images
    outside = (labels < 0).unsqueeze(1) & masked.view(1, -1, *(1,) * (images.ndim - 2))
    return images.masked_fill(outside, 0.0)


def _run(
    trainer: _Trainer,
    state: TrainingState,
    clock: Clock,
    sources: tuple[PatchSource, PatchSource],
    folder: FoldFolder,
    progress: Progress,
) -> None:
    """Train epoch after epoch until the clock is over; checkpoint after each."""
    closing_s = 0.0
    with (
        closing(load_batches(sources[0], state.step, trainer.num_workers)) as batches,
        progress.task("train", float(clock.budget_s or clock.num_epochs or 0)) as task,
    ):
        while not (state.epoch > 0 and clock.is_over(state.epoch, closing_s)):
            learnt = _train_epoch(trainer, batches, state, clock, closing_s, task)
            trained = time.monotonic()
            watched = _validate(trainer, sources[1])
            state.epoch += 1
            place = {"epoch": state.epoch, "steps": state.step, "seconds": clock.elapsed_s()}
            state.history.append({**place, **learnt, **watched})
            state.spent_s = clock.elapsed_s()
            state.tensors = trainer.snapshot()
            save_state(state, folder)
            closing_s = time.monotonic() - trained
            _show(task, clock, state.epoch, state.history[-1])


def _train_epoch(
    trainer: _Trainer, batches: Iterator[Batch], state: TrainingState, clock: Clock, closing_s: float, task: Task
) -> Row:
    """Take the steps of an epoch, fewer where the budget ends `closing_s` later; return rate, loss and waiting."""
    recipe = trainer.recipe
    started, waited = time.monotonic(), 0.0
    losses: list[Tensor] = []
    cases: list[list[str]] = []
    for index in range(recipe.steps_per_epoch):
        if index > 0 and clock.budget_s is not None and clock.is_over(state.epoch, closing_s):
            break
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        rate = learning_rate(
            clock.progress(state.epoch + index / recipe.steps_per_epoch),
            peak=recipe.learning_rate,
            exponent=recipe.schedule_exponent,
            warmup_fraction=recipe.warmup_fraction,
        )
        losses.append(trainer.step(batch, rate, state.step))
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


def _validate(trainer: _Trainer, source: PatchSource) -> Row:
    """Return loss and Dice per class on patches of the held-out cases, all their voxels together."""
    losses, counts = [], []
    for step in range(trainer.recipe.validation_steps):
        loss, count = trainer.validate(source.batch(step))
        losses.append(loss)
        counts.append(count)
    hit, wrong, missed = torch.stack(counts).sum(0).double().cpu().numpy()[:, 1:]
    volume = 2 * hit + wrong + missed
    dice = np.divide(2 * hit, volume, out=np.full_like(hit, np.nan), where=volume > 0)
    names = [label.name for label in trainer.plan.labels.foreground]
    per_class = {f"dice_{name}": float(value) for name, value in zip(names, dice, strict=True)}
    return {
        "validation_loss": torch.stack(losses).mean().item(),
        "dice": float(np.nanmean(dice)) if not np.isnan(dice).all() else float("nan"),
        **per_class,
    }


def _show(task: Task, clock: Clock, epochs_done: float, row: Row | None = None) -> None:
    shown = {} if row is None else {"loss": f"{row['training_loss']:.3f}", "dice": f"{row['dice']:.3f}"}
    task.position(clock.elapsed_s() if clock.budget_s is not None else epochs_done, **shown)


def _class_dice(row: Row, plan: Plan) -> dict[str, float | None]:
    values = {label.name: row[f"dice_{label.name}"] for label in plan.labels.foreground}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
