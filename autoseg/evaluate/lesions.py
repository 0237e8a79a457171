"""Detection of lesions: which connected components of a reference a prediction has found.

A lesion is a component of a mask, connected through faces, edges or corners. A predicted lesion matches one of the
reference if their intersection over union is at least a threshold; each lesion has one partner at most, and pairs are
made in the order of falling overlap.

What empty masks give:

| | both empty | no reference lesion | no predicted lesion |
|---|---|---|---|
| precision | None | 0 | None |
| recall | None | None | 0 |
| F1 | None | 0 | 0 |
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.core.geometry import bounding_box, box_slices


@dataclass(frozen=True)
class Detection:
    """How many lesions there are and how many have found each other.

    Attributes:
        predicted, reference: Lesions of either mask.
        matched: Pairs of a predicted and a reference lesion.
    """

    predicted: int
    reference: int
    matched: int

    @property
    def precision(self) -> float | None:
        """Share of the predicted lesions that are there; None if none is predicted."""
        return self.matched / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Share of the reference lesions that are found; None if there are none."""
        return self.matched / self.reference if self.reference else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, 2 matched / (predicted + reference); None if there are no lesions."""
        both = self.predicted + self.reference
        return 2 * self.matched / both if both else None


def detect_lesions(prediction: NDArray[np.bool_], reference: NDArray[np.bool_], min_iou: float) -> Detection:
    """Return how the components of two masks match.

    Args:
        prediction: Mask, any number of axes.
        reference: Mask of the same shape.
        min_iou: Smallest intersection over union of a match, above 0, 1 at most.

    Raises:
        ValueError: If the shapes differ.

    Source:
        rules/empirical.toml [evaluation.min_lesion_iou].
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction must have the reference's shape {reference.shape}, got {prediction.shape}")
    predicted, num_predicted = components(prediction)
    labelled, num_reference = components(reference)
    both = prediction & reference
    keys = predicted[both].astype(np.int64) * (num_reference + 1) + labelled[both]
    pairs, shared = np.unique(keys, return_counts=True)
    firsts, seconds = np.divmod(pairs, num_reference + 1)
    sizes, others = np.bincount(predicted[prediction]), np.bincount(labelled[reference])
    iou = shared / (sizes[firsts] + others[seconds] - shared) if pairs.size else np.zeros(0)
    return Detection(num_predicted, num_reference, _count_matches(firsts, seconds, iou, min_iou))


def components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Return the number of the component of every voxel, int32, 0 outside, and how many there are.

    Args:
        mask: Of any number of axes; voxels are connected through faces, edges or corners.
    """
    numbers = np.zeros(mask.shape, dtype=np.int32)
    box = box_slices(bounding_box(mask))
    count = ndimage.label(mask[box], np.ones((3,) * mask.ndim, dtype=bool), output=numbers[box])
    return numbers, int(count)


def _count_matches(
    firsts: NDArray[np.int64], seconds: NDArray[np.int64], iou: NDArray[np.float64], min_iou: float
) -> int:
    taken: set[int] = set()
    found: set[int] = set()
    for pair in np.argsort(-iou, kind="stable"):
        if iou[pair] < min_iou:
            break
        first, second = int(firsts[pair]), int(seconds[pair])
        if first not in taken and second not in found:
            taken.add(first)
            found.add(second)
    return len(found)
