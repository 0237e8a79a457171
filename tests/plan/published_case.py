"""Fingerprints for planning tests: from plain figures, and from the published ones beside this file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.core.labels import Labels, declare_labels
from autoseg.fingerprint.schema import CaseFingerprint, Fingerprint, IntensityStatistics

FOLDER = Path(__file__).parent / "published"


@dataclass(frozen=True)
class Description:
    """A dataset as planning sees it."""

    name: str
    channels: tuple[str, ...]
    labels: Labels


def describe(name: str, channels: Sequence[str], classes: Sequence[str]) -> Description:
    return Description(name, tuple(channels), declare_labels(dict(enumerate(classes))))


def fingerprint_of(
    spacings: Sequence[Sequence[float]],
    shapes: Sequence[Sequence[int]],
    channels: Sequence[str] = ("MRI",),
    intensities: Sequence[Mapping[str, float]] | None = None,
    relative_size: float = 1.0,
) -> Fingerprint:
    statistics = [IntensityStatistics(**entry) for entry in intensities] if intensities else [_ANY for _ in channels]
    return Fingerprint(
        dataset="test",
        channels=tuple(channels),
        cases=tuple(
            CaseFingerprint(
                name=f"case_{index}",
                shape=(shape[0], shape[1], shape[2]),
                cropped_shape=(shape[0], shape[1], shape[2]),
                spacing=(spacing[0], spacing[1], spacing[2]),
                left_right_axis=2,
                foreground_extent_mm=(0.0, 0.0, 0.0),
                classes=(),
            )
            for index, (spacing, shape) in enumerate(zip(spacings, shapes, strict=True))
        ),
        intensities=tuple(statistics),
        median_relative_size_after_cropping=relative_size,
        frequencies=(),
    )


def published(task: str) -> tuple[Fingerprint, Description, dict[str, Any]]:
    """Return fingerprint, dataset and plans by preset of a Decathlon task."""
    figures = json.loads((FOLDER / f"{task}.json").read_text())
    fingerprint = fingerprint_of(
        figures["spacings"],
        figures["shapes"],
        figures["channels"],
        figures["intensities"],
        figures["median_relative_size"],
    )
    return fingerprint, describe(task, figures["channels"], figures["classes"]), figures["plans"]


_ANY = IntensityStatistics(
    mean=100.0, median=99.0, std=20.0, min=0.0, max=400.0, percentile_00_5=10.0, percentile_99_5=300.0
)
