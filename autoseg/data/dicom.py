"""DICOM series as scans: pydicom reads the tags, SimpleITK (GDCM) the voxels, in all its transfer syntaxes."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoseg.core.errors import DatasetError
from autoseg.core.geometry import Geometry
from autoseg.core.temporary import scratch_folder
from autoseg.data.archive import unpack
from autoseg.data.image import Image, read_slice
from autoseg.data.problem import unusable

if TYPE_CHECKING:
    from pydicom import Dataset

INSTALL = "pip install pydicom highdicom"
"""What installs the libraries that DICOM needs."""

GAP_RATIO = 1.5
"""Slices that lie this many times farther apart than usual have lost one between them."""

UNEVEN_RATIO = 0.1
"""Share of the usual distance by which distances of slices may differ; more is no voxel grid."""

MOST_SHEAR_PIXELS = 0.5
"""Drift of the first pixel over a whole series, within its slices; more is a tilted gantry."""

MOST_NAMED = 6
"""Series or files that one message names."""

_MAGIC, _PREAMBLE_BYTES = b"DICM", 128
_DIRECTORY = "DICOMDIR"
_NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "SeriesInstanceUID")
_NUM_VALUES = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "Rows": 1, "Columns": 1}
_GREY_SCALE, _INVERTED, _USUAL = "PhotometricInterpretation", "MONOCHROME1", "MONOCHROME2"
_FRAMES = "PerFrameFunctionalGroupsSequence"
_ALIKE_TOLERANCE = 1e-3
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Series:
    """Slices that make one scan, the first one first.

    Attributes:
        place: Folder or zip that they come from.
        headers: What each slice's file says, as pydicom gives it, without voxels.
        geometry: Of the scan.
    """

    place: Path
    headers: tuple["Dataset", ...]
    geometry: Geometry

    @property
    def is_inverted(self) -> bool:
        """Whether the lowest values are meant to be shown white (MONOCHROME1); voxels are as stored all the same."""
        return any(header.get(_GREY_SCALE) == _INVERTED for header in self.headers)


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder, as far as this user can see."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_dicom(path: Path) -> bool:
    """Return whether a file is a DICOM one, by its mark; names say nothing, as slices often have no suffix.

    Of a file that cannot be read, nobody knows: it counts as none, and whoever reads it as a scan says why.
    """
    try:
        return _has_mark(path)
    except OSError:
        return False


def _has_mark(path: Path) -> bool:
    if path.name == _DIRECTORY or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(_PREAMBLE_BYTES + len(_MAGIC))[_PREAMBLE_BYTES:] == _MAGIC


def holds_dicom(folder: Path) -> bool:
    """Return whether DICOM files lie in a folder itself.

    Raises:
        OSError: If the folder cannot be read.
    """
    return any(is_dicom(path) for path in folder.iterdir())


def require_dicom(place: Path) -> None:
    """Make sure that the libraries for DICOM are there.

    Raises:
        DatasetError: If they are not; with the command that installs them.
    """
    absent = [name for name in ("pydicom", "highdicom") if find_spec(name) is None]
    if absent:
        raise DatasetError(f"{place}: DICOM needs {' and '.join(absent)}, found none. Install them: {INSTALL}")


def read_series(place: Path, scratch: Path | None = None) -> tuple[Image, Series]:
    """Read a series of one scan from a folder, a zip or a single file.

    Slices are sorted by their position along the normal of their plane; rescale slope and intercept are applied slice
    by slice. Objects without voxels (structured reports, presentation states) are left out.

    Args:
        place: Folder that holds the slices itself, a zip that holds them anywhere, or a file of one slice.
        scratch: Folder to unpack a zip in; None for the system's folder of temporary files.

    Raises:
        UnusableFileError: If there is not exactly one series of evenly spaced, parallel, complete slices.
        DatasetError: If pydicom is missing, or a zip is damaged or would write outside its folder.
    """
    require_dicom(place)
    with _files_of(place, scratch) as files:
        slices = _read_headers(place, files)
        _require_one_series(place, slices)
        _require_tags(place, slices)
        ordered, spacing = _sorted_by_position(place, slices)
        pixels = [_read_pixels(path, header, scratch) for path, header in ordered]
    first = ordered[0][1]
    geometry = _geometry(first, spacing)
    array = np.stack(pixels, axis=1)
    series = Series(place, tuple(header for _, header in ordered), geometry)
    return Image(array.astype(np.float32, copy=False), geometry), series


_Slice = tuple[Path, "Dataset"]


@contextmanager
def _files_of(place: Path, scratch: Path | None) -> Iterator[list[Path]]:
    """Give the DICOM files of a place; those of a zip for as long as the block lasts."""
    if place.is_dir():
        yield sorted(path for path in place.iterdir() if _is_readable_dicom(path))
    elif is_dicom(place):
        yield [place]
    else:
        with scratch_folder(scratch) as folder:
            inside = unpack(place, folder)
            yield sorted(path for path in inside.rglob("*") if is_dicom(path))


def _is_readable_dicom(path: Path) -> bool:
    """Return whether a file of a series' folder is a DICOM one; what cannot be read may be a slice, and is refused."""
    try:
        return _has_mark(path)
    except OSError as error:
        message = f"every file beside slices must be readable, got: {error.strerror or error}"
        raise unusable(path, "readable", message, "Correct its permissions, or fetch it again") from None


