"""Soft Dice plus cross-entropy, with deep supervision.

Shape letters: B batch, K classes (index 0 is the background), ... spatial axes. Labels hold class indices, and K where
nothing is annotated: such voxels count nowhere.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def dice_loss(
    probabilities: Tensor, labels: Tensor, *, batch_dice: bool, smoothing: float, has_ignored: bool = False
) -> Tensor:
    """Return one minus the mean soft Dice of the foreground classes.

    Args:
        probabilities: (B, K, ...) float32.
        labels: (B, ...) int64.
        batch_dice: Pool the batch before dividing, instead of averaging the samples' Dice.
        smoothing: Added to numerator and denominator.
        has_ignored: Whether labels may hold K.

    Source:
        Milletari et al. 2016, arXiv:1606.04797; Isensee et al. 2021, Methods, loss function.
    """
    foreground = probabilities[:, 1:].flatten(2)
    if has_ignored:
        foreground = foreground * (labels.flatten(1) < probabilities.shape[1]).unsqueeze(1)
    classes = torch.arange(1, probabilities.shape[1], device=labels.device).view(1, -1, 1)
    truth = labels.flatten(1).unsqueeze(1) == classes
    pooled = (0, 2) if batch_dice else (2,)
    overlap = (foreground * truth).sum(pooled)
    volumes = foreground.sum(pooled) + truth.sum(pooled)
    return 1 - ((2 * overlap + smoothing) / (volumes + smoothing)).mean()


def dice_and_cross_entropy(
    logits: Tensor, labels: Tensor, *, batch_dice: bool, smoothing: float, has_ignored: bool = False
) -> Tensor:
    """Return the sum of Dice loss and mean cross-entropy over the annotated voxels, computed in float32."""
    log_probabilities = functional.log_softmax(logits.float(), dim=1)
    if has_ignored:
        num_classes = logits.shape[1]
        summed = functional.nll_loss(log_probabilities, labels, ignore_index=num_classes, reduction="sum")
        cross_entropy = summed / (labels < num_classes).sum().clamp(min=1)
    else:
        cross_entropy = functional.nll_loss(log_probabilities, labels)
    dice = dice_loss(
        log_probabilities.exp(), labels, batch_dice=batch_dice, smoothing=smoothing, has_ignored=has_ignored
    )
    return cross_entropy + dice


def supervision_weights(num_outputs: int) -> list[float]:
    """Return the weight of each decoder output, full resolution first: halved stage by stage, the coarsest left out.

    A network with a single output keeps it.

    Source:
        Isensee et al. 2021, Methods, deep supervision; rules/blueprint.toml [training.deep_supervision].
    """
    weights = [0.5**stage for stage in range(num_outputs)]
    if num_outputs > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def supervised_loss(
    logits: Sequence[Tensor], labels: Tensor, *, batch_dice: bool, smoothing: float, has_ignored: bool = False
) -> Tensor:
    """Return the weighted loss over all decoder outputs; labels shrink to each output's grid by nearest neighbour.

    Args:
        logits: (B, K, ...) per decoder stage, full resolution first.
        labels: (B, ...) at full resolution.
        batch_dice: See `dice_loss`.
        smoothing: See `dice_loss`.
        has_ignored: See `dice_loss`.
    """
    total = logits[0].new_zeros((), dtype=torch.float32)
    for weight, output in zip(supervision_weights(len(logits)), logits, strict=True):
        if weight > 0:
            size = output.shape[2:]
            shrunk = functional.interpolate(labels.unsqueeze(1).float(), size=size, mode="nearest-exact")
            target = shrunk.squeeze(1).long()
            loss = dice_and_cross_entropy(
                output, target, batch_dice=batch_dice, smoothing=smoothing, has_ignored=has_ignored
            )
            total = total + weight * loss
    return total
