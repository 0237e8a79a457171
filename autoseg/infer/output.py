"""Where label maps go, in which format, and how they are written."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from autoseg.core.errors import PredictionError
from autoseg.core.labels import Labels
from autoseg.data.dicom import Series
from autoseg.data.dicom_seg import SEG_SUFFIX, write_dicom_seg
from autoseg.data.image import (
    NIFTI_SUFFIXES,
    PICTURE_SUFFIXES,
    LabelImage,
    case_stem,
    image_suffix,
    require_storable,
    write_label,
)
from autoseg.data.scan import FoundScan, is_series

OutputFormat = Literal["nifti", "nrrd", "mha", "png", "tiff", "dicom-seg"]

SUFFIXES: dict[OutputFormat, str] = {
    "nifti": ".nii.gz",
    "nrrd": ".nrrd",
    "mha": ".mha",
    "png": ".png",
    "tiff": ".tif",
    "dicom-seg": SEG_SUFFIX,
}


_ALSO: dict[str, str] = {".nii": ".nii.gz", ".tiff": ".tif"}
"""Suffixes that mean the format of another."""


def format_of(path: Path) -> OutputFormat | None:
    """Return the format that a file's suffix names; None if it names none that label maps can have."""
    suffix = SEG_SUFFIX if path.name.lower().endswith(SEG_SUFFIX) else image_suffix(path)
    return next((name for name, own in SUFFIXES.items() if own == _ALSO.get(suffix or "", suffix)), None)


def suffix_like(image: Path, labels: Labels) -> str:
    """Return the suffix of a label map in the format of its scan, or in MHA where that cannot hold the labels.

    Args:
        image: First file of the scan, or its DICOM series.
        labels: Pictures hold values from 0 to 65535; a label map with others becomes MHA.
    """
    if is_series(image):
        return SEG_SUFFIX
    name = image.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        return ".nii.gz"
    if name.endswith(".nrrd"):
        return ".nrrd"
    if name.endswith(PICTURE_SUFFIXES) and labels.dtype in (np.uint8, np.uint16):
        return ".tif" if name.endswith((".tif", ".tiff")) else ".png"
    return ".mha"


def output_stem(path: Path) -> str:
    """Return the name of a label map without the suffix of its format."""
    return path.name.removesuffix(SEG_SUFFIX) if path.name.endswith(SEG_SUFFIX) else case_stem(path)


def require_apart(outputs: Iterable[Path], images: Iterable[Path]) -> None:
    """Refuse files to be written that would replace a scan, under whatever name, or lie among the slices of a series.

    Args:
        outputs: To be written.
        images: Files of the scans, and folders of series.

    Raises:
        PredictionError: If there is one.
    """
    taken = {found for path in images if (found := _identity(path)) is not None}
    for path in outputs:
        if _identity(path) in taken or _identity(path.parent) in taken:
            raise PredictionError(
                f"{path}: OUT must neither replace a scan nor lie among its slices, got a place that does. Name another"
                " folder."
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what is the same for all names of a file or folder; None if there is none, or none to be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def require_writable(path: Path, found: FoundScan, labels: Labels) -> None:
    """Refuse an output that cannot hold the label map of a scan, before the networks have worked for it.

    Raises:
        PredictionError: If the suffix names no format for label maps, or one without place for this scan or its labels.
    """
    if path.name.endswith(SEG_SUFFIX):
        _require_series(path, found.series)
        return
    try:
        require_storable(path, labels.dtype, found.image.array.shape[1], found.image.geometry)
    except ValueError as error:
        raise PredictionError(f"{path}: must be able to hold the label map, got {error}") from None


def write_output(path: Path, label: LabelImage, labels: Labels, series: Series | None) -> None:
    """Write a label map in the format of its suffix, whole or not at all.

    Raises:
        PredictionError: If DICOM is asked for without a DICOM series as input.
        DatasetError: If the series cannot have a segmentation object.
        ValueError: If the format cannot hold the label map.
    """
    if path.name.endswith(SEG_SUFFIX):
        write_dicom_seg(path, label, labels, _require_series(path, series))
    else:
        write_label(path, label)


def _require_series(path: Path, series: Series | None) -> Series:
    if series is None:
        raise PredictionError(
            f"{path}: a DICOM segmentation object must belong to a DICOM series, got a scan of another format."
            " Choose another --format."
        )
    return series
