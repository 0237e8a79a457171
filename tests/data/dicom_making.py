"""DICOM series that the tests make from arrays."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    MRImageStorage,
    generate_uid,
)

from autoseg.core.geometry import Geometry

Change = Callable[[int, Dataset], None]
"""Changes slice number n of a series before it is written."""


def write_series(
    folder: Path,
    array: NDArray[np.integer],
    geometry: Geometry,
    *,
    rescale: tuple[float, float] = (1.0, 0.0),
    change: Change = lambda _number, _header: None,
    syntax: UID = ExplicitVRLittleEndian,
) -> Path:
    """Write int16 voxels (Z, Y, X) as a series of one file per slice, in an order that names do not tell.

    Args:
        folder: Of the files.
        array: Stored values; what a reader must give is `array * slope + intercept`.
        geometry: Of the volume, as our readers would give it.
        rescale: Slope and intercept.
        change: Is called with each slice's number and dataset.
        syntax: Transfer syntax; others than the default are compressed, those that pydicom cannot write by GDCM.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for number in range(len(array)):
        header = _slice(array[number], geometry, number)
        header.SeriesInstanceUID, header.StudyInstanceUID, header.FrameOfReferenceUID = series, study, frame
        header.RescaleSlope, header.RescaleIntercept = rescale
        change(number, header)
        if syntax != ExplicitVRLittleEndian:
            _compress(header, array[number], syntax)
        header.save_as(folder / f"{(number * 7 + 3) % 101:03d}", enforce_file_format=True)
    return folder


def _slice(pixels: NDArray[np.integer], geometry: Geometry, number: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    header.PatientID, header.PatientName, header.PatientBirthDate, header.PatientSex = "p1", "Doe^J", "", ""
    header.StudyID, header.StudyDate, header.StudyTime = "1", "20260101", "120000"
    header.AccessionNumber, header.ReferringPhysicianName = "", ""
    header.Modality, header.SeriesNumber, header.InstanceNumber = "MR", 4, number + 1
    header.SeriesDescription, header.Manufacturer = "T1 axial", ""
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    header.ImageType = ["ORIGINAL", "PRIMARY"]
    direction = np.reshape(geometry.direction, (3, 3))
    position = np.asarray(geometry.origin) + direction[:, 2] * geometry.spacing[0] * number
    header.ImagePositionPatient = _decimals(position)
    header.ImageOrientationPatient = _decimals([*direction[:, 0], *direction[:, 1]])
    header.PixelSpacing = _decimals(geometry.spacing[1:])
    header.SliceThickness = _decimals([geometry.spacing[0]])[0]
    header.PixelData = np.ascontiguousarray(pixels, "<i2").tobytes()
    return header


def _compress(header: FileDataset, pixels: NDArray[np.integer], syntax: UID) -> None:
    compressor = {JPEG2000Lossless: "JPEG2000", JPEGLosslessSV1: "JPEG"}.get(syntax)
    if compressor is None:
        header.compress(syntax)
        return
    with TemporaryDirectory() as folder:
        writer = sitk.ImageFileWriter()
        writer.SetFileName(f"{folder}/slice.dcm")
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.Execute(sitk.GetImageFromArray(pixels[np.newaxis]))
        written = pydicom.dcmread(f"{folder}/slice.dcm")
    assert written.file_meta.TransferSyntaxUID == syntax
    header.file_meta.TransferSyntaxUID = syntax
    header["PixelData"] = written["PixelData"]


def _decimals(values: Sequence[float] | NDArray[np.float64]) -> list[str]:
    return [f"{value:.10g}"[:16] for value in values]
