"""Label maps of DICOM series as DICOM segmentation objects, written with highdicom and checked by reading them back."""

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoseg.core.artefact import replacing
from autoseg.core.labels import Labels
from autoseg.data.dicom import Series, require_dicom
from autoseg.data.image import LabelImage
from autoseg.data.problem import unusable

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription

SEG_SUFFIX = ".dcm"
_SERIES_NUMBER_OFFSET = 1000
_UNFIT = (AttributeError, KeyError, TypeError, ValueError)
"""What highdicom raises where the series lacks what a segmentation object must repeat."""


def write_dicom_seg(path: Path, label: LabelImage, labels: Labels, series: Series) -> None:
    """Write a label map as one binary segment per class, whole or not at all.

    Segment number n is class index n, named like the class: values of label files do not exist in this format. The file
    is read back before it gets its name, and must hold the label map.

    Args:
        path: Of the segmentation object.
        label: On the grid of the series, first slice first.
        labels: Names and values of the classes.
        series: Which scan it belongs to.

    Raises:
        UnusableFileError: If the series lacks tags that the format needs, or the file read back differs.
        DatasetError: If the libraries are missing.
    """
    require_dicom(path)
    indices: NDArray[np.unsignedinteger[Any]] = labels.to_indices(label.array)
    if labels.num_classes <= np.iinfo(np.uint8).max:
        indices = indices.astype(np.uint8)
    with replacing(path) as temporary:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _segmentation(indices, labels, series).save_as(temporary)
                found = _read_back(temporary, series)
        except _UNFIT as error:
            reason = " ".join(str(error).split())
            message = f"tags of the series must allow a segmentation object, got: {reason}"
            raise unusable(series.place, "seg", message, "Write another format with --format nifti") from None
        if not np.array_equal(found, indices):
            message = "the segmentation object must hold the label map when it is read back, got another one"
            raise unusable(path, "seg", message, "Write another format with --format nifti, and report this")


def _segmentation(indices: NDArray[np.unsignedinteger[Any]], labels: Labels, series: Series) -> "Segmentation":
    import highdicom
    from highdicom.seg import Segmentation

    program = f"autoseg {version('autoseg')}"
    return Segmentation(
        source_images=list(series.headers),
        pixel_array=indices,
        segmentation_type="BINARY",
        segment_descriptions=[_described(number, label.name) for number, label in enumerate(labels.classes) if number],
        series_instance_uid=highdicom.UID(),
        series_number=int(series.headers[0].get("SeriesNumber", None) or 0) + _SERIES_NUMBER_OFFSET,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="autoseg",
        manufacturer_model_name="autoseg",
        software_versions=program,
        device_serial_number="0",
        content_label="AUTOSEG",
        content_description=f"Segmentation by {program}"[:64],
        omit_empty_frames=bool(indices.any()),
    )


def _described(number: int, name: str) -> "SegmentDescription":
    """Return the description of a segment; its codes say no more than that it is tissue, its label says which."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    return SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name="autoseg", version=version("autoseg"), family=codes.DCM.ArtificialIntelligence
        ),
    )


def _read_back(path: Path, series: Series) -> NDArray[np.unsignedinteger[Any]]:
    """Return the segment number at every voxel of the series, (Z, Y, X)."""
    from highdicom.seg import segread

    names = [str(header.SOPInstanceUID) for header in series.headers]
    found: NDArray[np.unsignedinteger[Any]] = segread(path).get_pixels_by_source_instance(
        names, combine_segments=True, assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )
    return found
