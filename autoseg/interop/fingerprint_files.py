"""Fingerprint and dataset from files alone, ours or nnU-Net's: planning needs no image."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoseg.core.errors import DatasetError
from autoseg.core.labels import Labels
from autoseg.data.dataset import Dataset
from autoseg.data.description import read_description
from autoseg.fingerprint.schema import CaseFingerprint, Fingerprint, IntensityStatistics

FLAT_RATIO = 999
"""How many times the largest spacing within a 2D image nnU-Net notes for the axis that it lacks."""


@dataclass(frozen=True)
class DescribedDataset:
    """What planning needs to know of a dataset beside its fingerprint."""

    name: str
    channels: tuple[str, ...]
    labels: Labels


def read_dataset_description(path: Path) -> DescribedDataset:
    """Read name, channels and labels from our `dataset.json`, or that of the Decathlon or nnU-Net.

    Raises:
        DatasetError: If the file cannot be read or declares no channels or no labels.
        ArtefactError: If it is ours, but of another version.
    """
    if "layout" in _document(path):
        ours = Dataset.load(path)
        return DescribedDataset(ours.name, ours.channels, ours.labels)
    declared = read_description(path)
    if declared.channels is None or declared.labels is None:
        raise DatasetError(f"{path}: must declare labels and channels to plan with, got only one or none. Add them.")
    return DescribedDataset(declared.name or path.resolve().parent.name, declared.channels, declared.labels)


def read_fingerprint(path: Path, dataset: DescribedDataset) -> Fingerprint:
    """Read a fingerprint from our `fingerprint.json` or from nnU-Net's `dataset_fingerprint.json`.

    nnU-Net's holds neither case names nor directions nor figures of the classes; cases are numbered, the rest left out.

    Args:
        path: File.
        dataset: To which the fingerprint belongs.

    Raises:
        DatasetError: If the file cannot be read or lacks what nnU-Net puts into it.
        ArtefactError: If it is ours, but of another version.
    """
    document = _document(path)
    if "shapes_after_crop" not in document:
        return Fingerprint.load(path)
    try:
        return _from_nnunet(document, dataset)
    except (KeyError, TypeError, ValueError, IndexError, ValidationError) as error:
        got = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
        raise DatasetError(
            f"{path}: must be a fingerprint of {len(dataset.channels)} channels as nnU-Net writes it, got: {got}. "
            "Extract it again."
        ) from None


def _from_nnunet(document: dict[str, Any], dataset: DescribedDataset) -> Fingerprint:
    statistics = document["foreground_intensity_properties_per_channel"]
    cases = enumerate(zip(document["shapes_after_crop"], document["spacings"], strict=True))
    return Fingerprint(
        dataset=dataset.name,
        channels=dataset.channels,
        cases=tuple(
            CaseFingerprint(
                name=f"case {index}",
                shape=tuple(shape),
                cropped_shape=tuple(shape),
                spacing=_true_spacing(shape, spacing),
                left_right_axis=None,
                foreground_extent_mm=(0.0, 0.0, 0.0),
                classes=(),
            )
            for index, (shape, spacing) in cases
        ),
        intensities=tuple(IntensityStatistics(**statistics[str(index)]) for index in range(len(dataset.channels))),
        median_relative_size_after_cropping=document["median_relative_size_after_cropping"],
        frequencies=(),
    )


def _true_spacing(shape: Sequence[int], spacing: Sequence[float]) -> tuple[float, ...]:
    """Return the spacing of a case, (z, y, x), as our readers give it: 1 mm along the axis that a 2D image lacks.

    Source:
        nnU-Net 2.8.1, SimpleITKIO and NaturalImage2DIO.
    """
    is_flat = shape[0] == 1 and spacing[0] >= FLAT_RATIO * max(spacing[1:])
    return (1.0 if is_flat else float(spacing[0]), *map(float, spacing[1:]))


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: must be readable JSON, got: {error}. Name another file.") from None
    if not isinstance(document, dict):
        raise DatasetError(f"{path}: must hold a JSON object, got a {type(document).__name__}. Name another file.")
    return document
