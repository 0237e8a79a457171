"""Distance between the surfaces of two masks: Hausdorff distance, average surface distance, surface Dice.

The surface of a mask is made of its border voxels: those with a face towards background or towards the outside of the
array. Distances run between voxel centres, in mm. An axis of one voxel has no faces, so that a slice has a contour; a
single voxel is its own border.

What empty masks give:

| | both empty | one empty |
|---|---|---|
| surface Dice | None | 0 |
| distances | None | None: no distance exists; Dice and surface Dice carry the penalty |
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from autoseg.core.geometry import Spacing

HAUSDORFF_PERCENTILE = 95.0


@dataclass(frozen=True)
class SurfaceDistances:
    """How far each border voxel of two masks is from the other mask's surface, from which every measure follows.

    Attributes:
        from_prediction_mm: One distance per border voxel of the prediction; infinite if the reference is empty.
        from_reference_mm: One distance per border voxel of the reference; infinite if the prediction is empty.
    """

    from_prediction_mm: NDArray[np.float64]
    from_reference_mm: NDArray[np.float64]

    @property
    def _comparable(self) -> bool:
        return self.from_prediction_mm.size > 0 and self.from_reference_mm.size > 0

    @property
    def hd95_mm(self) -> float | None:
        """The larger of the two directed 95th percentiles; None if a mask is empty."""
        if not self._comparable:
            return None
        directed = (self.from_prediction_mm, self.from_reference_mm)
        return max(float(np.percentile(distances, HAUSDORFF_PERCENTILE)) for distances in directed)

    @property
    def average_mm(self) -> float | None:
        """Mean over the border voxels of both masks; None if a mask is empty."""
        if not self._comparable:
            return None
        return float(np.concatenate([self.from_prediction_mm, self.from_reference_mm]).mean())

    def surface_dice(self, tolerance_mm: float) -> float | None:
        """Return the share of border voxels, of both masks, within a tolerance of the other surface.

        None if both masks are empty, 0 if one is.

        Args:
            tolerance_mm: Largest distance that counts as agreement, in mm.

        Source:
            Nikolov et al. 2021, Clinically applicable segmentation of head and neck anatomy; on voxels, not on surfels.
        """
        distances = np.concatenate([self.from_prediction_mm, self.from_reference_mm])
        return float((distances <= tolerance_mm).mean()) if distances.size else None


def surface_distances(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Spacing
) -> SurfaceDistances:
    """Return the distances between the surfaces of two masks.

    Args:
        prediction: Mask, (Z, Y, X).
        reference: Mask of the same shape.
        spacing_mm: (z, y, x), in mm.

    Raises:
        ValueError: If the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction must have the reference's shape {reference.shape}, got {prediction.shape}")
    extended = [axis for axis, size in enumerate(prediction.shape) if size != 1] or [0]
    shape = tuple(prediction.shape[axis] for axis in extended)
    spacing = tuple(spacing_mm[axis] for axis in extended)
    borders = [_border(mask.reshape(shape)) for mask in (prediction, reference)]
    places = [_places(border) for border in borders]
    common = borders[0] & borders[1]
    is_common = [common[border] for border in borders]
    return SurfaceDistances(
        from_prediction_mm=_distances_mm(places[0], places[1], is_common[0], spacing),
        from_reference_mm=_distances_mm(places[1], places[0], is_common[1], spacing),
    )


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels of a mask that have a face towards background or the outside of the array."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        voxels, neighbours = np.moveaxis(inside, axis, 0), np.moveaxis(mask, axis, 0)
        voxels[1:] &= neighbours[:-1]
        voxels[:-1] &= neighbours[1:]
        voxels[:1] = False
        voxels[-1:] = False
    return mask & ~inside


def _places(border: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the indices of the true voxels, (voxels, axes), in the order of the array."""
    return np.stack(np.unravel_index(np.flatnonzero(border), border.shape), axis=-1)


def _distances_mm(
    start: NDArray[np.intp], end: NDArray[np.intp], is_common: NDArray[np.bool_], spacing: Spacing
) -> NDArray[np.float64]:
    """Return the distance of each border voxel to the nearest one of the other border.

    The tree holds surfaces alone, so that the time grows with them and not with the volume that they enclose. Distances
    are taken from whole numbers of voxels, so that two steps of 0.7 mm are within a tolerance of 1.4 wherever they lie.

    Args:
        start: Indices of border voxels, (voxels, axes).
        end: Indices of those of the other border.
        is_common: Which of `start` are in both.
        spacing: Per axis, in mm.
    """
    if not len(end):
        return np.full(len(start), np.inf)
    distances = np.zeros(len(start))
    if not is_common.all():
        apart = start[~is_common]
        nearest = KDTree(end * spacing, balanced_tree=False).query(apart * spacing)[1]
        distances[~is_common] = np.linalg.norm((end[nearest] - apart) * spacing, axis=1)
    return distances
