import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, RLELossless, generate_uid

from autoseg.core.errors import DatasetError
from autoseg.core.geometry import Geometry
from autoseg.data import dicom
from autoseg.data.archive import unpack
from autoseg.data.dicom import holds_dicom, is_dicom, read_series
from autoseg.data.image import Image, read_image, write_image
from autoseg.data.scan import read_scan
from tests.data.dicom_making import Change, write_series
from tests.data.making import OBLIQUE, forbid

GEOMETRY = Geometry(spacing=(2.5, 1.25, 1.5), origin=(10.0, -20.0, 5.0), direction=OBLIQUE)
VOXELS = np.random.default_rng(0).integers(-200, 900, (6, 12, 11)).astype(np.int16)


def test_a_series_is_the_volume_it_was_made_from(tmp_path: Path) -> None:
    """Compared with the same volume as NIfTI; file names are in no order."""
    folder = write_series(tmp_path / "series", VOXELS, GEOMETRY)
    write_image(tmp_path / "same.nii.gz", Image(VOXELS[None].astype(np.float32), GEOMETRY))
    same = read_image([tmp_path / "same.nii.gz"])
    image, series = read_series(folder)
    np.testing.assert_array_equal(image.array, same.array)
    for name in ("spacing", "origin", "direction"):
        assert getattr(image.geometry, name) == pytest.approx(getattr(same.geometry, name), abs=1e-5)
    assert [int(header.InstanceNumber) for header in series.headers] == [1, 2, 3, 4, 5, 6]
    assert image.geometry == series.geometry


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLosslessSV1, JPEG2000Lossless])
def test_compressed_and_rescaled_voxels_are_read(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    folder = write_series(tmp_path / "series", VOXELS, GEOMETRY, rescale=(0.5, -100), syntax=syntax)
    np.testing.assert_array_equal(read_series(folder)[0].array[0], VOXELS * np.float32(0.5) - 100)


def test_each_slice_has_a_slope_of_its_own(tmp_path: Path) -> None:
    """As in PET."""

    def steeper(number: int, header: Dataset) -> None:
        header.RescaleSlope = number + 1

    folder = write_series(tmp_path / "series", VOXELS, GEOMETRY, change=steeper)
    expected = VOXELS * np.arange(1, 7, dtype=np.float32)[:, None, None]
    np.testing.assert_array_equal(read_series(folder)[0].array[0], expected)


def test_a_zip_holds_a_series_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_series(tmp_path / "series", VOXELS, GEOMETRY)
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"PATIENT/STUDY/{path.name}")
        archive.writestr("PATIENT/readme.txt", "nothing")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    places: list[Path] = []

    def unpack_seen(archive: Path, folder: Path) -> Path:
        places.append(folder.parent)
        return unpack(archive, folder)

    monkeypatch.setattr(dicom, "unpack", unpack_seen)
    image, series = read_series(tmp_path / "series.zip", scratch)
    assert places == [scratch]
    assert not list(scratch.iterdir())
    np.testing.assert_array_equal(image.array[0], VOXELS)
    assert len(series.headers) == 6


def _every(tag: str, value: object) -> Change:
    return lambda _number, header: setattr(header, tag, value)


