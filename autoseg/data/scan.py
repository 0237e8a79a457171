"""Scans from whatever files hold them: images, or DICOM series as folder, zip or file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.core.artefact import digest_of
from autoseg.data.dicom import Series, is_dicom, is_folder, read_series
from autoseg.data.image import Image, image_suffix, joined_channels, read_image, require_one_grid

PIECE_BYTES = 1 << 16
"""Of a file, from each of the places by which it is told from another."""


@dataclass(frozen=True)
class FoundScan:
    """A scan that was read.

    Attributes:
        image: Its voxels.
        series: The DICOM series of its first channel; None where that is an image file.
        warnings: What its files say of themselves that deserves a look, a sentence each by what it is about.
    """

    image: Image
    series: Series | None = None
    warnings: dict[str, str] = field(default_factory=dict)


def is_series(path: Path) -> bool:
    """Return whether a path stands for a DICOM series: a folder, a zip or a DICOM file."""
    return is_folder(path) or path.suffix.lower() == ".zip" or (image_suffix(path) is None and is_dicom(path))


def digest_of_scan(paths: Sequence[Path]) -> str:
    """Return what tells a scan from another that takes its place, quickly: large files are not read as a whole.

    It is a digest of the size of every file, and of its beginning, middle and end, where compressed files have a
    checksum. Of a folder, these are of its first and its last file alone.

    Args:
        paths: Files, or folders or zips of DICOM series.

    Raises:
        OSError: If one cannot be read.
    """
    return digest_of([_telling(path) for path in paths])


def _telling(path: Path) -> list[object]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return [[file.stat().st_size for file in files], *(_telling(file) for file in (*files[:1], *files[-1:]))]
    size = path.stat().st_size
    found = hashlib.sha256()
    with path.open("rb") as stream:
        for start in (0, size // 2, size - PIECE_BYTES):
            stream.seek(max(start, 0))
            found.update(stream.read(PIECE_BYTES))
    return [size, found.hexdigest()]


def read_scan(paths: Sequence[Path], scratch: Path | None = None) -> FoundScan:
    """Read a scan from one path or from one per channel (or group of channels), in order.

    Args:
        paths: Files, or folders or zips of DICOM series.
        scratch: Folder to unpack zips in; None for the system's folder of temporary files.

    Raises:
        DatasetError: If a file or series cannot be read, or its grid is not that of the first.
    """
    if not any(is_series(path) for path in paths):
        return FoundScan(read_image(paths))
    found = [
        FoundScan(*read_series(path, scratch)) if is_series(path) else FoundScan(read_image([path])) for path in paths
    ]
    for path, part in zip(paths, found, strict=True):
        require_one_grid(path, part.image, paths[0], found[0].image)
    inverted = [str(path) for path, part in zip(paths, found, strict=True) if part.series and part.series.is_inverted]
    return FoundScan(joined_channels([part.image for part in found]), found[0].series, _inversion(inverted))


def _inversion(places: Sequence[str]) -> dict[str, str]:
    if not places:
        return {}
    return {
        "grey scale": f"{', '.join(places)} is MONOCHROME1: low values are meant to be shown bright. They are taken as"
        " stored; training images that were inverted for display do not match them"
    }
