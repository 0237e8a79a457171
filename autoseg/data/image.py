"""Images and label maps between files and arrays. The only module that knows SimpleITK and its x-first order."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from autoseg.core.artefact import replacing
from autoseg.core.geometry import Geometry, Shape
from autoseg.data.grid import grid_differences
from autoseg.data.picture_header import ends_in_alpha, holds_palette_indices, require_whole_tiff
from autoseg.data.problem import absent, unusable
from autoseg.data.raw_header import not_finite, read_sound_voxels, require_stated_spacing

NIFTI_SUFFIXES = (".nii.gz", ".nii")
TIFF_SUFFIXES = (".tif", ".tiff")
PICTURE_SUFFIXES = (".png", *TIFF_SUFFIXES, ".bmp", ".jpg", ".jpeg")
"""Formats whose spacing is ignored, as it is meant for printing, and whose last channel may be alpha."""
LOSSY_SUFFIXES = (".jpg", ".jpeg")
IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha", ".mhd", *PICTURE_SUFFIXES)

_DTYPES_BY_SUFFIX = {
    ".png": ("uint8", "uint16"),
    ".tif": ("int8", "uint8", "int16", "uint16"),
    ".tiff": ("int8", "uint8", "int16", "uint16"),
}
_ORTHONORMAL_TOLERANCE = 1e-3
_COUNTED_RANGE = 1 << 16
_LARGEST_EXACT = float(1 << 53)  # beyond, floats skip integers
_REASON_PREFIX = re.compile(r"^(sitk::|ITK )?ERROR: (\w+\(0x[0-9a-f]+\): )?")


@dataclass(frozen=True)
class Image:
    """A scan: float32 (C, Z, Y, X), and where it lies."""

    array: NDArray[np.float32]
    geometry: Geometry


@dataclass(frozen=True)
class LabelImage:
    """A label map: values as in the file, any integer type, (Z, Y, X), and where it lies."""

    array: NDArray[np.integer]
    geometry: Geometry


@dataclass(frozen=True)
class Header:
    """What a file says before its voxels are read.

    Attributes:
        num_channels: Channels without alpha.
        shape: Voxels, (z, y, x); one slice for a 2D image.
        geometry: Where the voxels lie.
        dtype: Type of a voxel as the file names it.
    """

    num_channels: int
    shape: Shape
    geometry: Geometry
    dtype: str


def image_suffix(path: Path) -> str | None:
    """Return the suffix that makes a file name an image, as in `IMAGE_SUFFIXES`, or None."""
    name = path.name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix) and name != suffix), None)


def left_right_axis(geometry: Geometry) -> int:
    """Return the array axis, (z, y, x) = (0, 1, 2), that is closest to the patient's left-right direction."""
    along_world_x = np.abs(geometry.direction[:3])
    return 2 - int(np.argmax(along_world_x))


