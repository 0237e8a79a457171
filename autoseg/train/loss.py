"""Soft Dice plus cross-entropy, with deep supervision.

Shape letters: B batch, K classes (index 0 is the background), R regions, ... spatial axes. Labels hold class indices,
and K where nothing is annotated: such voxels count nowhere.
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
    return _one_minus_dice(foreground, truth, batch_dice=batch_dice, smoothing=smoothing)


def _one_minus_dice(found: Tensor, truth: Tensor, *, batch_dice: bool, smoothing: float) -> Tensor:
    """Return one minus the mean soft Dice of masks, (B, masks, voxels)."""
    pooled = (0, 2) if batch_dice else (2,)
    overlap = (found * truth).sum(pooled)
    volumes = found.sum(pooled) + truth.sum(pooled)
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


def region_masks(labels: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Return where each region is, bool (B, R, ...); nowhere where nothing is annotated.

    Args:
        labels: (B, ...) int64.
        regions: Class indices of each of R regions; every class but the background is in one at least.
    """
    table = torch.zeros(_num_classes(regions) + 1, len(regions), dtype=torch.bool)
    for region, members in enumerate(regions):
        table[list(members), region] = True
    return table.to(labels.device)[labels].movedim(-1, 1)


def annotated(labels: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Return where labels, (B, ...), are annotated, bool (B, 1, ...); for regions see `region_masks`."""
    return (labels < _num_classes(regions)).unsqueeze(1)


def dice_and_binary_cross_entropy(
    logits: Tensor, labels: Tensor, regions: Sequence[Sequence[int]], *, batch_dice: bool, smoothing: float
) -> Tensor:
    """Return the sum of Dice loss and mean binary cross-entropy over regions, in float32, where labels are annotated.

    Args:
        logits: (B, R, ...), one per region; regions do not exclude each other.
        labels: (B, ...) int64.
        regions: See `region_masks`.
        batch_dice: See `dice_loss`.
        smoothing: See `dice_loss`.

    Source:
        Isensee et al. 2020, nnU-Net for Brain Tumor Segmentation, arXiv:2011.00848, region-based training.
    """
    truth, valid = region_masks(labels, regions), annotated(labels, regions)
    entropy = functional.binary_cross_entropy_with_logits(logits.float(), truth.float(), reduction="none")
    mean_entropy = (entropy * valid).sum() / (valid.sum() * len(regions)).clamp(min=1)
    found = logits.float().sigmoid() * valid
    dice = _one_minus_dice(found.flatten(2), truth.flatten(2), batch_dice=batch_dice, smoothing=smoothing)
    return mean_entropy + dice


def _num_classes(regions: Sequence[Sequence[int]]) -> int:
    return 1 + max(max(members) for members in regions)


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
    logits: Sequence[Tensor],
    labels: Tensor,
    *,
    batch_dice: bool,
    smoothing: float,
    has_ignored: bool = False,
    regions: Sequence[Sequence[int]] = (),
) -> Tensor:
    """Return the weighted loss over all decoder outputs; labels shrink to each output's grid by nearest neighbour.

    Args:
        logits: (B, K, ...) per decoder stage, full resolution first.
        labels: (B, ...) at full resolution.
        batch_dice: See `dice_loss`.
        smoothing: See `dice_loss`.
        has_ignored: See `dice_loss`.
        regions: Class indices of the region of each logit; empty where logits are of classes that exclude each other.
    """
    total = logits[0].new_zeros((), dtype=torch.float32)
    for weight, output in zip(supervision_weights(len(logits)), logits, strict=True):
        if weight > 0:
            size = output.shape[2:]
            shrunk = functional.interpolate(labels.unsqueeze(1).float(), size=size, mode="nearest-exact")
            target = shrunk.squeeze(1).long()
            if regions:
                loss = dice_and_binary_cross_entropy(
                    output, target, regions, batch_dice=batch_dice, smoothing=smoothing
                )
            else:
                loss = dice_and_cross_entropy(
                    output, target, batch_dice=batch_dice, smoothing=smoothing, has_ignored=has_ignored
                )
            total = total + weight * loss
    return total
