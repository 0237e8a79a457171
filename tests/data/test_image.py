from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from autoseg.core.errors import DatasetError
from autoseg.core.geometry import Geometry
from autoseg.data.image import (
    Image,
    LabelImage,
    case_stem,
    image_suffix,
    label_values,
    left_right_axis,
    read_header,
    read_image,
    read_label,
    write_image,
    write_label,
)
from tests.data.making import OBLIQUE, SHAPE, label_map, scan, shorten, write, write_vectors

GEOMETRY = Geometry(spacing=(3.0, 1.25, 1.5), origin=(10.0, -20.0, 5.0), direction=OBLIQUE)
FLAT = Geometry(spacing=(1.0, 1.25, 1.5), origin=(10.0, -20.0, 0.0), dimensions=2)
PICTURE = Geometry(spacing=(1.0, 1.0, 1.0), dimensions=2)


@pytest.mark.parametrize(
    ("direction", "axis"),
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), 2),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), 2),
        ((0, 0, -1, 1, 0, 0, 0, -1, 0), 0),
        ((0, 1, 0, 1, 0, 0, 0, 0, -1), 1),
        ((0.6, -0.8, 0, 0.8, 0.6, 0, 0, 0, 1), 1),
        (OBLIQUE, 2),
    ],
)
def test_left_and_right_lie_along_the_axis_closest_to_the_worlds_x(direction: tuple[float, ...], axis: int) -> None:
    assert left_right_axis(Geometry(spacing=(3.0, 1.25, 1.5), direction=direction)) == axis


