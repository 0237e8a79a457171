"""Where label maps go, in which format, and how they are written."""

from pathlib import Path
from typing import Literal

import numpy as np

from autoseg.core.errors import PredictionError
from autoseg.core.labels import Labels
from autoseg.data.dicom import Series
from autoseg.data.dicom_seg import SEG_SUFFIX, write_dicom_seg
from autoseg.data.image import NIFTI_SUFFIXES, PICTURE_SUFFIXES, LabelImage, case_stem, write_label
from autoseg.data.scan import is_series
from autoseg.data.scan_files import scan_stem

OutputFormat = Literal["nifti", "nrrd", "mha", "png", "tiff", "dicom-seg"]

SUFFIXES: dict[OutputFormat, str] = {
    "nifti": ".nii.gz",
    "nrrd": ".nrrd",
    "mha": ".mha",
    "png": ".png",
    "tiff": ".tif",
    "dicom-seg": SEG_SUFFIX,
}


def output_path(image: Path, folder: Path, labels: Labels) -> Path:
    """Return where the label map of a scan goes: its name, its format where that can hold the labels.

    Args:
        image: First file of the scan, or its DICOM series.
        folder: Of the output.
        labels: Pictures hold values from 0 to 65535; a label map with others becomes MHA.
    """
    return folder / f"{scan_stem(image)}{suffix_like(image, labels)}"


def suffix_like(image: Path, labels: Labels) -> str:
    """Return the suffix of a label map in the format of its scan, or in MHA where that cannot hold the labels."""
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


def write_output(path: Path, label: LabelImage, labels: Labels, series: Series | None) -> None:
    """Write a label map in the format of its suffix, whole or not at all.

    Raises:
        PredictionError: If DICOM is asked for without a DICOM series as input.
        DatasetError: If the series cannot have a segmentation object.
        ValueError: If the format cannot hold the label map.
    """
    if not path.name.endswith(SEG_SUFFIX):
        write_label(path, label)
    elif series is None:
        raise PredictionError(
            f"{path}: a DICOM segmentation object must belong to a DICOM series, got a scan of another format."
            " Choose another --format."
        )
    else:
        write_dicom_seg(path, label, labels, series)
