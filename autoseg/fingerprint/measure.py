"""Measuring one case: shape, spacing, classes, and a digest of its intensities that has one size for every case."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.core.geometry import Geometry, bounding_box, box_slices
from autoseg.core.labels import Labels
from autoseg.core.orientation import orientation_of
from autoseg.data.image import left_right_axis
from autoseg.fingerprint.schema import CaseFingerprint, ClassFingerprint

MAX_SORTED_VOXELS = 1_000_000
"""Foreground voxels that are sorted per case and channel; of more, every n-th is taken, evenly over the volume."""


@dataclass(frozen=True)
class IntensityDigest:
    """Foreground intensities of one channel of one case.

    Attributes:
        mean: Over all foreground voxels.
        variance: Over all foreground voxels.
        minimum: Exact.
        maximum: Exact.
        quantiles: float32, equally spaced order statistics, ascending: the case's distribution in a fixed size.
    """

    mean: float
    variance: float
    minimum: float
    maximum: float
    quantiles: NDArray[np.float32]


@dataclass(frozen=True)
class MeasuredCase:
    """One case, and a digest per channel; none where the case has no foreground."""

    figures: CaseFingerprint
    digests: tuple[IntensityDigest, ...]


def measure_case(
    name: str,
    image: NDArray[np.float32],
    label: NDArray[np.integer],
    geometry: Geometry,
    labels: Labels,
    num_quantiles: int,
) -> MeasuredCase:
    """Return the figures of one case.

    Args:
        name: Of the case.
        image: float32 (C, Z, Y, X), finite.
        label: Label values as in the file, (Z, Y, X), on the grid of the image.
        geometry: Of the image.
        labels: Classes.
        num_quantiles: Size of a digest.

    Raises:
        ValueError: If the label map holds a value of no class.
    """
    spacing = geometry.spacing
    crop = box_slices(bounding_box((image != 0).any(axis=0)))
    z, y, x = (part.stop - part.start for part in crop)
    cropped, values = image[:, *crop], label[crop]
    is_foreground = values != labels.values[0]
    if labels.ignored is not None:
        is_foreground &= values != labels.ignored
    box = box_slices(bounding_box(is_foreground))
    has_foreground = bool(is_foreground[box].any())
    indices = labels.to_indices(values[box]) if has_foreground else np.zeros((0, 0, 0), dtype=np.uint16)
    region = cropped[:, *box]
    extent = [(part.stop - part.start) * step * has_foreground for part, step in zip(box, spacing, strict=True)]
    figures = CaseFingerprint(
        name=name,
        shape=label.shape,
        cropped_shape=(z, y, x),
        spacing=spacing,
        left_right_axis=left_right_axis(geometry),
        foreground_extent_mm=(extent[0], extent[1], extent[2]),
        orientation=orientation_of(geometry),
        classes=_measure_classes(region, indices, spacing, labels),
    )
    if not has_foreground:
        return MeasuredCase(figures, ())
    inside = (indices > 0) & (indices < labels.num_classes)
    return MeasuredCase(figures, tuple(digest_intensities(channel[inside], num_quantiles) for channel in region))


def digest_intensities(values: NDArray[np.float32], num_quantiles: int) -> IntensityDigest:
    """Return the digest of a set of intensities.

    Args:
        values: At least one, in any order.
        num_quantiles: Number of order statistics; fewer values are repeated evenly.
    """
    step = -(-values.size // MAX_SORTED_VOXELS)
    ordered = np.sort(values[::step])
    ranks = ((np.arange(num_quantiles) + 0.5) / num_quantiles * ordered.size).astype(np.int64)
    return IntensityDigest(
        mean=float(values.mean(dtype=np.float64)),
        variance=float(values.var(dtype=np.float64)),
        minimum=float(values.min()),
        maximum=float(values.max()),
        quantiles=ordered[ranks],
    )


def _measure_classes(
    image: NDArray[np.float32], indices: NDArray[np.uint16], spacing: tuple[float, float, float], labels: Labels
) -> tuple[ClassFingerprint, ...]:
    """Return the figures of all foreground classes; each is looked at inside its own box alone."""
    voxel_mm3 = spacing[0] * spacing[1] * spacing[2]
    boxes = ndimage.find_objects(indices.astype(np.int32)) if indices.size else []
    measured = []
    for index, declared in enumerate(labels.classes[1:], start=1):
        box = boxes[index - 1] if index <= len(boxes) else None
        if box is None:
            measured.append(
                ClassFingerprint(name=declared.name, num_voxels=0, num_components=0, volume_mm3=0.0, mean=(), std=())
            )
            continue
        mask = indices[box] == index
        intensities = image[:, *box][:, mask]
        num_voxels = int(np.count_nonzero(mask))
        measured.append(
            ClassFingerprint(
                name=declared.name,
                num_voxels=num_voxels,
                num_components=int(ndimage.label(mask, structure=np.ones((3, 3, 3)))[1]),
                volume_mm3=num_voxels * voxel_mm3,
                mean=tuple(float(value) for value in intensities.mean(axis=1, dtype=np.float64)),
                std=tuple(float(value) for value in intensities.std(axis=1, dtype=np.float64)),
            )
        )
    return tuple(measured)