def test_a_files_left_right_axis_is_that_of_its_array(tmp_path: Path) -> None:
    """nibabel indexes (i, j, k), the array is (k, j, i): left-right along j is axis 1 of the array, along k axis 0."""
    for number, affine in enumerate((np.eye(4)[[1, 0, 2, 3]], np.eye(4)[[2, 1, 0, 3]])):
        path = tmp_path / f"{number}.nii.gz"
        nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), affine), path)
        assert left_right_axis(read_image([path]).geometry) == (1, 0)[number]


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [
        ("case.nii.gz", ".nii.gz", "case"),
        ("case.1.nii.gz", ".nii.gz", "case.1"),
        ("case.1.nii", ".nii", "case.1"),
        ("v1.2_scan.NRRD", ".nrrd", "v1.2_scan"),
        ("a.b.c.png", ".png", "a.b.c"),
        ("scan.gz", None, "scan"),
        (".nii.gz", None, ".nii"),
    ],
)
def test_the_stem_keeps_dots_of_the_name(name: str, suffix: str | None, stem: str) -> None:
    assert image_suffix(Path(name)) == suffix
    assert case_stem(Path(name)) == stem


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"])
def test_volumes_are_read_in_array_order(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", scan(), direction=OBLIQUE)
    image, header = read_image([path]), read_header(path)
    np.testing.assert_array_equal(image.array, scan()[np.newaxis])
    assert (header.num_channels, header.shape, image.geometry) == (1, SHAPE, header.geometry)
    assert image.geometry.spacing == pytest.approx(GEOMETRY.spacing)
    assert image.geometry.origin == pytest.approx(GEOMETRY.origin)
    assert image.geometry.direction == pytest.approx(OBLIQUE, abs=1e-6)
    assert image.array.dtype == np.float32


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_labels_come_back_with_type_and_grid(tmp_path: Path, suffix: str, dtype: str) -> None:
    path = tmp_path / f"case.1{suffix}"
    write_label(path, LabelImage(label_map(dtype=dtype), GEOMETRY))
    back = read_label(path)
    np.testing.assert_array_equal(back.array, label_map())
    assert back.array.dtype == dtype
    assert back.geometry.spacing == pytest.approx(GEOMETRY.spacing)
    assert back.geometry.direction == pytest.approx(OBLIQUE, abs=1e-6)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_label_written_on_the_grid_of_a_scan_has_its_affine(tmp_path: Path) -> None:
    tilt = (1.0, 0.0, 0.0, 0.0, 0.8, -0.6, 0.0, 0.6, 0.8)
    scan_path = write(tmp_path / "scan.nii.gz", scan(), direction=tilt)
    write_label(tmp_path / "label.nii.gz", LabelImage(label_map(), read_header(scan_path).geometry))
    affines = [nib.load(tmp_path / name).affine for name in ("scan.nii.gz", "label.nii.gz")]
    np.testing.assert_array_equal(*affines)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_2d_files_stay_2d(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"flat{suffix}"
    write_label(path, LabelImage(label_map((1, 6, 5)), FLAT))
    back = read_label(path)
    assert (back.array.shape, back.geometry) == ((1, 6, 5), FLAT)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_labels_come_back_from_pictures(tmp_path: Path, suffix: str, dtype: str) -> None:
    path = tmp_path / f"picture{suffix}"
    write_label(path, LabelImage(label_map((1, 6, 5), (0, 3, 255), dtype), PICTURE))
    back = read_label(path)
    np.testing.assert_array_equal(back.array, label_map((1, 6, 5), (0, 3, 255)))
    assert back.array.dtype == dtype
    assert back.geometry == PICTURE


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("direction", [(0, 0, -1, 1, 0, 0, 0, -1, 0), (1, 0, 0, 0, 0, 1, 0, -1, 0)])
def test_a_slice_across_the_patient_becomes_a_picture(
    tmp_path: Path, suffix: str, direction: tuple[float, ...]
) -> None:
    """Sagittal and coronal: two axes of their directions are none."""
    geometry = Geometry(spacing=(3.0, 1.25, 1.5), direction=direction)
    write_label(tmp_path / f"slice{suffix}", LabelImage(label_map((1, 6, 5), (0, 3)), geometry))
    np.testing.assert_array_equal(read_label(tmp_path / f"slice{suffix}").array, label_map((1, 6, 5), (0, 3)))


def test_a_tiff_of_several_pages_is_a_volume(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    write_label(path, LabelImage(label_map(), Geometry(spacing=(1.0, 1.0, 1.0))))
    np.testing.assert_array_equal(read_label(path).array, label_map())


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "words"),
    [
        ("a.png", "int16", (1, 6, 5), r"must be one of \('uint8', 'uint16'\), got int16"),
        ("a.tif", "int64", (1, 6, 5), "got int64. Write .nii.gz"),
        ("a.png", "uint8", (4, 6, 5), "must get one slice, got 4"),
        ("a.jpg", "uint8", (1, 6, 5), "suffix must be .* got '.jpg'"),
        ("a.mhd", "uint8", (1, 6, 5), "suffix must be"),
        ("a", "uint8", (1, 6, 5), "suffix must be"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    tmp_path: Path, name: str, dtype: str, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        write_label(tmp_path / name, LabelImage(label_map(shape, dtype=dtype), PICTURE))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("geometry", [GEOMETRY, FLAT])
def test_images_come_back(tmp_path: Path, suffix: str, num_channels: int, geometry: Geometry) -> None:
    image = Image(scan(shape=(num_channels, 4 if geometry.dimensions == 3 else 1, 6, 5)), geometry)
    write_image(tmp_path / f"a{suffix}", image)
    back = read_image([tmp_path / f"a{suffix}"])
    np.testing.assert_array_equal(back.array, image.array)
    assert back.geometry.spacing == pytest.approx(geometry.spacing)
    assert back.geometry.dimensions == geometry.dimensions


def test_an_image_is_not_written_as_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suffix must be .nii.gz"):
        write_image(tmp_path / "a.png", Image(scan(shape=(1, 1, 6, 5)), PICTURE))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_colours_are_channels_and_print_resolution_is_ignored(tmp_path: Path, suffix: str) -> None:
    colours = scan(shape=(6, 5, 3), dtype="uint8")
    image = read_image([write_vectors(tmp_path / f"a{suffix}", colours)])
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(colours, -1, 0))
    assert image.geometry.spacing == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_is_dropped(tmp_path: Path, suffix: str) -> None:
    path = write_vectors(tmp_path / f"a{suffix}", scan(shape=(6, 5, 4), dtype="uint8"))
    assert read_header(path).num_channels == 3
    assert read_image([path]).array.shape == (3, 1, 6, 5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(("extra", "num_channels"), [(0, 4), (1, 3), (2, 3)])
def test_the_fourth_channel_of_tiff_is_alpha_if_the_file_says_so(
    tmp_path: Path, dtype: str, extra: int, num_channels: int
) -> None:
    colours = scan(shape=(6, 5, 4), dtype=dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, colours, photometric="rgb", extrasamples=(extra,))
    assert read_header(path).num_channels == num_channels
    np.testing.assert_array_equal(read_image([path]).array[:, 0], np.moveaxis(colours, -1, 0)[:num_channels])


def test_both_channels_of_tiff_are_kept(tmp_path: Path) -> None:
    colours = scan(shape=(6, 5, 2), dtype="uint16")
    image = read_image([write_vectors(tmp_path / "a.tif", colours)])
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(colours, -1, 0))


@pytest.mark.parametrize(("stored", "kind"), [((32, 48), "minisblack"), ((32, 48, 3), "rgb")])
def test_an_alpha_that_simpleitk_makes_up_is_dropped(tmp_path: Path, stored: tuple[int, ...], kind: str) -> None:
    """It reads 8 bits in tiles as red, green, blue and alpha."""
    array = scan(shape=stored, dtype="uint8")
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=kind, tile=(16, 16))
    image = read_image([tmp_path / "a.tif"])
    colours = np.broadcast_to(array.reshape(32, 48, -1), (32, 48, 3))
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(colours, -1, 0))


def test_four_samples_that_become_colours_have_no_fourth_channel(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", scan(shape=(32, 48, 4), dtype="uint8"), photometric="separated")
    assert read_header(tmp_path / "a.tif").num_channels == 3


def test_four_channels_of_a_volume_are_not_alpha(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "a.nrrd", scan(shape=(*SHAPE, 4)))
    assert read_image([path]).array.shape == (4, *SHAPE)


@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        ((5, 6, 4, 3), (3, 4, 6, 5)),
        ((5, 6, 4, 1), (1, 4, 6, 5)),
        ((5, 6, 1, 3), (3, 1, 6, 5)),
        ((5, 6, 4, 1, 3), (3, 4, 6, 5)),
        ((5, 6, 1), (1, 1, 6, 5)),
    ],
)
def test_the_last_axis_of_nifti_is_channels(tmp_path: Path, stored: tuple[int, ...], shape: tuple[int, ...]) -> None:
    array = scan(shape=stored)
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0])), tmp_path / "a.nii.gz")
    image, header = read_image([tmp_path / "a.nii.gz"]), read_header(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(image.array, array.T.reshape(shape))
    assert (header.num_channels, *header.shape) == shape
    assert image.geometry.spacing == (3.0, 2.0, 1.0)


def test_channels_in_several_files_are_stacked_in_order(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"a_{number}.nii.gz", scan(number)) for number in (1, 0)]
    np.testing.assert_array_equal(read_image(paths).array, [scan(1), scan(0)])


