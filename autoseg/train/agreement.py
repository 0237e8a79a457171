"""How far predicted patches agree with their labels: counts of voxels.

Shape letters: B batch, K classes (index 0 is the background), ... spatial axes.
"""

import torch
from torch import Tensor


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
