"""How far predicted patches agree with their labels: counts of voxels per class or region.

Shape letters: B batch, K classes (index 0 is the background), R regions, ... spatial axes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from autoseg.train.loss import annotated, region_masks


def class_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """Return true positives, false positives and false negatives of each class, (3, K).

    Args:
        logits: (B, K, ...); the highest is predicted.
        labels: (B, ...) int64 class indices, K where nothing is annotated.
    """
    num_classes = logits.shape[1]
    pairs = torch.bincount((labels * num_classes + logits.argmax(1)).flatten(), minlength=num_classes**2)
    table = pairs[: num_classes**2].view(num_classes, num_classes)  # what follows was not annotated
    hit = table.diagonal()
    return torch.stack([hit, table.sum(0) - hit, table.sum(1) - hit])


def region_counts(logits: Tensor, labels: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Return true positives, false positives and false negatives of the background, as zeros, and regions, (3, 1 + R).

    Args:
        logits: (B, R, ...); above zero is predicted.
        labels: (B, ...) int64 class indices, K where nothing is annotated.
        regions: Class indices of each region.
    """
    truth = region_masks(labels, regions)
    found = (logits > 0) & annotated(labels, regions)
    axes = (0, *range(2, logits.ndim))
    counts = torch.stack([(found & truth).sum(axes), (found & ~truth).sum(axes), (~found & truth).sum(axes)])
    return torch.cat([counts.new_zeros(3, 1), counts], dim=1)
