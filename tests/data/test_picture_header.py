from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from autoseg.core.errors import DatasetError
from autoseg.data.image import read_image
from autoseg.data.picture_header import holds_palette_indices, require_whole_tiff, tiff_tags
from tests.data.making import scan


@pytest.mark.parametrize("num_samples", [2, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_grey_pixels_of_several_samples_are_refused(tmp_path: Path, num_samples: int, dtype: str) -> None:
    array = scan(shape=(32, 48, num_samples), dtype=dtype)
    extra = (0,) * (num_samples - 1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, photometric="minisblack", planarconfig="contig", extrasamples=extra)
    with pytest.raises(DatasetError, match=f"grey pixels must have one sample.*got {num_samples}.*file of its own"):
        read_image([path])


def turned(orientation: int) -> dict[str, Any]:
    return {"extratags": [(274, 3, 1, orientation, True)]}


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tags_of_tiff_files_are_read(tmp_path: Path, order: Literal["<", ">"], is_big: bool) -> None:
    colours = scan(shape=(32, 48, 4), dtype="uint16")
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, colours, byteorder=order, bigtiff=is_big, photometric="rgb", extrasamples=(2,), tile=(16, 16)
    )
    known = {256: (48,), 257: (32,), 258: (16,) * 4, 262: (2,), 277: (4,), 322: (16,), 338: (2,)}
    assert {tag: value for tag, value in tiff_tags(path).items() if tag in known} == known


@pytest.mark.parametrize(
    "content", [b"", b"II*\0", b"hello, this is no TIFF", b"II*\0" + b"\xff" * 12, b"II+\0" + b"\xff" * 30]
)
def test_other_content_has_no_tags(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    assert tiff_tags(tmp_path / "a.tif") == {}


def test_damaged_directories_end_in_no_error(tmp_path: Path) -> None:
    for is_big in (False, True):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, scan(shape=(4, 4, 3), dtype="uint16"), photometric="rgb", bigtiff=is_big)
        whole, rng = path.read_bytes(), np.random.default_rng(0)
        for place in rng.choice(len(whole), 200, replace=False):
            path.write_bytes(whole[:place] + bytes([rng.choice([0, 127, 255])]) + whole[place + 1 :])
            assert isinstance(tiff_tags(path), dict)
            path.write_bytes(whole[:place])
            assert isinstance(tiff_tags(path), dict)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"tile": (16, 16)}, r"got tiles\. Store it anew .*tiffcp"),
        ({"planarconfig": "separate"}, r"got channels apart\. Store it anew .*tiffcp"),
        ({"planarconfig": "separate", "tile": (16, 16)}, "got tiles, channels apart"),
        (turned(2), r"got turned pixels\. Store it anew in strips, channels together and upright, or as NIfTI"),
        (turned(3), "got turned pixels"),
        (turned(8), "got turned pixels"),
    ],
)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_tiff_files_of_which_8_bits_would_be_read_are_refused(
    tmp_path: Path, layout: dict[str, Any], words: str, dtype: str
) -> None:
    shape = (3, 32, 48) if "planarconfig" in layout else (32, 48)
    kind = "rgb" if len(shape) == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", scan(shape=shape, dtype=dtype), photometric=kind, **layout)
    bits = 8 * np.dtype(dtype).itemsize
    with pytest.raises(DatasetError, match=rf"a.tif: voxels of {bits} bits must be stored in strips.*{words}"):
        read_image([tmp_path / "a.tif"])
    tifffile.imwrite(tmp_path / "b.tif", scan(shape=shape, dtype="uint8"), photometric=kind, **layout)
    require_whole_tiff(tmp_path / "b.tif")


@pytest.mark.parametrize(
    "layout", [{}, {"compression": "zlib"}, {"bigtiff": True}, {"byteorder": ">"}, turned(1), turned(4)]
)
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_other_tiff_files_are_read_whole(tmp_path: Path, layout: dict[str, Any], dtype: str) -> None:
    array = scan(shape=(32, 48), dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", **layout)
    voxels = read_image([tmp_path / "a.tif"]).array
    assert np.array_equal(voxels[0, 0], array[::-1] if layout == turned(4) else array)


VOC = (0, 0, 0, 128, 0, 0, 0, 128, 0)
RAMP = (0, 0, 0, 1, 1, 1, 2, 2, 2)
GREYS = (0, 0, 0, 128, 128, 128, 255, 255, 255)


@pytest.mark.parametrize(
    ("suffix", "palette", "is_told"),
    [
        (".png", VOC, True),
        (".png", GREYS, True),
        (".png", RAMP, False),
        (".png", None, False),
        (".tif", VOC, True),
        (".tif", GREYS, True),
        (".tif", None, False),
        (".bmp", VOC, True),
        (".bmp", GREYS, False),
        (".bmp", None, False),
    ],
)
def test_palettes_are_told_from_grey_values(
    tmp_path: Path, suffix: str, palette: tuple[int, ...] | None, is_told: bool
) -> None:
    indices = np.resize(np.arange(3, dtype=np.uint8), (6, 5))
    picture = Picture.fromarray(indices)
    if palette:
        picture = Picture.frombytes("P", (5, 6), indices.tobytes())
        picture.putpalette(palette)
    picture.save(tmp_path / f"a{suffix}")
    assert holds_palette_indices(tmp_path / f"a{suffix}") is is_told


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_true_colours_are_no_palette(tmp_path: Path, suffix: str, mode: str) -> None:
    Picture.new(mode, (5, 6), "red").save(tmp_path / f"a{suffix}")
    assert not holds_palette_indices(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
@pytest.mark.parametrize("num_bytes", [0, 2, 20, 30, 40])
def test_truncated_pictures_are_left_to_their_reader(tmp_path: Path, suffix: str, num_bytes: int) -> None:
    path = tmp_path / f"a{suffix}"
    picture = Picture.new("P", (5, 6))
    picture.putpalette(VOC)
    picture.save(path)
    path.write_bytes(path.read_bytes()[:num_bytes])
    assert not holds_palette_indices(path)
