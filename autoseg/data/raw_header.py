"""What the bytes of image files say and SimpleITK keeps to itself.

In silence it takes a missing spacing, or one of zero in NIfTI, for one; and in NIfTI it fills the missing end of a
truncated file, and replaces numbers that are not finite by zero.
"""

import gzip
import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.data.problem import UnusableFileError, unusable

_HEADER_BYTES = 348
_HEADER_BYTES_OF_VERSION_2 = 540
_MOST_HEADER_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20
_NUMBER_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"
}  # fmt: skip
_MOST_PLAIN_AXES = 4  # a fifth axis may hold vectors, which SimpleITK turns round
_TEXT_HEADER_BYTES = 1 << 14
_SPACING_KEYS = {
    ".nrrd": (b"spacings:", b"space directions:"),
    ".mha": (b"ElementSpacing", b"ElementSize"),
    ".mhd": (b"ElementSpacing", b"ElementSize"),
}
_END_OF_TEXT_HEADER = {".nrrd": b"\n\n", ".mha": b"ElementDataFile", ".mhd": b"ElementDataFile"}
_RETRY = "Fetch or export the file again"


@dataclass(frozen=True)
class NiftiHeader:
    """The part of a NIfTI header that is checked.

    Attributes:
        shape: Voxels per axis in the file's order, x first.
        spacing: What the file states per axis, x first, in its own unit; may be zero, negative or not a number.
        data_start: Bytes before the first voxel in the uncompressed file.
        data_end: Bytes that the uncompressed file must have; zero where the voxels lie in another file.
        dtype: Type of a voxel if it is a real number, or None.
        is_scaled: Whether a voxel stands for another number than is stored.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    data_start: int
    data_end: int
    dtype: np.dtype[np.generic] | None
    is_scaled: bool

    @property
    def is_plain(self) -> bool:
        """Whether the voxels are those in the file, in its order."""
        return (
            self.dtype is not None and not self.is_scaled and len(self.shape) <= _MOST_PLAIN_AXES and self.data_end > 0
        )


def read_nifti_header(path: Path) -> NiftiHeader:
    """Read the header of a NIfTI-1 file, compressed or not.

    Raises:
        UnusableFileError: If the file is no NIfTI-1 file or ends before its header does.

    Source:
        NIfTI-1 data format, nifti1.h: dim at byte 40, datatype at 70, bitpix at 72, pixdim at 76, vox_offset at 108,
        scl_slope at 112, scl_inter at 116, magic at 344.
    """
    try:
        with _uncompressed(path) as stream:
            header = stream.read(_HEADER_BYTES)
    except (EOFError, OSError, zlib.error) as error:
        raise unusable(path, "readable", f"must be readable, got: {error}", _RETRY) from None
    if len(header) < _HEADER_BYTES:
        message = f"must have a NIfTI header of {_HEADER_BYTES} bytes, got a file of {len(header)}"
        raise unusable(path, "readable", message, _RETRY)
    order = next((order for order in "<>" if struct.unpack_from(f"{order}i", header)[0] == _HEADER_BYTES), None)
    if order is None:
        version_2 = _HEADER_BYTES_OF_VERSION_2 in (struct.unpack_from(f"{order}i", header)[0] for order in "<>")
        found = "a NIfTI-2 header" if version_2 else "other content"
        raise unusable(path, "readable", f"must be a NIfTI-1 file, got {found}", "Convert it to NIfTI-1, NRRD or MHA")
    dim = struct.unpack_from(f"{order}8h", header, 40)
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise unusable(path, "readable", f"must state sizes of one voxel or more, got {dim}", _RETRY)
    bits = struct.unpack_from(f"{order}h", header, 72)[0]
    pixdim = struct.unpack_from(f"{order}8f", header, 76)
    shape = dim[1 : dim[0] + 1]
    is_one_file = header[344:348] == b"n+1\0"
    stated_offset = struct.unpack_from(f"{order}f", header, 108)[0] if is_one_file else 0.0
    if is_one_file and not _HEADER_BYTES <= stated_offset < _MOST_HEADER_BYTES:
        message = f"voxels must start after the header (vox_offset), got byte {stated_offset}"
        raise unusable(path, "readable", message, _RETRY)
    offset = int(stated_offset)
    data_end = offset + math.ceil(math.prod(shape) * bits / 8) if is_one_file else 0
    kind = _NUMBER_TYPES.get(struct.unpack_from(f"{order}h", header, 70)[0])
    slope, intercept = struct.unpack_from(f"{order}2f", header, 112)
    return NiftiHeader(
        shape=shape,
        spacing=pixdim[1 : dim[0] + 1],
        data_start=offset,
        data_end=data_end,
        dtype=np.dtype(order + kind) if kind and 8 * int(kind[1]) == bits else None,
        is_scaled=slope not in (0.0, 1.0) or intercept != 0.0,
    )


def require_stated_spacing(path: Path) -> None:
    """Refuse a NIfTI file whose spacing is zero, negative or not a number along an axis with several voxels.

    Raises:
        UnusableFileError: If it is, or if the header cannot be read.
    """
    header = read_nifti_header(path)
    stated = tuple(round(value, 6) for value in header.spacing[:3])
    bad = [not (math.isfinite(value) and value > 0) for value in stated]
    if any(is_bad and size > 1 for is_bad, size in zip(bad, header.shape, strict=False)):
        message = f"spacing (pixdim, x first) must be above zero, got {stated}"
        raise unusable(path, "spacing", message, "Export the file again, or write the true spacing into its header")


def states_spacing(path: Path) -> bool:
    """Return whether the text header of an NRRD or MetaImage file has a spacing; other formats always do."""
    suffix = path.suffix.lower()
    if suffix not in _SPACING_KEYS:
        return True
    with path.open("rb") as stream:
        start = stream.read(_TEXT_HEADER_BYTES).replace(b"\r\n", b"\n")
    header = start.partition(_END_OF_TEXT_HEADER[suffix])[0]
    return any(key in header for key in _SPACING_KEYS[suffix])


def read_sound_voxels(path: Path) -> NDArray[np.generic] | None:
    """Return the voxels of a NIfTI file that holds them plainly, in its order, one axis; None of another.

    Reads the whole file, a piece at a time, several times faster than SimpleITK does.

    Raises:
        UnusableFileError: If it is truncated or damaged, or has voxels that are no finite numbers.
    """
    header = read_nifti_header(path)
    is_float = header.dtype is not None and header.dtype.kind == "f"
    content = bytearray()
    num_bytes = num_bad = 0
    try:
        with _uncompressed(path) as stream:
            num_bytes += len(stream.read(header.data_start))
            while piece := stream.read(_CHUNK_BYTES):
                voxel_bytes = piece[: max(header.data_end - num_bytes, 0)]
                num_bytes += len(piece)
                if header.dtype is not None and is_float:
                    count = len(voxel_bytes) // header.dtype.itemsize
                    values = np.frombuffer(voxel_bytes, header.dtype, count)
                    num_bad += count - int(np.count_nonzero(np.isfinite(values)))
                if header.is_plain:
                    content += voxel_bytes
    except (EOFError, OSError, zlib.error) as error:
        raise unusable(path, "whole", f"compressed data must be whole, got: {error}", _RETRY) from None
    if num_bytes < header.data_end:
        message = f"must hold {header.data_end} bytes of uncompressed data, got {num_bytes}: the file is truncated"
        raise unusable(path, "whole", message, _RETRY)
    if num_bad:
        raise not_finite(path, num_bad, math.prod(header.shape))
    if header.dtype is None or not header.is_plain:
        return None
    return np.frombuffer(content, header.dtype).astype(header.dtype.newbyteorder("="), copy=False)


def not_finite(path: Path, num_bad: int, num_voxels: int) -> UnusableFileError:
    """Return the error for a file with voxels that are no finite numbers."""
    message = f"voxels must be finite numbers, got {num_bad} of {num_voxels} that are NaN or infinite"
    return unusable(path, "finite", message, "Replace these voxels, or export the file again")


def _uncompressed(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as stream:
        is_compressed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_compressed else path.open("rb")