def test_one_slice_is_a_scan(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", VOXELS[:1], GEOMETRY)
    image, _ = read_series(next(folder.iterdir()))
    np.testing.assert_array_equal(image.array[0], VOXELS[:1])
    assert image.geometry.spacing == (2.5, 1.25, 1.5)


@pytest.mark.parametrize(
    ("change", "thickness"),
    [(_every("SpacingBetweenSlices", -3.5), 3.5), (_every("SliceThickness", None), 1.0)],
)
def test_a_lone_slice_has_a_thickness(tmp_path: Path, change: Change, thickness: float) -> None:
    """Some scanners count it downwards."""
    folder = write_series(tmp_path / "series", VOXELS[:1], GEOMETRY, change=change)
    assert read_series(folder)[0].geometry.spacing == (thickness, 1.25, 1.5)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_inverted_grey_scales_are_named_and_read_as_stored(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    """GDCM would turn them round, within the range of the stored type, before it rescales them."""
    inverted = _every("PhotometricInterpretation", "MONOCHROME1")
    folder = write_series(tmp_path / "inverted", VOXELS, GEOMETRY, rescale=(0.5, 10), change=inverted, syntax=syntax)
    plain = write_series(tmp_path / "plain", VOXELS, GEOMETRY, rescale=(0.5, 10))
    found, usual = read_scan([folder]), read_scan([plain])
    np.testing.assert_array_equal(found.image.array[0], VOXELS * np.float32(0.5) + 10)
    np.testing.assert_array_equal(found.image.array, usual.image.array)
    assert "is MONOCHROME1: low values are meant to be shown bright" in found.warnings["grey scale"]
    assert usual.warnings == {}


def test_a_file_that_cannot_be_read_may_be_a_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside slices it is refused, as a scan must not lose its last one in silence; elsewhere it is no DICOM file."""
    folder = write_series(tmp_path / "series", VOXELS, GEOMETRY)
    forbid(monkeypatch, "038")
    assert not is_dicom(folder / "038")
    assert holds_dicom(folder)
    with pytest.raises(DatasetError, match="038: every file beside slices must be readable, got: Permission denied"):
        read_series(folder)


def test_what_has_no_voxels_is_left_out(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", VOXELS, GEOMETRY)
    report = pydicom.dcmread(min(folder.iterdir()))
    for tag in ("Rows", "Columns", "PixelData"):
        delattr(report, tag)
    report.SeriesInstanceUID = generate_uid()
    report.save_as(folder / "report")
    shutil.copy(folder / "report", folder / "DICOMDIR")
    (folder / "notes.txt").write_text("x" * 200)
    assert len(read_series(folder)[1].headers) == 6


def _remove(tag: str) -> Change:
    return lambda number, header: delattr(header, tag) if number == 2 else None


def _set(tag: str, value: object, only: int = 2) -> Change:
    return lambda number, header: setattr(header, tag, value) if number == only else None


def _shear(number: int, header: Dataset) -> None:
    header.ImagePositionPatient = [10 + 0.3 * number, -20, 5 + 2.5 * number]
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_remove("ImagePositionPatient"), "every slice must state its ImagePositionPatient, got 1 of 6 without"),
        (_remove("PixelSpacing"), "every slice must state its PixelSpacing"),
        (_set("PixelSpacing", [3, 3]), "all slices must have one PixelSpacing"),
        (_set("ImageOrientationPatient", [1, 0, 0, 0, 0, 1]), "all slices must have one ImageOrientationPatient"),
        (_set("SeriesInstanceUID", "1.2.3"), "must hold one series, got 2: series 4 T1 axial .5 files.*folder of its"),
        (_set("NumberOfFrames", 3), r"must hold one slice per file, got a multi-frame object \(3 frames\)"),
        (_set("PerFrameFunctionalGroupsSequence", []), r"got a multi-frame object \(1 frames\) in 017"),
        (_set("PixelSpacing", 1.25), "PixelSpacing must be 2 finite numbers, got 1.25 in 017"),
        (
            _set("ImagePositionPatient", [10, -20]),
            r"ImagePositionPatient must be 3 finite numbers, got \[10.0, -20.0\]",
        ),
        (_set("ImageOrientationPatient", [1, 0, 0, 0, 1]), "ImageOrientationPatient must be 6 finite numbers"),
        (_every("PixelSpacing", [0, 0]), r"PixelSpacing must be above zero, got \[0.0, 0.0\]. Export"),
        (_every("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "must be two directions at right angles"),
        (_set("ImagePositionPatient", [10, -20, 5]), "slices must lie at different places"),
        (_set("ImagePositionPatient", [10, -20, 10.4]), "slices must lie 2.5 mm apart, got 2.9 mm between"),
        (_shear, "a tilted gantry"),
    ],
)
def test_what_is_no_scan_is_named(tmp_path: Path, change: Change, words: str) -> None:
    folder = write_series(tmp_path / "series", VOXELS, GEOMETRY, change=change)
    with pytest.raises(DatasetError, match=words):
        read_series(folder)


def test_a_missing_slice_is_a_gap_between_two_files(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", VOXELS, GEOMETRY)
    (folder / "017").unlink()
    with pytest.raises(DatasetError, match=r"2\.5 mm apart, got a gap of 5 mm between 010 and 024\. Fetch"):
        read_series(folder)


def test_an_unknown_compression_is_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", VOXELS, GEOMETRY)
    path = folder / "010"
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    header.PixelData = pydicom.encaps.encapsulate([b"\x00\x01" * 8])
    header["PixelData"].is_undefined_length = True
    header.save_as(path)
    with pytest.raises(DatasetError, match="010: must be readable, got"):
        read_series(folder)


def test_a_truncated_slice_is_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", VOXELS, GEOMETRY)
    path = folder / "010"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DatasetError, match="series"):
        read_series(folder)


def test_a_zip_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", VOXELS, GEOMETRY)
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.write(next(folder.iterdir()), "../outside")
    with pytest.raises(DatasetError, match="a path out of the folder"):
        read_series(tmp_path / "evil.zip")


def test_an_empty_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="must hold DICOM slices, got none"):
        read_series(tmp_path)


def test_files_are_known_by_their_mark(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", VOXELS[:2], GEOMETRY)
    (tmp_path / "fake.dcm").write_bytes(struct.pack("200x"))
    assert all(is_dicom(path) for path in folder.iterdir())
    assert not is_dicom(tmp_path / "fake.dcm")
    assert holds_dicom(folder)
    assert not holds_dicom(tmp_path)


def test_without_the_libraries_their_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_series(tmp_path / "series", VOXELS, GEOMETRY)
    monkeypatch.setattr(dicom, "find_spec", lambda _: None)
    with pytest.raises(
        DatasetError, match=r"pydicom and highdicom, found none. Install them: pip install pydicom highdicom"
    ):
        read_series(folder)