def case_stem(path: Path) -> str:
    """Return a file's name without the suffix of its format; other dots belong to the name."""
    suffix = image_suffix(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def read_header(path: Path) -> Header:
    """Read what a file says about its voxels.

    Raises:
        UnusableFileError: If the file is missing, of another format, damaged, or its grid cannot be used.
    """
    return _header(path, _open(path))


def read_image(paths: Sequence[Path], headers: Sequence[Header] = ()) -> Image:
    """Read a scan from one file or from one file per channel (or group of channels), in order.

    Args:
        paths: Files on the same grid. Vector pixels and the fourth axis of a file are channels.
        headers: Of the files, if they were read before.

    Raises:
        UnusableFileError: If a file cannot be read, its voxels are not finite, or its grid is not that of the first.
        ValueError: If there is no path.
    """
    if not paths:
        raise ValueError("paths must hold at least one file, got none")
    parts: list[Image] = []
    for path, known in zip_longest(paths, headers):
        header, channels = _read_channels(path, known)
        parts.append(Image(_finite(path, channels), header.geometry))
        require_one_grid(path, parts[-1], paths[0], parts[0])
    return joined_channels(parts)


def require_one_grid(path: Path, image: Image, first_path: Path, first: Image) -> None:
    """Refuse channels of a scan that do not lie on the grid of its first file.

    Raises:
        UnusableFileError: If they do not; it names `path`.
    """
    shapes = first.array.shape[1:], image.array.shape[1:]
    for severity, rule, message in grid_differences(shapes[0], first.geometry, shapes[1], image.geometry):
        if severity == "error":
            raise unusable(path, rule, f"{message} (of {first_path.name})", "Resample the channels to one grid")


def joined_channels(parts: Sequence[Image]) -> Image:
    """Return images on one grid as the channels of one."""
    array = parts[0].array if len(parts) == 1 else np.concatenate([part.array for part in parts])
    return Image(array, parts[0].geometry)


def read_slice(path: Path) -> NDArray[np.float32]:
    """Read the voxels of a single DICOM slice, rescaled, (C, Y, X).

    Raises:
        UnusableFileError: If its voxels cannot be decoded, or are not finite.
    """
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    with _sitk_errors_named(path):
        image = reader.Execute()
    array = sitk.GetArrayFromImage(image)
    channels = np.moveaxis(array, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array[np.newaxis]
    return _finite(path, channels.reshape(len(channels), *channels.shape[-2:]))


def read_label(path: Path, known: Header | None = None) -> LabelImage:
    """Read a label map; whole numbers stored as floats are taken as integers.

    A picture in which all colours are equal is a label map stored as RGB and is read as one.

    Args:
        path: File.
        known: Its header, if that was read before.

    Raises:
        UnusableFileError: If the file cannot be read, is stored with loss, has a palette, several channels or
            fractional values.
    """
    if image_suffix(path) in LOSSY_SUFFIXES:
        raise unusable(
            path, "lossless", "a label map must be stored without loss, got JPEG", "Export the labels as PNG"
        )
    if image_suffix(path) in PICTURE_SUFFIXES and holds_palette_indices(path):
        message = "a label map must have no palette, got one: its colours would be read in place of the indices"
        raise unusable(path, "palette", message, "Store the indices as grey values")
    header, channels = _read_channels(path, known)
    if header.num_channels > 1:
        is_grey = image_suffix(path) in PICTURE_SUFFIXES and all(np.array_equal(channels[0], c) for c in channels[1:])
        if not is_grey:
            message = f"a label map must have one channel, got {header.num_channels}"
            raise unusable(path, "label-channels", message, "Store one integer per voxel: the number of its class")
    array = channels[0]
    if array.dtype.kind == "f":
        array = _whole_numbers(path, array)
    return LabelImage(array=np.ascontiguousarray(array), geometry=header.geometry)


def write_label(path: Path, label: LabelImage) -> None:
    """Write a label map on exactly its grid, whole or not at all; a 2D one is written with two axes.

    Args:
        path: NIfTI, NRRD, MHA, PNG or TIFF, by suffix; the last two hold no grid.
        label: Written with the integer type of its array.

    Raises:
        ValueError: If the format cannot hold the array's type or number of slices, or is not for label maps.
    """
    require_storable(path, label.array.dtype, label.array.shape[0], label.geometry)
    is_flat = label.geometry.dimensions == 2 or image_suffix(path) == ".png"
    _write(path, sitk.GetImageFromArray(label.array[0] if is_flat else label.array), label.geometry)


def require_storable(path: Path, dtype: np.dtype[np.generic], num_slices: int, geometry: Geometry) -> None:
    """Make sure that the format of a path can hold a label map of this type and number of slices, on this grid.

    Raises:
        ValueError: If it cannot, or is not for label maps.
    """
    suffix = image_suffix(path)
    if suffix in (None, ".mhd", ".bmp", *LOSSY_SUFFIXES):
        raise ValueError(f"{path.name}: suffix must be .nii.gz, .nii, .nrrd, .mha, .png or .tif, got {path.suffix!r}")
    allowed = _DTYPES_BY_SUFFIX.get(suffix or "")
    if allowed and dtype.name not in allowed:
        raise ValueError(f"{path.name}: type must be one of {allowed}, got {dtype}. Write .nii.gz, .nrrd or .mha.")
    if num_slices != 1 and (geometry.dimensions == 2 or suffix == ".png"):
        raise ValueError(f"{path.name}: a 2D file must get one slice, got {num_slices}. Write .nii.gz or .tif.")


def write_image(path: Path, image: Image) -> None:
    """Write a scan on exactly its grid, whole or not at all, as float32 with channels as vector pixels.

    Args:
        path: NIfTI, NRRD or MHA, by suffix.
        image: A 2D one is written with two axes.

    Raises:
        ValueError: If the format cannot hold float32 on any grid.
    """
    suffix = image_suffix(path)
    if suffix in (None, ".mhd", *PICTURE_SUFFIXES):
        raise ValueError(f"{path.name}: suffix must be .nii.gz, .nii, .nrrd or .mha, got {path.suffix!r}")
    channels = image.array[:, 0] if image.geometry.dimensions == 2 else image.array
    if len(channels) == 1:
        _write(path, sitk.GetImageFromArray(channels[0]), image.geometry)
    else:
        _write(path, sitk.GetImageFromArray(np.moveaxis(channels, 0, -1), isVector=True), image.geometry)


def label_values(array: NDArray[np.integer]) -> tuple[int, ...]:
    """Return the distinct values of a label map, (Z, Y, X), in ascending order."""
    return tuple(label_counts(array))


def label_counts(array: NDArray[np.integer]) -> dict[int, int]:
    """Return the voxels of each value that occurs in a label map, (Z, Y, X), by value in ascending order.

    Values that lie close together are counted, slice by slice, instead of sorted, which is many times faster.
    """
    lowest, highest = int(array.min()), int(array.max())
    if highest - lowest >= _COUNTED_RANGE:
        values, voxels = np.unique(array, return_counts=True)
        return dict(zip(values.tolist(), voxels.tolist(), strict=True))
    num_possible = highest - lowest + 1
    start = array.min().astype(np.int64)
    counts = np.zeros(num_possible, np.int64)
    for plane in array:
        counts += np.bincount(plane.ravel().astype(np.int64) - start, minlength=num_possible)
    return {int(value) + lowest: int(counts[value]) for value in np.flatnonzero(counts)}


def _write(path: Path, image: sitk.Image, geometry: Geometry) -> None:
    axes = image.GetDimension()
    # Pictures have no place for a grid, and a slice across the patient no direction with two axes.
    if image_suffix(path) not in PICTURE_SUFFIXES:
        image.SetSpacing(geometry.spacing[::-1][:axes])
        image.SetOrigin(geometry.origin[:axes])
        image.SetDirection(np.reshape(geometry.direction, (3, 3))[:axes, :axes].ravel().tolist())
    with replacing(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


def _open(path: Path) -> sitk.ImageFileReader:
    suffix = image_suffix(path)
    if suffix is None:
        message = f"must be an image ({', '.join(IMAGE_SUFFIXES)}), got {path.suffix or 'no suffix'!r}"
        raise unusable(path, "format", message, "Convert it to one of these formats")
    if not path.is_file():
        raise absent(path)
    if suffix in NIFTI_SUFFIXES:
        require_stated_spacing(path)
    if suffix in TIFF_SUFFIXES:
        require_whole_tiff(path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    if suffix in NIFTI_SUFFIXES:
        reader.SetImageIO("NiftiImageIO")  # else SimpleITK tries its formats in turn
    reader.SetFileName(str(path))
    with _sitk_errors_named(path):
        reader.ReadImageInformation()
    return reader


@contextmanager
def _sitk_errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = _REASON_PREFIX.sub("", str(error).strip().splitlines()[-1].strip())
        if "orthonormal" in reason:
            message = "direction must have axes at right angles, got none that have"
            remedy = "Resample the file to such a grid, or repair the orientation in its header"
            raise unusable(path, "direction", message, remedy) from None
        if "spacing" in reason.lower():
            raise unusable(path, "spacing", f"spacing must be above zero, got: {reason}", "Export it again") from None
        if "Unable to determine" in reason:
            reason = "content of no format that autoseg reads"
        raise unusable(path, "readable", f"must be readable, got: {reason}", "Fetch or export the file again") from None


def _header(path: Path, reader: sitk.ImageFileReader) -> Header:
    size = reader.GetSize()
    dtype = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in dtype:
        raise unusable(
            path, "format", f"voxels must be real numbers, got {dtype}", "Store magnitude and phase as channels"
        )
    if min(size) < 1:
        raise unusable(path, "readable", f"each axis must have one voxel or more, got {size}", "Export the file again")
    components = reader.GetNumberOfComponents()
    repeats = [count for count in (components, *size[3:]) if count > 1]
    if len(repeats) > 1 or len(size) > 5:
        message = f"must have three axes of space and one of channels at most, got {len(size)} axes of {size}"
        raise unusable(path, "dimensions", message, "Store each time point or channel as a file of its own")
    num_channels = repeats[0] if repeats else 1
    is_picture = image_suffix(path) in PICTURE_SUFFIXES
    has_alpha = is_picture and ends_in_alpha(path, components)
    shape = (1,) * (3 - len(size)) + tuple(reversed(size[:3]))
    spacing = (1.0, 1.0, 1.0) if is_picture else _spacing(path, reader.GetSpacing(), shape)
    axes = min(len(size), 3)
    direction = np.eye(3)
    stated = np.reshape(reader.GetDirection(), (len(size), len(size)))
    direction[:axes, :axes] = stated[:axes, :axes] + 0.0
    if not np.allclose(direction.T @ direction, np.eye(3), rtol=0, atol=_ORTHONORMAL_TOLERANCE):
        message = f"direction must have axes at right angles, got {np.round(direction, 4).tolist()}"
        raise unusable(path, "direction", message, "Resample the file to such a grid")
    origin = (*reader.GetOrigin()[:axes], 0.0)[:3]
    if not all(map(math.isfinite, origin)):
        raise unusable(path, "origin", f"origin must be finite numbers, got {origin}", "Repair it in the header")
    return Header(
        num_channels=num_channels - has_alpha,
        shape=shape,
        geometry=Geometry(spacing=spacing, origin=origin, direction=tuple(direction.ravel().tolist()), dimensions=axes),
        dtype=dtype,
    )


def _spacing(path: Path, stated: Sequence[float], shape: Shape) -> tuple[float, float, float]:
    """Return a file's spacing, (z, y, x); an axis of one voxel may lack it."""
    z, y, x = (1.0,) * (3 - len(stated)) + tuple(reversed(stated[:3]))
    is_sound = [math.isfinite(value) and value > 0 for value in (z, y, x)]
    if not all(sound or size == 1 for sound, size in zip(is_sound, shape, strict=True)):
        message = f"spacing (z, y, x) must be above zero, got {(z, y, x)}"
        raise unusable(path, "spacing", message, "Export the file again, or write the true spacing into its header")
    return (z if is_sound[0] else 1.0, y if is_sound[1] else 1.0, x if is_sound[2] else 1.0)


def _read_channels(path: Path, known: Header | None = None) -> tuple[Header, NDArray[np.generic]]:
    """Return a file's header, unless it is known, and its voxels, (C, Z, Y, X), in the type of the file."""
    reader = None
    if known is None:
        reader = _open(path)
        known = _header(path, reader)
    header = known
    if image_suffix(path) in NIFTI_SUFFIXES:
        voxels = read_sound_voxels(path)
        if voxels is not None:
            return header, voxels.reshape(-1, *header.shape)
    reader = reader or _open(path)
    with _sitk_errors_named(path):
        image = reader.Execute()
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    channels: NDArray[np.generic] = array.reshape(-1, *header.shape)[: header.num_channels]
    return header, channels


def _finite(path: Path, channels: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return voxels as float32.

    Raises:
        UnusableFileError: If one of them is not finite.
    """
    with np.errstate(over="ignore"):
        array = channels.astype(np.float32)
    if num_bad := int(array.size - np.count_nonzero(np.isfinite(array))):
        raise not_finite(path, num_bad, array.size)
    return array


def _whole_numbers(path: Path, array: NDArray[np.generic]) -> NDArray[np.integer]:
    with np.errstate(invalid="ignore"):
        is_whole = (np.abs(array) <= _LARGEST_EXACT) & (array == np.rint(array))
    if not is_whole.all():
        examples = ", ".join(f"{value:.6g}" for value in np.unique(array[~is_whole])[:3])
        num_bad = array.size - np.count_nonzero(is_whole)
        message = f"label values must be whole numbers, got {num_bad} voxels that are not, such as {examples}"
        raise unusable(path, "integer", message, "Resample labels with nearest neighbours and store them as integers")
    return array.astype(np.int64)
