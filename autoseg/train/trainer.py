"""Network, optimiser and average of the weights, and what they do with a batch."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from autoseg.network.checkpoint import load_weights
from autoseg.network.device import Precision, best_precision, choose_device, gradients_in, mixed_precision, send
from autoseg.network.unet import UNet, place
from autoseg.plan.accumulation import samples_at_once
from autoseg.plan.schema import ConfigurationPlan, TrainingPlan
from autoseg.train.agreement import class_counts, region_counts
from autoseg.train.augment import AugmentationDraw, apply_augmentation
from autoseg.train.cascade import earlier_channels
from autoseg.train.distributed import ALONE, Team
from autoseg.train.failure import not_finite
from autoseg.train.initial import take_over
from autoseg.train.loss import Objective, Part, supervised_loss, supervision_weights
from autoseg.train.record import TrainingState
from autoseg.train.sampling import Batch


class Trainer:
    """Learns from batches and judges others."""

    def __init__(
        self, recipe: TrainingPlan, configuration: ConfigurationPlan, device: str, seed: int, team: Team = ALONE
    ) -> None:
        self.recipe = recipe
        self.configuration = configuration
        self.device = choose_device(device)
        if self.device.type == "cuda":
            # All patches have one shape, for which the fastest algorithm is looked for once, as nnU-Net has it.
            torch.backends.cudnn.benchmark = True
        self.precision: Precision = best_precision(self.device)
        self.team = team
        self.objective = Objective(
            batch_dice=configuration.batch_dice,
            smoothing=recipe.dice_smoothing,
            has_ignored=configuration.has_ignored,
            regions=configuration.regions,
        )
        self.weights = supervision_weights(len(configuration.network.decoder_convs), recipe.deep_supervision_decay)
        self.samples_at_once = samples_at_once(configuration, is_cpu=self.device.type == "cpu")
        torch.manual_seed(seed)
        self.network = place(UNet(configuration.network), self.device)
        self.averaged = copy.deepcopy(self.network) if self.recipe.weight_average_decay > 0 else None
        self.optimizer = _optimizer(self.network, self.recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")

    @property
    def final_network(self) -> UNet:
        """The network that predicts: the average where there is one."""
        return self.averaged if self.averaged is not None else self.network

    def start_from(self, path: Path) -> None:
        """Begin with the weights of a file that agree in name and shape.

        Raises:
            ArtefactError: If the file cannot be read.
            TrainingError: If no weights agree.
        """
        take_over(self.network, load_weights(path), path)
        if self.averaged is not None:
            self.averaged.load_state_dict(self.network.state_dict())

    def restore(self, state: TrainingState) -> None:
        """Go on from a checkpoint."""
        self.network.load_state_dict(state.tensors["network"])
        self.optimizer.load_state_dict(state.tensors["optimizer"])
        if state.tensors["scaler"]:  # empty where the training began in a precision that needs no scaling
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
        """Return images (B, C, ...) and maps (B, M, ...) of a batch on the device; see `apply_augmentation`."""
        maps = [batch.labels] if batch.earlier is None else [batch.labels, batch.earlier]
        images, *on_device = (send(torch.from_numpy(found), self.device) for found in (batch.images, *maps))
        return images, torch.stack(on_device, dim=1)

    def step(self, batch: Batch, rate: float, step: int) -> Tensor:
        """Learn from a batch, or with others from this process's part of it; return the loss of the whole.

        Raises:
            TrainingError: If loss or gradient is not finite, in full precision; half precision skips such steps. Or if
                another process has ended.
        """
        images, maps = self.to_device(batch)
        images, maps = apply_augmentation(images, maps, batch.draws, self.configuration.patch_size)
        labels = maps[:, 0]
        images = self._with_earlier(_blank_outside(images, labels, self.configuration), maps, batch.draws)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._accumulate(images, labels)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip)
        if not self.scaler.is_enabled() and not (torch.isfinite(loss) and torch.isfinite(norm)):
            found = f"loss {loss.item():.4g} and gradient norm {norm.item():.4g}"
            raise not_finite(step, found, batch, self.recipe, self.configuration.patch_size, self.team)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._average(step)
        return loss

    def _accumulate(self, images: Tensor, labels: Tensor) -> Tensor:
        """Sum up the gradients of a batch, as many samples at once as suit the device; return its loss."""
        self.network.train()
        loss = torch.zeros((), device=self.device)
        parts = (torch.split(tensor, self.samples_at_once) for tensor in (images, labels))
        for some_images, some_labels in zip(*parts, strict=True):
            with mixed_precision(self.device, self.precision):
                logits = self.network.forward_all(some_images)
            part = Part(len(some_images) / self.configuration.batch_size, self.team.total)
            partial = supervised_loss(logits, some_labels.clamp(min=0), self.weights, self.objective, part)
            with gradients_in(self.precision):
                torch.autograd.backward(self.scaler.scale(partial))
            loss += partial.detach()
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        self.team.add_up([*gradients, loss])
        return loss

    def _average(self, step: int) -> None:
        """Move the average of the weights towards the weights."""
        if self.averaged is not None:
            decay = min(self.recipe.weight_average_decay, (1 + step) / (self.recipe.weight_average_ramp_steps + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.averaged.parameters()), list(self.network.parameters()), 1 - decay)

    @torch.no_grad()
    def validate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return a batch's loss and, per class, its true positives, false positives, false negatives, (3, K).

        Where outputs are regions, the first of the K counts nothing.
        """
        images, maps = self.to_device(batch)
        images, labels = self._with_earlier(images, maps, []), maps[:, 0]
        network = self.final_network.eval()
        with mixed_precision(self.device, self.precision):
            logits = network(images)
        loss = supervised_loss([logits], labels.clamp(min=0), (1.0,), self.objective)
        truth, regions = labels.clamp(min=0).long(), self.configuration.regions
        return loss, region_counts(logits, truth, regions) if regions else class_counts(logits, truth)

    def _with_earlier(self, images: Tensor, maps: Tensor, draws: list[AugmentationDraw]) -> Tensor:
        """Return images with the channels of a cascade's earlier stage, where there is one."""
        if maps.shape[1] == 1:
            return images
        num_foreground = self.configuration.num_earlier_channels
        earlier = earlier_channels(maps[:, 1], [draw.earlier for draw in draws], num_foreground)
        return torch.cat((images, earlier.to(images.dtype)), dim=1)


def _optimizer(network: UNet, recipe: TrainingPlan) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            network.parameters(),
            recipe.learning_rate,
            betas=(recipe.momentum, recipe.second_momentum),
            weight_decay=recipe.weight_decay,
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
    within_mask = [entry.within_mask for entry in configuration.normalization]
    if not any(within_mask):
        return images
    masked = send(torch.tensor(within_mask), images.device)
    outside = (labels < 0).unsqueeze(1) & masked.view(1, -1, *(1,) * (images.ndim - 2))
    return images.masked_fill(outside, 0.0)
