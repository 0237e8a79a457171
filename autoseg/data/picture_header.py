"""What the bytes of pictures say and SimpleITK keeps to itself.

In silence it has 8 bits of each voxel of TIFF files that it cannot read itself, mixes up the samples of grey pixels
that have several, and gives the colours of a palette in place of the indices into it.
"""

import io
import struct
from pathlib import Path

from autoseg.data.problem import unusable

_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MOST_TIFF_TAGS = 4096
_MOST_TIFF_NUMBERS = 64  # of the tags that are asked for, each has fewer
_TIFF_BITS, _TIFF_KIND, _TIFF_TURN, _TIFF_SAMPLES, _TIFF_PLANES, _TIFF_TILES, _TIFF_EXTRA = (
    258, 262, 274, 277, 284, 322, 338
)  # fmt: skip
_TIFF_GREYS, _TIFF_RGB, _TIFF_PALETTE = (0, 1), 2, 3
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_PALETTE = 3
_BMP_HEADER_BYTES = 40
_MOST_BITS_OF_A_PALETTE = 8


def tiff_tags(path: Path) -> dict[int, tuple[int, ...]]:
    """Return the whole numbers in the first directory of a TIFF file, by tag; none of another or a damaged file.

    Tags of many numbers, such as where the strips lie, are left out.

    Source:
        TIFF 6.0, section 2; in BigTIFF, counts and offsets have 8 bytes.
    """
    found: dict[int, tuple[int, ...]] = {}
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
            order = _TIFF_ORDERS[start[:4]]
            is_big = b"+" in start[:4]
            word, counter, place, room, entry_bytes = ("Q", "Q", 8, 8, 20) if is_big else ("I", "H", 4, 4, 12)
            stream.seek(struct.unpack_from(order + word, start, place)[0])
            (count,) = struct.unpack(order + counter, stream.read(struct.calcsize(order + counter)))
            directory = stream.read(min(count, _MOST_TIFF_TAGS) * entry_bytes)
            for first in range(0, len(directory), entry_bytes):
                tag, kind, number = struct.unpack_from(f"{order}HH{word}", directory, first)
                if kind not in _TIFF_TYPES or not 1 <= number <= _MOST_TIFF_NUMBERS:
                    continue
                layout, at = f"{order}{number}{_TIFF_TYPES[kind]}", first + entry_bytes - room
                if struct.calcsize(layout) <= room:
                    found[tag] = struct.unpack_from(layout, directory, at)
                else:
                    stream.seek(struct.unpack_from(order + word, directory, at)[0])
                    found[tag] = struct.unpack(layout, stream.read(struct.calcsize(layout)))
    except (KeyError, OSError, OverflowError, ValueError, struct.error):
        return {}
    return found


def require_whole_tiff(path: Path) -> None:
    """Refuse a TIFF file of which SimpleITK would read 8 bits of more, or samples that are mixed up.

    Raises:
        UnusableFileError: If it has more than 8 bits and is stored in tiles, one channel after the other, or turned; or
            if its pixels are grey and have several samples.

    Source:
        ITK, TIFFReaderInternal::CanRead: other files go through the RGBA reader of libtiff.
    """
    tags = tiff_tags(path)
    num_samples = tags.get(_TIFF_SAMPLES, (1,))[0]
    if num_samples > 1 and tags.get(_TIFF_KIND, (_TIFF_RGB,))[0] in _TIFF_GREYS:
        message = f"grey pixels must have one sample, to be read as they are, got {num_samples}"
        raise unusable(path, "whole", message, "Store each channel in a file of its own: NAME_0000.tif, NAME_0001.tif")
    bits = max(tags.get(_TIFF_BITS, (1,)))
    found = []
    if _TIFF_TILES in tags:
        found.append("tiles")
    if num_samples > 1 and tags.get(_TIFF_PLANES, (1,))[0] == 2:
        found.append("channels apart")
    is_turned = tags.get(_TIFF_TURN, (1,))[0] in (2, 3, 5, 6, 7, 8)
    if is_turned:
        found.append("turned pixels")
    if bits > 8 and found:
        layout = "strips, channels together and upright"
        message = f"voxels of {bits} bits must be stored in {layout}, to be read with all bits, got {', '.join(found)}"
        program = "" if is_turned else " ('tiffcp -s -p contig' does it)"
        raise unusable(path, "whole", message, f"Store it anew in {layout}{program}, or as NIfTI, NRRD or MHA")


def ends_in_alpha(path: Path, num_components: int) -> bool:
    """Return whether the last component of a picture, as SimpleITK reads it, is alpha.

    In a TIFF file it is where the file says so; the other formats have no second or fourth component but alpha, and
    SimpleITK makes one up for TIFF files that it does not read as they are stored.

    Args:
        path: PNG, TIFF, BMP or JPEG.
        num_components: Components per pixel that SimpleITK reads.

    Source:
        TIFF 6.0, section 18: ExtraSamples is 1 or 2 for alpha, and 0 for other data.
    """
    if num_components not in (2, 4):
        return False
    tags = tiff_tags(path)
    if tags.get(_TIFF_KIND) == (_TIFF_RGB,) and tags.get(_TIFF_SAMPLES) == (num_components,):
        return tags.get(_TIFF_EXTRA, (0,))[-1] in (1, 2)
    return True


def holds_palette_indices(path: Path) -> bool:
    """Return whether a PNG, TIFF or BMP holds indices into a palette, in place of which SimpleITK reads the colours.

    A palette in which each index is its own grey value counts as none; so does any of greys in BMP, as that format has
    no other way to hold grey values.

    Source:
        PNG, third edition, 11.2; TIFF 6.0, section 5; BITMAPINFOHEADER.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(54)
            if start.startswith(_PNG_START) and start[25:26] == bytes([_PNG_PALETTE]):
                palette = _png_palette(stream)
                return palette != bytes(index for index in range(len(palette) // 3) for _ in range(3))
            if start.startswith(b"BM"):
                blues, greens, reds = _bmp_palette(stream, start)
                return not blues == greens == reds
    except (OSError, OverflowError, struct.error):
        return False
    return tiff_tags(path).get(_TIFF_KIND) == (_TIFF_PALETTE,)


def _png_palette(stream: io.BufferedIOBase) -> bytes:
    stream.seek(len(_PNG_START))
    while True:
        num_bytes, name = struct.unpack(">I4s", stream.read(8))
        if name == b"PLTE":
            return stream.read(min(num_bytes, 3 * 256))
        stream.seek(num_bytes + 4, io.SEEK_CUR)


def _bmp_palette(stream: io.BufferedIOBase, start: bytes) -> tuple[bytes, bytes, bytes]:
    header_bytes = struct.unpack_from("<I", start, 14)[0]
    bits, num_colours = struct.unpack_from("<H", start, 28)[0], struct.unpack_from("<I", start, 46)[0]
    if header_bytes < _BMP_HEADER_BYTES or bits > _MOST_BITS_OF_A_PALETTE:
        return b"", b"", b""
    stream.seek(14 + header_bytes)
    palette = stream.read(4 * (min(num_colours, 256) or 2**bits))
    return palette[0::4], palette[1::4], palette[2::4]