def _read_headers(place: Path, files: Sequence[Path]) -> list[_Slice]:
    """Return the files with voxels, and what they say."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    slices: list[_Slice] = []
    for path in files:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError, ValueError, KeyError, AttributeError, EOFError) as error:
            raise unusable(path, "readable", f"must be a DICOM file, got: {error}", "Export the series again") from None
        if "Rows" in header:
            slices.append((path, header))
        else:
            _logger.debug("%s has no voxels", path)
    if not slices:
        raise unusable(place, "format", f"must hold DICOM slices, got none in {len(files)} DICOM files", _EXPORT)
    return slices


_EXPORT = "Export the images of one series"


def _require_one_series(place: Path, slices: Sequence[_Slice]) -> None:
    described: dict[str, list[Dataset]] = {}
    for _, header in slices:
        described.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(header)
    if len(described) > 1:
        named = [_described(found) for found in described.values()]
        rest = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        raise unusable(
            place,
            "one-series",
            f"must hold one series, got {len(named)}: {'; '.join(named[:MOST_NAMED])}{rest}",
            "Put each into a folder of its own, and give the folder above as IN",
        )
    for path, header in slices:
        frames = str(_stated(header, "NumberOfFrames") or 1).strip()
        if frames != "1" or _FRAMES in header:
            message = f"must hold one slice per file, got a multi-frame object ({frames} frames) in {path.name}"
            raise unusable(place, "multi-frame", message, "Convert it to NIfTI, with dcm2niix for example")


def _described(found: Sequence["Dataset"]) -> str:
    """Return what a person knows a series by."""
    name = str(found[0].get("SeriesDescription", "")).strip() or "without description"
    return f"series {found[0].get('SeriesNumber', '?')} {name} ({len(found)} files)"


def _require_tags(place: Path, slices: Sequence[_Slice]) -> None:
    """Refuse slices that lack tags, or differ in size, spacing or direction."""
    for tag in _NEEDED:
        lacking = [path.name for path, header in slices if _stated(header, tag) in (None, "")]
        if lacking:
            message = f"every slice must state its {tag}, got {len(lacking)} of {len(slices)} without ({lacking[0]})"
            raise unusable(place, "tags", message, "Export the series again with all its tags")
    for tag, num_values in _NUM_VALUES.items():
        for path, header in slices:
            if _numbers(header, tag).shape != (num_values,):
                message = f"{tag} must be {num_values} finite numbers, got {_stated(header, tag)} in {path.name}"
                raise unusable(place, "tags", message, "Export the series again with all its tags")
    first_path, first = slices[0]
    for tag in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        expected = _numbers(first, tag)
        for path, header in slices:
            value = _numbers(header, tag)
            if not np.allclose(value, expected, atol=_ALIKE_TOLERANCE):
                message = (
                    f"all slices must have one {tag}, got {expected.tolist()} in {first_path.name} and"
                    f" {value.tolist()} in {path.name}"
                )
                raise unusable(place, "one-grid", message, "Remove the slices that belong elsewhere, such as scouts")
    _require_sound_grid(place, first)


def _numbers(header: "Dataset", tag: str) -> NDArray[np.float64]:
    """Return the values of a tag, one axis; none where one of them is no finite number."""
    try:
        values = np.atleast_1d(np.asarray(_stated(header, tag), float))
    except (TypeError, ValueError):
        return np.empty(0)
    return values if np.isfinite(values).all() else np.empty(0)


def _stated(header: "Dataset", tag: str) -> object:
    """Return the value of a tag, None where there is none; pydicom reads it only now."""
    try:
        return header.get(tag)
    except (ValueError, TypeError, OverflowError) as error:
        return f"a value that cannot be read ({error})"


def _require_sound_grid(place: Path, header: "Dataset") -> None:
    """Refuse a spacing that is not above zero, and directions that are not at right angles."""
    if not (_numbers(header, "PixelSpacing") > 0).all():
        message = f"PixelSpacing must be above zero, got {header.PixelSpacing}"
        raise unusable(place, "spacing", message, "Export the series again with its true spacing")
    axes = np.stack(_axes(header))
    if not np.allclose(axes @ axes.T, np.eye(2), atol=_ALIKE_TOLERANCE):
        message = f"ImageOrientationPatient must be two directions at right angles, got {axes.ravel().tolist()}"
        raise unusable(place, "direction", message, "Export the series again, or resample it and give it as NIfTI")


def _sorted_by_position(place: Path, slices: Sequence[_Slice]) -> tuple[list[_Slice], float]:
    """Return the slices along the normal of their plane, and their distance in mm."""
    rows, columns = _axes(slices[0][1])
    normal = np.cross(rows, columns)
    positions = np.array([header.ImagePositionPatient for _, header in slices], float)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    ordered = [slices[index] for index in order]
    if len(ordered) == 1:
        return ordered, _stated_thickness(ordered[0][1])
    distances = np.diff(along[order])
    usual = float(np.median(distances))
    for (before, after), distance in zip(pairwise(ordered), distances, strict=True):
        if problem := _uneven(before[0], after[0], float(distance), usual):
            raise unusable(place, *problem)
    spacing = float(distances.mean())
    in_plane = positions[order] - positions[order][0] - np.outer(along[order] - along[order][0], normal)
    pixel = min(map(float, slices[0][1].PixelSpacing))
    drift = float(np.linalg.norm(in_plane, axis=1).max()) / pixel
    if drift > MOST_SHEAR_PIXELS:
        message = f"slices must lie straight above each other, got a drift of {drift:.3g} pixels: a tilted gantry"
        raise unusable(place, "tilt", message, "Resample the series to a right-angled grid and give it as NIfTI")
    return ordered, spacing


def _uneven(before: Path, after: Path, distance: float, usual: float) -> tuple[str, str, str] | None:
    """Return rule, message and remedy where two neighbours do not lie at the usual distance."""
    names = f"{before.name} and {after.name}"
    if distance <= _ALIKE_TOLERANCE:
        message = f"slices must lie at different places, got {names} at the same: several times, echoes or phases"
        return "same-place", message, "Put each of them into a folder of its own"
    if distance > GAP_RATIO * usual:
        message = f"slices must lie {usual:.4g} mm apart, got a gap of {distance:.4g} mm between {names}"
        return "gap", message, "Fetch the missing slices"
    if abs(distance - usual) > UNEVEN_RATIO * usual:
        message = f"slices must lie {usual:.4g} mm apart, got {distance:.4g} mm between {names}"
        return "uneven", message, "Resample the series to even distances and give it as NIfTI"
    return None


def _read_pixels(path: Path, header: "Dataset", scratch: Path | None) -> NDArray[np.float32]:
    """Return the rescaled voxels of a slice, (C, Y, X), the same however they are meant to be shown.

    GDCM inverts MONOCHROME1 before it rescales, which makes other values of them; it is given a copy that does not ask
    for that.

    Source:
        DICOM PS3.3 C.7.6.3.1.2: the photometric interpretation is about display, after all transformations of values.
    """
    if header.get(_GREY_SCALE) != _INVERTED:
        return read_slice(path)
    import pydicom

    with scratch_folder(scratch) as folder:
        copied = pydicom.dcmread(path)
        copied[_GREY_SCALE].value = _USUAL
        copied.save_as(folder / path.name)
        return read_slice(folder / path.name)


def _stated_thickness(header: "Dataset") -> float:
    """Return the thickness of a lone slice in mm, 1 where none is stated; some scanners count downwards, below zero."""
    for tag in ("SpacingBetweenSlices", "SliceThickness"):
        stated = np.abs(_numbers(header, tag))
        if stated.shape == (1,) and stated[0] > 0:
            return float(stated[0])
    return 1.0


def _axes(header: "Dataset") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the directions in which columns and rows are counted, in the patient's system."""
    cosines = np.asarray(header.ImageOrientationPatient, float)
    return cosines[:3], cosines[3:]


def _geometry(first: "Dataset", distance: float) -> Geometry:
    """Return where a series lies.

    Source:
        DICOM PS3.3 C.7.6.2.1.1: direction cosines of the row (along which columns are counted), then of the column;
        PixelSpacing is the distance of rows, then of columns.
    """
    along_row, along_column = _axes(first)
    direction = np.stack([along_row, along_column, np.cross(along_row, along_column)], axis=1)
    between_rows, between_columns = map(float, first.PixelSpacing)
    x, y, z = map(float, first.ImagePositionPatient)
    return Geometry(
        spacing=(distance, between_rows, between_columns),
        origin=(x, y, z),
        direction=tuple((direction + 0.0).ravel().tolist()),
    )
