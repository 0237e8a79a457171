import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.core.errors import DatasetError
from autoseg.data.image import read_image
from autoseg.data.raw_header import (
    read_nifti_header,
    read_sound_voxels,
    require_stated_spacing,
    states_spacing,
)
from tests.data.making import SHAPE, patch_nifti, scan, write, write_vectors

SPACING_OF_X, SPACING_OF_Z, DIM, VOX_OFFSET, SCALING = 80, 88, 40, 108, 112
NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\n{}encoding: raw\n\n"
MHA = "NDims = 3\nDimSize = 2 2 2\n{}ElementType = MET_UCHAR\nElementDataFile = LOCAL\n"


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_read(tmp_path: Path, order: str) -> None:
    image = nib.Nifti1Image(scan().T, np.diag([1.5, 1.25, 3.0, 1.0]), nib.Nifti1Header(endianness=order))
    image.header.set_data_dtype(np.dtype(f"{order}f4"))
    nib.save(image, tmp_path / "a.nii")
    header = read_nifti_header(tmp_path / "a.nii")
    assert (header.shape, header.spacing) == (SHAPE[::-1], (1.5, 1.25, 3.0))
    assert header.data_end == (tmp_path / "a.nii").stat().st_size
    assert header.dtype == np.dtype(f"{order}f4")
    voxels = read_sound_voxels(tmp_path / "a.nii")
    assert voxels is not None
    assert voxels.dtype == np.float32
    assert np.array_equal(voxels, scan().ravel())


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("place", [SPACING_OF_X, SPACING_OF_Z])
def test_a_spacing_must_be_above_zero(tmp_path: Path, value: float, place: int) -> None:
    path = patch_nifti(write(tmp_path / "a.nii.gz", scan()), "<f", place, value)
    with pytest.raises(DatasetError, match=r"a.nii.gz: spacing .* must be above zero, got"):
        require_stated_spacing(path)


def test_an_axis_of_one_voxel_needs_no_spacing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", scan(shape=(1, 6, 5)))
    require_stated_spacing(patch_nifti(path, "<f", SPACING_OF_Z, 0.0))


@pytest.mark.parametrize("sizes", [(3, 5, 6, 0), (0, 5, 6, 4), (9, 5, 6, 4), (3, -5, 6, 4)])
def test_sizes_must_be_possible(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    path = patch_nifti(write(tmp_path / "a.nii.gz", scan()), "<4h", DIM, *sizes)
    with pytest.raises(DatasetError, match="must state sizes of one voxel or more"):
        read_nifti_header(path)


@pytest.mark.parametrize("offset", [-352.0, 0.0, float("nan"), float("inf"), 1e20])
def test_voxels_start_after_the_header(tmp_path: Path, offset: float) -> None:
    path = patch_nifti(write(tmp_path / "a.nii.gz", scan()), "<f", VOX_OFFSET, offset)
    with pytest.raises(DatasetError, match="voxels must start after the header"):
        read_nifti_header(path)


def test_nifti_2_is_named(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(scan(), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(DatasetError, match="must be a NIfTI-1 file, got a NIfTI-2 header"):
        read_nifti_header(tmp_path / "a.nii.gz")


def test_one_byte_less_is_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", scan())
    read_sound_voxels(path)
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[:-1]))
    with pytest.raises(DatasetError, match=rf"must hold {len(whole)} bytes .*, got {len(whole) - 1}"):
        read_sound_voxels(path)


@pytest.mark.parametrize("place", [0.5, 0.9])
def test_damage_in_compressed_data_is_found(tmp_path: Path, place: float) -> None:
    path = write(tmp_path / "a.nii.gz", scan(shape=(20, 30, 40)))
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="compressed data must be whole"):
        read_sound_voxels(path)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_is_found_in_every_piece(tmp_path: Path, dtype: str) -> None:
    array = scan(shape=(70, 80, 60), dtype=dtype)
    array[0, 0, 0] = array[35, 40, 30] = np.nan
    array[-1, -1, -1] = -np.inf
    with pytest.raises(DatasetError, match="got 3 of 336000 that are NaN or infinite"):
        read_sound_voxels(write(tmp_path / "a.nii.gz", array))


@pytest.mark.parametrize(
    ("name", "text", "is_stated"),
    [
        ("a.nrrd", NRRD.format(""), False),
        ("a.nrrd", NRRD.format("spacings: 1 1 1\n"), True),
        ("a.nrrd", NRRD.format("space directions: (1,0,0) (0,1,0) (0,0,1)\n").replace("\n", "\r\n"), True),
        ("a.mha", MHA.format(""), False),
        ("a.mha", MHA.format("ElementSpacing = 1 1 1\n"), True),
        ("a.mha", MHA.format("") + "ElementSpacing", False),
        ("a.png", "", True),
    ],
)
def test_text_headers_state_a_spacing_or_not(tmp_path: Path, name: str, text: str, is_stated: bool) -> None:
    (tmp_path / name).write_bytes(text.encode() + bytes(8))
    assert states_spacing(tmp_path / name) is is_stated


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 4), (5, 6, 1), (5, 6, 4, 3)])
def test_plain_voxels_are_those_that_simpleitk_reads(
    tmp_path: Path, order: str, dtype: str, shape: tuple[int, ...]
) -> None:
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(order + dtype))
    array = scan(shape=shape).astype(dtype)
    nib.save(nib.Nifti1Image(array, np.diag([-1.5, -1.25, 3.0, 1.0]), header), tmp_path / "a.nii.gz")
    voxels = read_sound_voxels(tmp_path / "a.nii.gz")
    assert voxels is not None
    known = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    assert voxels.dtype == known.dtype
    assert np.array_equal(voxels, known.ravel())


@pytest.mark.parametrize(("slope", "intercept"), [(2.0, 0.0), (1.0, -1024.0), (0.0, 3.0)])
def test_scaled_voxels_are_left_to_simpleitk(tmp_path: Path, slope: float, intercept: float) -> None:
    path = patch_nifti(write(tmp_path / "a.nii.gz", scan(dtype="int16")), "<2f", SCALING, slope, intercept)
    assert read_sound_voxels(path) is None
    assert np.array_equal(read_image([path]).array[0], sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def test_voxels_that_are_no_real_numbers_are_left_to_simpleitk(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "a.nii.gz", scan(shape=(4, 6, 5, 3)))
    assert read_sound_voxels(path) is None
    assert read_image([path]).array.shape == (3, 4, 6, 5)
