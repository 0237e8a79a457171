"""Overlap of a prediction with its reference: counts of voxels, Dice, intersection over union, volumes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.core.geometry import Spacing, num_voxels

CUBIC_MM_PER_ML = 1000.0

CHUNK_VOXELS = 2**18
"""Voxels that are counted together; their pairs of classes fit a processor's cache."""


@dataclass(frozen=True)
class Overlap:
    """Agreement of two label maps in one class, as counts of voxels.

    Attributes:
        true_positives: Voxels of the class in both.
        false_positives: Voxels of the class in the prediction alone.
        false_negatives: Voxels of the class in the reference alone.
    """

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def prediction_voxels(self) -> int:
        return self.true_positives + self.false_positives

    @property
    def reference_voxels(self) -> int:
        return self.true_positives + self.false_negatives

    @property
    def dice(self) -> float | None:
        """2 TP / (2 TP + FP + FN), 0 to 1.

        None if the class is in neither map: there is nothing to agree on, and the case does not count for this class.
        0 if it is in one of the two alone.
        """
        return _ratio(2 * self.true_positives, self.prediction_voxels + self.reference_voxels)

    @property
    def iou(self) -> float | None:
        """TP / (TP + FP + FN), 0 to 1; None and 0 as for `dice`."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives + self.false_negatives)


def overlaps(
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    num_classes: int,
    regions: Sequence[Sequence[int]] = (),
) -> tuple[Overlap, ...]:
    """Return the overlap of two label maps in every region; without regions, in every class, background first.

    Args:
        prediction: Class indices, 0 to `num_classes` - 1, any shape.
        reference: Class indices of the same shape.
        num_classes: Number of classes, background included.
        regions: Class indices of each region.

    Raises:
        ValueError: If the shapes differ or an index is out of range.
    """
    matrix = confusion_matrix(prediction, reference, num_classes)
    wanted = regions or [(index,) for index in range(num_classes)]
    return tuple(_overlap(matrix, members) for members in wanted)


def region_mask(indices: NDArray[np.integer], members: Sequence[int]) -> NDArray[np.bool_]:
    """Return where class indices, of any shape, are members of a region."""
    mask: NDArray[np.bool_] = indices == members[0] if len(members) == 1 else np.isin(indices, members)
    return mask


def _overlap(matrix: NDArray[np.int64], members: Sequence[int]) -> Overlap:
    chosen = list(members)
    both = int(matrix[np.ix_(chosen, chosen)].sum())
    predicted, labelled = int(matrix[:, chosen].sum()), int(matrix[chosen].sum())
    return Overlap(true_positives=both, false_positives=predicted - both, false_negatives=labelled - both)


def blank_ignored(
    prediction: NDArray[np.integer], reference: NDArray[np.integer], num_classes: int
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return prediction and reference, of one shape, with background where the reference is not annotated.

    Args:
        prediction: Class indices.
        reference: Class indices; `num_classes` where nothing is annotated.
        num_classes: Background included.
    """
    ignored = reference == num_classes
    if not ignored.any():
        return prediction, reference
    return np.where(ignored, 0, prediction), np.where(ignored, 0, reference)


def confusion_matrix(
    prediction: NDArray[np.integer], reference: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """Return how many voxels of each reference class (row) were predicted as each class (column).

    Args:
        prediction: Class indices, 0 to `num_classes` - 1, any shape.
        reference: Class indices of the same shape.
        num_classes: Number of classes, background included.

    Raises:
        ValueError: If the shapes differ or an index is out of range.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction must have the reference's shape {reference.shape}, got {prediction.shape}")
    for name, indices in (("prediction", prediction), ("reference", reference)):
        if indices.size and not 0 <= indices.min() <= indices.max() < num_classes:
            raise ValueError(
                f"{name} must hold class indices 0 to {num_classes - 1}, got {indices.min()} to {indices.max()}"
            )
    counts = np.zeros(num_classes**2, dtype=np.int64)
    ours, theirs = prediction.ravel(), reference.ravel()
    for first in range(0, ours.size, CHUNK_VOXELS):
        part = slice(first, first + CHUNK_VOXELS)
        counts += np.bincount(theirs[part].astype(np.int64) * num_classes + ours[part], minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def volume_ml(voxels: int, spacing_mm: Spacing) -> float:
    """Return the volume of a number of voxels, in ml.

    Args:
        voxels: Number of voxels, 0 or more.
        spacing_mm: (z, y, x), in mm.
    """
    return voxels * num_voxels(spacing_mm) / CUBIC_MM_PER_ML


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
