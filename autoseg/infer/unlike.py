"""Warnings when a scan is unlike those that a model has learnt from; the thresholds are rules."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.core.geometry import Geometry
from autoseg.core.labels import Labels
from autoseg.core.orientation import orientation_of
from autoseg.data.image import Image
from autoseg.fingerprint import Fingerprint
from autoseg.plan.orientation import slice_axis, turned_fingerprint
from autoseg.plan.rules import UnlikeRules
from autoseg.plan.schema import Plan
from autoseg.preprocess.case import Prepared

MM3_PER_ML = 1000.0

_ORDINALS = ("first", "second", "third")


@dataclass(frozen=True)
class Familiar:
    """What a model knows.

    Attributes:
        plan: Its channels, classes and orientation.
        fingerprint: Of the data that it has learnt from.
        rules: Thresholds.
    """

    plan: Plan
    fingerprint: Fingerprint
    rules: UnlikeRules


def unlike_scan(image: Image, prepared: Prepared, familiar: Familiar) -> dict[str, str]:
    """Return how a scan differs from all training data, a sentence each by what it is about.

    That is its spacing, its field of view (without a border of zeros), its orientation, the axis that its slices lie
    across, and the intensities of each channel. Spacings and extents are compared in ascending order of size, so that
    an axis is compared with its like whatever the order in which a file stores it.

    Args:
        image: As read.
        prepared: The same scan, cropped.
        familiar: What the model knows.
    """
    found = _unlike_grid(prepared, familiar) | _unlike_orientation(image.geometry, familiar)
    return found | _unlike_slices(prepared, familiar) | _unlike_intensities(image, familiar)


def unlike_result(volumes_ml: dict[str, float], familiar: Familiar) -> dict[str, str]:
    """Return which volumes are unlike those of all training data: absent where all have it, far larger, far smaller."""
    found = {}
    volumes_of_training = training_volumes_ml(familiar.fingerprint, familiar.plan.labels)
    for name, volume_ml in volumes_ml.items():
        in_cases = volumes_of_training.get(name, ())
        known = [training_ml for training_ml in in_cases if training_ml]
        if not known:
            continue
        about, ratio = f"volume of {name}", familiar.rules.volume_ratio
        if volume_ml == 0 and len(known) == len(in_cases):
            found[about] = f"no {name} was found, which every training case has ({_range(known)} ml)"
        elif volume_ml and not min(known) / ratio <= volume_ml <= max(known) * ratio:
            found[about] = f"{about} is {volume_ml:.3g} ml, that of the training cases {_range(known)} ml"
    return found


def training_volumes_ml(fingerprint: Fingerprint, labels: Labels) -> dict[str, tuple[float, ...]]:
    """Return the volume of each class or region in each training case, in ml, 0 where it is absent, by its name.

    That of a region is the sum over its member classes. No volumes where the cases of the fingerprint have no classes,
    as with imported models.

    Args:
        fingerprint: Of the training data.
        labels: Of the same.
    """
    volumes = [{entry.name: entry.volume_mm3 / MM3_PER_ML for entry in case.classes} for case in fingerprint.cases]
    names = [[labels.classes[index].name for index in members] for members in labels.members]
    return {
        entry.name: tuple(sum(map(case.__getitem__, own)) for case in volumes if case.keys() >= set(own))
        for entry, own in zip(labels.foreground, names, strict=True)
    }


def _unlike_orientation(geometry: Geometry, familiar: Familiar) -> dict[str, str]:
    """Return whether a scan is predicted in an orientation that no training case is known to have."""
    own, usual = orientation_of(geometry), familiar.plan.orientation
    if own is None and usual is not None:
        return {"orientation": "the scan states no orientation, the training data do: left and right may be exchanged"}
    stored = {case.orientation for case in familiar.fingerprint.cases}
    known = sorted(orientation for orientation in stored if orientation is not None)
    if own is None or usual is not None or not known or own in known:
        return {}
    seen = ", ".join(known) + (" or as not known" if None in stored else "")
    return {"orientation": f"the scan is stored as {own} and predicted as it is, training cases as {seen}"}


def _unlike_slices(prepared: Prepared, familiar: Familiar) -> dict[str, str]:
    """Return whether the slices of a scan lie across another axis of the network's input than those of training cases.

    Training cases whose own slices were turned do not count: what a network makes of so few is no better.
    """
    plan, cases = familiar.plan, familiar.fingerprint.cases
    ratio = next(iter(plan.configurations.values())).resampling.anisotropy_ratio
    stored, turned = (
        [slice_axis(case.shape, case.spacing, ratio) for case in found]
        for found in (cases, turned_fingerprint(familiar.fingerprint, plan.orientation).cases)
    )
    kept = {new for old, new in zip(stored, turned, strict=True) if old == new}
    known = sorted(plan.transpose.index(axis) for axis in kept if axis is not None)
    properties = prepared.properties
    shape = tuple(properties.original_shape[axis] for axis in properties.transpose)
    own = slice_axis(shape, properties.cropped_spacing, ratio)
    if own is None or not known or own in known:
        return {}
    seen = " or ".join(_ORDINALS[axis] for axis in known)
    return {
        "slices": f"slices lie across the {_ORDINALS[own]} axis of the network's input, "
        f"those of the training cases across the {seen}"
    }


def _unlike_grid(prepared: Prepared, familiar: Familiar) -> dict[str, str]:
    shape, spacing = (np.array(getattr(prepared.properties, f"cropped_{name}")) for name in ("shape", "spacing"))
    cases = familiar.fingerprint.cases
    own = {"spacing": np.sort(spacing), "field of view": np.sort(shape * spacing)}
    known = {
        "spacing": np.array([sorted(case.spacing) for case in cases]),
        "field of view": np.array(
            [sorted(np.array(case.cropped_shape) * np.array(case.spacing)) for case in cases],
        ),
    }
    ratios = {"spacing": familiar.rules.spacing_ratio, "field of view": familiar.rules.extent_ratio}
    found = {}
    for name, values in own.items():
        lowest, highest = known[name].min(axis=0), known[name].max(axis=0)
        if (values < lowest / ratios[name]).any() or (values > highest * ratios[name]).any():
            known_sizes = f"{_sizes(lowest)} to {_sizes(highest)} mm"
            found[name] = f"{name} is {_sizes(values)} mm, that of the training data {known_sizes}"
    return found


def _unlike_intensities(image: Image, familiar: Familiar) -> dict[str, str]:
    """Return the channels in which next to no voxel looks like foreground of the training data."""
    found = {}
    for name, known, voxels in zip(familiar.plan.channels, familiar.fingerprint.intensities, image.array, strict=True):
        lowest, highest = known.percentile_00_5, known.percentile_99_5
        share = float(((voxels >= lowest) & (voxels <= highest)).mean())
        if share < familiar.rules.min_share_of_foreground_intensity:
            about = f"intensities of {name}"
            found[about] = (
                f"{about} are {voxels.min():.4g} to {voxels.max():.4g}, and {share:.2%} of the voxels lie"
                f" where the structures of the training data do ({lowest:.4g} to {highest:.4g})"
            )
    return found


def _sizes(values: Sequence[float] | NDArray[np.float64]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"
