"""One case, as read, becomes input of the network: turned, transposed, cropped, normalised, resampled."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.core.errors import DatasetError
from autoseg.core.geometry import Shape, Spacing, bounding_box, box_slices, resampled_shape
from autoseg.core.memory import available_memory_bytes
from autoseg.core.orientation import orientation_of, turn_between
from autoseg.data.image import Image, LabelImage
from autoseg.data.store import OUTSIDE, CaseProperties
from autoseg.plan.schema import ConfigurationPlan, Plan
from autoseg.preprocess.normalize import normalize
from autoseg.preprocess.resample import coarse_axis, resample_image, resample_label

RESAMPLED_COPIES = 2
"""Of a resampled scan that are in memory at once: its channels, and all of them in one array."""


@dataclass(frozen=True)
class Prepared:
    """Input of the network and the way back.

    Attributes:
        array: Normalised and resampled, (C, Z, Y, X).
        properties: Where the array comes from.
        earlier: The same scan as the stage before it in a cascade sees it; None for none.
        others: The same scan as the other configurations of an ensemble see it.
    """

    array: NDArray[np.float32]
    properties: CaseProperties
    earlier: "Prepared | None" = None
    others: "tuple[Prepared, ...]" = ()


def prepare_image(image: Image, plan: Plan, configuration: ConfigurationPlan, name: str = "image") -> Prepared:
    """Return a scan as the network of a configuration sees it.

    Args:
        image: As read; its channels are those of the plan.
        plan: Order of the axes.
        configuration: Spacing, normalisation and resampling; slices keep their distance where its spacing has two
            entries.
        name: Of the case, for its properties.

    Raises:
        DatasetError: If memory cannot hold the scan at the configuration's spacing.
        ValueError: If the number of channels is not the plan's.

    Source:
        Isensee et al. 2021, Methods, preprocessing.
    """
    return _prepare(image, None, plan, configuration, name)[0]


def prepare_case(
    image: Image, label: LabelImage, plan: Plan, configuration: ConfigurationPlan, name: str
) -> tuple[Prepared, NDArray[np.integer]]:
    """Return a scan and its label map as training sees them.

    Returns:
        The scan, and class indices, (Z, Y, X), `OUTSIDE` where background lies outside the non-zero mask, the number of
        classes where nothing is annotated.

    Raises:
        DatasetError: If the label's shape differs from the image's, it holds a value that is no class, or memory cannot
            hold the scan at the configuration's spacing.
        ValueError: If the number of channels is not the plan's.
    """
    if label.array.shape != image.array.shape[1:]:
        raise DatasetError(
            f"{name}: label must have the shape of its image, {image.array.shape[1:]}, got {label.array.shape}. "
            "Resample the label onto the image."
        )
    prepared, indices = _prepare(image, label, plan, configuration, name)
    assert indices is not None
    return prepared, indices


def nonzero_mask(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where any channel of an array (C, Z, Y, X) is not zero, holes filled."""
    mask = _nonzero(array)
    inside = box_slices(bounding_box(mask))
    if not mask[inside].all():
        mask[inside] = ndimage.binary_fill_holes(mask[inside])
    return mask


def _prepare(
    image: Image, label: LabelImage | None, plan: Plan, configuration: ConfigurationPlan, name: str
) -> tuple[Prepared, NDArray[np.integer] | None]:
    turn = turn_between(orientation_of(image.geometry), plan.orientation).transposed(plan.transpose)
    array = turn.apply(image.array)
    spacing = tuple(image.geometry.spacing[axis] for axis in turn.axes)
    # Filling holes takes longer than all the rest on a large scan, and does not change the box.
    is_mask_used = label is not None or any(entry.within_mask for entry in configuration.normalization)
    mask = nonzero_mask(array) if is_mask_used else _nonzero(array)
    box = bounding_box(mask)
    inside = box_slices(box)
    array, mask = array[(slice(None), *inside)], mask[inside]
    target = spacing[: 3 - len(configuration.spacing)] + configuration.spacing
    shape = _at_least_one(resampled_shape(mask.shape, spacing, target))
    if shape != mask.shape:
        _require_memory(name, (len(array), *shape), spacing, target)
    coarse = coarse_axis(spacing, target, configuration.resampling.anisotropy_ratio)
    normalized = normalize(array, mask, configuration.normalization)
    prepared = resample_image(normalized, shape, coarse, configuration.resampling)
    indices = None
    if label is not None:
        values = turn.apply(label.array)[inside]
        indices = resample_label(_masked_indices(values, mask, plan, name), shape, coarse, configuration.resampling)
    properties = CaseProperties.model_validate(
        {
            "name": name,
            "geometry": image.geometry,
            "original_shape": image.array.shape[1:],
            "transpose": turn.axes,
            "flipped": turn.flipped,
            "crop_box": box,
            "cropped_shape": mask.shape,
            "cropped_spacing": spacing,
            "stored_shape": shape,
            **({} if indices is None else _count_voxels(indices, plan.labels.num_classes)),
        }
    )
    return Prepared(np.ascontiguousarray(prepared), properties), indices


def _nonzero(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where any channel of an array (C, Z, Y, X) is not zero."""
    mask: NDArray[np.bool_] = array[0] != 0
    for channel in array[1:]:
        mask |= channel != 0
    return mask


def _require_memory(name: str, shape: Shape, spacing: Spacing, target: Spacing) -> None:
    """Refuse a scan that is too large at another spacing, before the system ends the program for it.

    Raises:
        DatasetError: If the array (C, Z, Y, X) to which it is resampled does not fit into the memory that is free.
    """
    needed, free = RESAMPLED_COPIES * np.dtype(np.float32).itemsize * math.prod(shape), available_memory_bytes()
    if needed > free:
        theirs, ours = (" x ".join(f"{step:.4g}" for step in steps) for steps in (spacing, target))
        raise DatasetError(
            f"{name}: must fit into memory at the plan's spacing, {ours} mm, got {' x '.join(map(str, shape[1:]))}"
            f" voxels from a spacing of {theirs} mm: {needed / 1e9:.3g} GB of the {free / 1e9:.3g} that are free."
            " Correct the spacing in its header, or use a computer with more memory."
        )


def _at_least_one(shape: Shape) -> Shape:
    return tuple(max(size, 1) for size in shape)


def _masked_indices(values: NDArray[np.integer], mask: NDArray[np.bool_], plan: Plan, name: str) -> NDArray[np.int16]:
    try:
        indices = plan.labels.to_indices(values).astype(np.int16)
    except ValueError as error:
        raise DatasetError(f"{name}: {error}. Declare the class or correct the label, then plan again.") from None
    indices[(indices == 0) & ~mask] = OUTSIDE
    return indices


def _count_voxels(indices: NDArray[np.integer], num_classes: int) -> dict[str, object]:
    """Return the voxels of each class, and those without annotation, as the properties of a case name them."""
    counts = np.bincount(indices[indices >= 0], minlength=num_classes + 1).tolist()
    return {"num_voxels_per_class": tuple(counts[:num_classes]), "num_ignored_voxels": counts[num_classes]}