@pytest.mark.parametrize(
    ("array", "grid", "words"),
    [
        (scan(shape=(4, 6, 7)), {}, r"a_1.nii.gz: shape .* must be \(4, 6, 5\) voxels, got \(4, 6, 7\) \(of a_0"),
        (scan(), {"spacing": (1.5, 1.25, 2.0)}, r"spacing .* must be \(3, 1.25, 1.5\), got \(2, 1.25, 1.5\)"),
        (scan(), {"origin": (90.0, 0.0, 0.0)}, "origin must be"),
    ],
)
def test_channels_on_different_grids_are_refused(
    tmp_path: Path, array: np.ndarray, grid: dict[str, tuple[float, ...]], words: str
) -> None:
    paths = [write(tmp_path / "a_0.nii.gz", scan()), write(tmp_path / "a_1.nii.gz", array, **grid)]
    with pytest.raises(DatasetError, match=words):
        read_image(paths)


def test_no_file_is_a_wrong_argument() -> None:
    with pytest.raises(ValueError, match="at least one file"):
        read_image([])


def test_integers_beyond_exact_floats_are_read(tmp_path: Path) -> None:
    array = np.full(SHAPE, 2**30 + 1, np.int32)
    array[0] = -5
    np.testing.assert_allclose(read_image([write(tmp_path / "a.mha", array)]).array[0], array, rtol=1e-7)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_voxels_that_are_no_numbers_are_refused(tmp_path: Path, suffix: str, value: float) -> None:
    array = scan(dtype="float64")
    array[-1, -1, -2:] = value
    with pytest.raises(DatasetError, match="must be finite numbers, got 2 of 120"):
        read_image([write(tmp_path / f"a{suffix}", array)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whole_numbers_stored_as_floats_are_labels(tmp_path: Path, dtype: str) -> None:
    label = read_label(write(tmp_path / "a.nii.gz", label_map(values=(-1, 0, 70000), dtype=dtype)))
    assert label.array.dtype.kind == "i"
    assert label_values(label.array) == (-1, 0, 70000)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.5, "must be whole numbers, got 1 voxels that are not, such as 0.5"),
        (1e30, "such as 1e.30"),
        (np.nan, "must be .* numbers, got 1"),
    ],
)
def test_fractional_labels_are_refused(tmp_path: Path, suffix: str, value: float, words: str) -> None:
    array = label_map(dtype="float32")
    array[0, 0, 0] = value
    with pytest.raises(DatasetError, match=words):
        read_label(write(tmp_path / f"a{suffix}", array))


