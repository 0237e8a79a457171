"""Scans from whatever files hold them: images, or DICOM series as folder, zip or file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.data.dicom import Series, is_dicom, read_series
from autoseg.data.image import Image, image_suffix, joined_channels, read_image, require_one_grid


@dataclass(frozen=True)
class FoundScan:
    """A scan that was read.

    Attributes:
        image: Its voxels.
        series: The DICOM series of its first channel; None where that is an image file.
    """

    image: Image
    series: Series | None = None


def is_series(path: Path) -> bool:
    """Return whether a path stands for a DICOM series: a folder, a zip or a DICOM file."""
    return path.is_dir() or path.suffix.lower() == ".zip" or (image_suffix(path) is None and is_dicom(path))


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
    return FoundScan(joined_channels([part.image for part in found]), found[0].series)
