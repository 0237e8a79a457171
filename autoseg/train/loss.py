"""Soft Dice plus cross-entropy, with deep supervision.

Shape letters: B batch, K classes (index 0 is the background), ... spatial axes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def dice_loss(probabilities: Tensor, labels: Tensor, *, batch_dice: bool, smoothing: float) -> Tensor:
    """Return one minus the mean soft Dice of the foreground classes.

    Args:
        probabilities: (B, K, ...) float32.
        labels: (B, ...) int64 class indices.
        batch_dice: Pool the batch before dividing, instead of averaging the samples' Dice.
        smoothing: Added to numerator and denominator.

    Source:
        Milletari et al. 2016, arXiv:1606.04797; Isensee et al. 2021, Methods, loss function.
    """
    foreground = probabilities[:, 1:].flatten(2)
    classes = torch.arange(1, probabilities.shape[1], device=labels.device).view(1, -1, 1)
    truth = labels.flatten(1).unsqueeze(1) == classes
    pooled = (0, 2) if batch_dice else (2,)
    overlap = (foreground * truth).sum(pooled)
    volumes = foreground.sum(pooled) + truth.sum(pooled)
    return 1 - ((2 * overlap + smoothing) / (volumes + smoothing)).mean()


def dice_and_cross_entropy(logits: Tensor, labels: Tensor, *, batch_dice: bool, smoothing: float) -> Tensor:
    """Return the sum of Dice loss and mean cross-entropy, computed in float32."""
    log_probabilities = functional.log_softmax(logits.float(), dim=1)
    cross_entropy = functional.nll_loss(log_probabilities, labels)
    return cross_entropy + dice_loss(log_probabilities.exp(), labels, batch_dice=batch_dice, smoothing=smoothing)


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


def supervised_loss(logits: Sequence[Tensor], labels: Tensor, *, batch_dice: bool, smoothing: float) -> Tensor:
    """Return the weighted loss over all decoder outputs; labels shrink to each output's grid by nearest neighbour.

    Args:
        logits: (B, K, ...) per decoder stage, full resolution first.
        labels: (B, ...) class indices at full resolution.
        batch_dice: See `dice_loss`.
        smoothing: See `dice_loss`.
    """
    total = logits[0].new_zeros((), dtype=torch.float32)
    for weight, output in zip(supervision_weights(len(logits)), logits, strict=True):
        if weight > 0:
            size = output.shape[2:]
            shrunk = functional.interpolate(labels.unsqueeze(1).float(), size=size, mode="nearest-exact")
            target = shrunk.squeeze(1).long()
            total = total + weight * dice_and_cross_entropy(output, target, batch_dice=batch_dice, smoothing=smoothing)
    return total