def test_a_grey_picture_in_colour_is_a_label(tmp_path: Path) -> None:
    grey = label_map((6, 5), (0, 255))
    path = write_vectors(tmp_path / "a.png", np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(read_label(path).array[0], grey)


def test_colours_are_no_labels(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "a.png", scan(shape=(6, 5, 3), dtype="uint8"))
    with pytest.raises(DatasetError, match="must have one channel, got 3"):
        read_label(path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_a_label_map_with_a_palette_is_refused_by_that_name(tmp_path: Path, suffix: str) -> None:
    """Also where it holds nothing but background, whose colour is black."""
    path = tmp_path / f"a{suffix}"
    for values in ((0, 1, 2), (0,)):
        picture = Picture.frombytes("P", (5, 6), label_map((6, 5), values).tobytes())
        picture.putpalette((0, 0, 0, 128, 0, 0, 0, 128, 0))
        picture.save(path)
        assert read_image([path]).array.shape[0] in (1, 3)
        with pytest.raises(DatasetError, match=r"must have no palette, got one.* Store the indices as grey values"):
            read_label(path)


def test_a_palette_of_which_each_index_is_its_grey_value_is_none(tmp_path: Path) -> None:
    labels = label_map((6, 5), (0, 1, 2))
    Picture.fromarray(labels).convert("P").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png").array[0], labels)


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 255)])
def test_grey_bmp_is_read_though_it_has_a_palette(tmp_path: Path, values: tuple[int, ...]) -> None:
    labels = label_map((6, 5), values)
    Picture.fromarray(labels).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read_label(tmp_path / "a.bmp").array[0], labels)


def test_jpeg_is_an_image_but_no_label(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", scan(shape=(8, 8), dtype="uint8"))
    assert read_image([path]).array.shape == (1, 1, 8, 8)
    with pytest.raises(DatasetError, match="without loss, got JPEG"):
        read_label(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    flat = suffix in (".png", ".tif")
    path = write(tmp_path / f"a{suffix}", scan(shape=(60, 50) if flat else (20, 30, 40), dtype="uint8"))
    with pytest.raises(DatasetError, match=f"a{suffix}: .*must "):
        read_image([shorten(path)])


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b\x08\x00broken", b"\0" * 1000])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif"])
def test_other_content_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"must .*, got"):
        read_header(path)


def test_a_link_to_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "fetched_later")
    with pytest.raises(DatasetError, match=r"a\.nii\.gz: the file must be there, found a link to none\. Fetch what"):
        read_header(tmp_path / "a.nii.gz")


def test_a_missing_file_names_one_that_differs_in_case(tmp_path: Path) -> None:
    write(tmp_path / "Scan.nii.gz", scan())
    with pytest.raises(DatasetError, match=r"found Scan.nii.gz .upper and lower case differ"):
        read_header(tmp_path / "scan.nii.gz")
    with pytest.raises(DatasetError, match="must be there, found none"):
        read_header(tmp_path / "nowhere" / "scan.nii.gz")


def test_other_formats_and_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"must be an image .* got '.txt'"):
        read_header(tmp_path / "a.txt")
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.complex64), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(DatasetError, match="must be real numbers, got complex"):
        read_header(tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(scan(shape=(5, 6, 4, 2, 3)), np.eye(4)), tmp_path / "b.nii.gz")
    with pytest.raises(DatasetError, match="three axes of space and one of channels at most, got 5"):
        read_header(tmp_path / "b.nii.gz")


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha", ".png"])
def test_damaged_headers_never_end_in_another_error(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", scan(shape=(12, 10) if suffix == ".png" else SHAPE, dtype="uint8"))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    messages = []
    for place in rng.choice(min(len(whole), 348), 60, replace=False):
        damaged = bytearray(whole)
        damaged[place] = rng.choice([0, 127, 128, 255])
        path.write_bytes(damaged)
        try:
            read_image([path])
        except DatasetError as error:
            messages.append(str(error))
    assert 0 < len(messages) < 60
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (np.array([[[-128, 127]]], np.int8), (-128, 127)),
        (np.array([[[7]], [[3]]], np.uint16), (3, 7)),
        (np.array([[[0, 2**40, 5]]], np.int64), (0, 5, 2**40)),
        (np.array([[[2**64 - 1, 2**64 - 3]]], np.uint64), (2**64 - 3, 2**64 - 1)),
    ],
)
def test_label_values_are_found_whatever_their_range(array: np.ndarray, values: tuple[int, ...]) -> None:
    assert label_values(array) == values
