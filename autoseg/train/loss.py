"""Soft Dice plus cross-entropy, with deep supervision.

Shape letters: B batch, K classes (index 0 is the background), R regions, ... spatial axes. Labels hold class indices,
and K where nothing is annotated: such voxels count nowhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from autoseg.network.device import send


@dataclass(frozen=True)
class Objective:
    """What a network is to learn, at one resolution.

    Attributes:
        batch_dice: Pool the batch before dividing, instead of averaging the samples' Dice.
        smoothing: Added to numerator and denominator of the Dice.
        has_ignored: Whether labels may hold K.
        regions: Class indices of each of R regions, every class but the background in one at least; empty where
            outputs are classes that exclude each other.
    """

    batch_dice: bool
    smoothing: float
    has_ignored: bool = False
    regions: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Part:
    """The part of a batch that a loss is computed of. The losses of all parts, and their gradients, sum to the batch's.

    Attributes:
        share: Of the batch's samples.
        total: Adds up a tensor over the parts that other processes compute at the same time; gradients stay those of
            this part. Parts that are computed one after the other need an objective that is a mean of samples.
    """

    share: float
    total: Callable[[Tensor], Tensor]

    def once(self, pooled: Tensor) -> Tensor:
        """Return a loss that all parts share: the part's share in value, the whole of its gradient."""
        return pooled - (1 - self.share) * pooled.detach()


WHOLE = Part(share=1.0, total=lambda tensor: tensor)
"""All of a batch."""


def dice_loss(probabilities: Tensor, labels: Tensor, objective: Objective, part: Part = WHOLE) -> Tensor:
    """Return one minus the mean soft Dice of the foreground classes.

    Args:
        probabilities: (B, K, ...) float32.
        labels: (B, ...) int64.
        objective: Of classes that exclude each other.
        part: Of the batch.

    Source:
        Milletari et al. 2016, arXiv:1606.04797; Isensee et al. 2021, Methods, loss function.
    """
    foreground = probabilities[:, 1:].flatten(2)
    if objective.has_ignored:
        foreground = foreground * (labels.flatten(1) < probabilities.shape[1]).unsqueeze(1)
    classes = torch.arange(1, probabilities.shape[1], device=labels.device).view(1, -1, 1)
    truth = labels.flatten(1).unsqueeze(1) == classes
    return _one_minus_dice(foreground, truth, objective, part)


def _one_minus_dice(found: Tensor, truth: Tensor, objective: Objective, part: Part) -> Tensor:
    """Return one minus the mean soft Dice of masks, (B, masks, voxels)."""
    pooled = (0, 2) if objective.batch_dice else (2,)
    sums = torch.stack([(found * truth).sum(pooled), found.sum(pooled) + truth.sum(pooled)])
    overlap, volumes = part.total(sums) if objective.batch_dice else sums
    loss = 1 - ((2 * overlap + objective.smoothing) / (volumes + objective.smoothing)).mean()
    return part.once(loss) if objective.batch_dice else part.share * loss


def dice_and_cross_entropy(logits: Tensor, labels: Tensor, objective: Objective, part: Part = WHOLE) -> Tensor:
    """Return the sum of Dice loss and mean cross-entropy over the annotated voxels, computed in float32.

    Args:
        logits: (B, K, ...), one per class; classes exclude each other.
        labels: (B, ...) int64.
        objective: Without regions.
        part: Of the batch.
    """
    log_probabilities = functional.log_softmax(logits.float(), dim=1)
    if objective.has_ignored:
        num_classes = logits.shape[1]
        summed = functional.nll_loss(log_probabilities, labels, ignore_index=num_classes, reduction="sum")
        cross_entropy = summed / part.total((labels < num_classes).sum()).clamp(min=1)
    else:
        cross_entropy = part.share * functional.nll_loss(log_probabilities, labels)
    return cross_entropy + dice_loss(log_probabilities.exp(), labels, objective, part)


def region_masks(labels: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Return where each region is, bool (B, R, ...); nowhere where nothing is annotated.

    Args:
        labels: (B, ...) int64.
        regions: Class indices of each of R regions; every class but the background is in one at least.
    """
    table = torch.zeros(_num_classes(regions) + 1, len(regions), dtype=torch.bool)
    for region, members in enumerate(regions):
        table[list(members), region] = True
    return send(table, labels.device)[labels].movedim(-1, 1)


def annotated(labels: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Return where labels, (B, ...), are annotated, bool (B, 1, ...); for regions see `region_masks`."""
    return (labels < _num_classes(regions)).unsqueeze(1)


def dice_and_binary_cross_entropy(logits: Tensor, labels: Tensor, objective: Objective, part: Part = WHOLE) -> Tensor:
    """Return the sum of Dice loss and mean binary cross-entropy over regions, in float32, where labels are annotated.

    Args:
        logits: (B, R, ...), one per region; regions do not exclude each other.
        labels: (B, ...) int64.
        objective: With regions.
        part: Of the batch.

    Source:
        Isensee et al. 2020, nnU-Net for Brain Tumor Segmentation, arXiv:2011.00848, region-based training.
    """
    truth = region_masks(labels, objective.regions)
    entropy = functional.binary_cross_entropy_with_logits(logits.float(), truth.float(), reduction="none")
    found = logits.float().sigmoid()
    if objective.has_ignored:
        valid = annotated(labels, objective.regions)
        num_decisions = part.total(valid.sum()) * len(objective.regions)
        mean_entropy = (entropy * valid).sum() / num_decisions.clamp(min=1)
        found = found * valid
    else:
        mean_entropy = part.share * entropy.mean()
    return mean_entropy + _one_minus_dice(found.flatten(2), truth.flatten(2), objective, part)


def _num_classes(regions: Sequence[Sequence[int]]) -> int:
    return 1 + max(max(members) for members in regions)


def supervision_weights(num_outputs: int, decay: float) -> tuple[float, ...]:
    """Return the weight of each decoder output, full resolution first; the coarsest has none, unless it is alone.

    Args:
        num_outputs: Of the network.
        decay: Weight of an output as a share of that of the next finer one.

    Source:
        Isensee et al. 2021, Methods, deep supervision; rules/blueprint.toml [training.deep_supervision_decay].
    """
    weights = [decay**stage for stage in range(num_outputs)]
    if num_outputs > 1:
        weights[-1] = 0.0
    return tuple(weight / sum(weights) for weight in weights)


def supervised_loss(
    logits: Sequence[Tensor], labels: Tensor, weights: Sequence[float], objective: Objective, part: Part = WHOLE
) -> Tensor:
    """Return the weighted loss over decoder outputs; labels shrink to each output's grid by nearest neighbour.

    Args:
        logits: (B, K, ...) or (B, R, ...) per decoder stage, full resolution first.
        labels: (B, ...) at full resolution.
        weights: Of each output; see `supervision_weights`.
        objective: At each resolution.
        part: Of the batch.
    """
    of_output = dice_and_binary_cross_entropy if objective.regions else dice_and_cross_entropy
    total = logits[0].new_zeros((), dtype=torch.float32)
    for weight, output in zip(weights, logits, strict=True):
        if weight > 0:
            shrunk = functional.interpolate(labels.unsqueeze(1).float(), size=output.shape[2:], mode="nearest-exact")
            total = total + weight * of_output(output, shrunk.squeeze(1).long(), objective, part)
    return total
