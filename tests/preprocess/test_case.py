import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg.core.errors import DatasetError
from autoseg.core.geometry import Geometry
from autoseg.data.image import Image, LabelImage
from autoseg.data.store import OUTSIDE
from autoseg.preprocess.case import nonzero_mask, prepare_case, prepare_image
from tests.preprocess.plans import channel, configuration, plan


def _image(array: NDArray[np.generic], spacing: tuple[float, float, float] = (1, 1, 1)) -> Image:
    stacked = array[None] if array.ndim == 3 else array
    return Image(stacked.astype(np.float32), Geometry(spacing=spacing))


def _label(array: NDArray[np.integer], spacing: tuple[float, float, float] = (1, 1, 1)) -> LabelImage:
    return LabelImage(array, Geometry(spacing=spacing))


def _block() -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """A block of ones with a hole and a notch, in a margin of zeros that differs per side."""
    array = np.zeros((8, 10, 12), np.float32)
    array[1:5, 2:8, 3:12] = 1
    array[2, 4, 6] = 0
    array[1, 2, 3] = 0
    label = np.zeros(array.shape, np.int16)
    label[2:4, 4:6, 5:9] = 5
    return array, label


def test_the_mask_is_filled_and_joins_channels() -> None:
    array, _ = _block()
    mask = nonzero_mask(np.stack([array, np.zeros_like(array)]))
    assert mask[2, 4, 6]
    assert not mask[1, 2, 3]
    assert mask.sum() == 4 * 6 * 9 - 1


def test_cropping_and_class_indices() -> None:
    array, label = _block()
    prepared, indices = prepare_case(_image(array), _label(label), plan(), configuration(), "la")
    assert prepared.properties.crop_box == ((1, 5), (2, 8), (3, 12))
    assert prepared.properties.cropped_shape == prepared.properties.stored_shape == (4, 6, 9)
    assert prepared.properties.original_shape == (8, 10, 12)
    assert np.array_equal(prepared.array[0], array[1:5, 2:8, 3:12])
    assert indices[0, 0, 0] == OUTSIDE
    assert (indices == 2).sum() == (label == 5).sum()
    assert prepared.properties.num_voxels_per_class == (4 * 6 * 9 - 1 - 16, 0, 16)


def test_foreground_outside_the_mask_is_kept() -> None:
    array, label = _block()
    label[1, 2, 3] = 1
    _, indices = prepare_case(_image(array), _label(label), plan(), configuration(), "la")
    assert indices[0, 0, 0] == 1


def test_ignored_voxels_hold_the_number_of_classes() -> None:
    array, label = _block()
    label[2, 4:6, 5:9] = 9
    made = plan(labels=plan().labels.model_copy(update={"ignored": 9}))
    prepared, indices = prepare_case(_image(array), _label(label), made, configuration(), "la")
    assert (indices == 3).sum() == 8
    assert prepared.properties.num_ignored_voxels == 8
    assert prepared.properties.num_voxels_per_class == (4 * 6 * 9 - 1 - 16, 0, 8)


def test_axes_are_transposed_before_everything() -> None:
    array, label = _block()
    forward = (2, 0, 1)
    turned, turned_indices = prepare_case(
        _image(array, (1, 1, 4)), _label(label, (1, 1, 4)), plan(forward), configuration((2.0, 1, 1)), "la"
    )
    straight, indices = prepare_case(
        _image(array.transpose(forward), (4, 1, 1)),
        _label(label.transpose(forward), (4, 1, 1)),
        plan(),
        configuration((2.0, 1, 1)),
        "la",
    )
    assert turned.properties.cropped_spacing == (4, 1, 1)
    assert turned.properties.stored_shape == (18, 4, 6)
    assert np.array_equal(turned.array, straight.array)
    assert np.array_equal(turned_indices, indices)


def test_values_are_normalised_before_they_are_resampled() -> None:
    array = np.zeros((4, 4, 4), np.float32)
    array[:, :, 1:] = np.random.default_rng(0).uniform(100, 3000, (4, 4, 3))
    prepared = prepare_image(_image(array), plan(), configuration((0.5, 0.5, 0.5), channels=(channel("ct"),)))
    assert prepared.array.shape == (1, 8, 8, 6)
    assert prepared.array.max() <= 3.25
    assert prepared.array.dtype == np.float32
    assert prepared.array.flags.c_contiguous


def test_slices_of_a_2d_configuration_keep_their_distance() -> None:
    array, label = _block()
    settings = configuration((0.5, 2.0), (8, 8))
    prepared, indices = prepare_case(_image(array, (7, 1, 1)), _label(label, (7, 1, 1)), plan(), settings, "la")
    assert prepared.properties.stored_shape == indices.shape == (4, 12, 4)
    one, _ = prepare_case(_image(array[3:4], (7, 1, 1)), _label(label[3:4], (7, 1, 1)), plan(), settings, "la")
    assert np.allclose(prepared.array[:, 2:3], one.array, atol=1e-6)


def test_an_axis_never_vanishes() -> None:
    prepared = prepare_image(_image(np.ones((1, 9, 9)), (0.1, 1, 1)), plan(), configuration((1, 1, 1)))
    assert prepared.array.shape == (1, 1, 9, 9)


def test_an_empty_image_is_not_cropped() -> None:
    prepared = prepare_image(_image(np.zeros((3, 4, 5))), plan(), configuration())
    assert prepared.properties.crop_box == ((0, 3), (0, 4), (0, 5))


def test_unknown_label_values_and_shapes_name_the_case() -> None:
    array, label = _block()
    with pytest.raises(DatasetError, match=r"la_7: label values must be among \(0, 1, 5\), got \(6\.0,\)"):
        prepare_case(_image(array), _label(np.where(label == 5, 6, 0)), plan(), configuration(), "la_7")
    with pytest.raises(DatasetError, match="la_7: label must have the shape"):
        prepare_case(_image(array), _label(label[1:]), plan(), configuration(), "la_7")


def test_a_case_stored_another_way_gives_what_the_plans_way_gives() -> None:
    """Seen from behind: left and right swap sides, and axes change places."""
    array, label = _block()
    the_plan = plan((1, 0, 2)).model_copy(update={"orientation": "SPL"})
    expected, expected_indices = prepare_case(_image(array), _label(label), the_plan, configuration(), "la")
    direction = (0, 0, -1, 0, 1, 0, 1, 0, 0)
    geometry = Geometry(spacing=(1, 1, 1), direction=direction)
    image = Image(array.transpose(2, 1, 0)[None, ::-1].copy(), geometry)
    turned_label = LabelImage(label.transpose(2, 1, 0)[::-1], geometry)
    prepared, indices = prepare_case(image, turned_label, the_plan, configuration(), "la")
    assert np.array_equal(prepared.array, expected.array)
    assert np.array_equal(indices, expected_indices)
    assert prepared.properties.transpose == (1, 2, 0)
    assert prepared.properties.flipped == (2,)


@pytest.mark.parametrize(("free_bytes", "fits"), [(2 * 4 * 2 * 8 * 4 * 6, True), (2 * 4 * 2 * 8 * 4 * 6 - 1, False)])
def test_a_scan_must_fit_into_memory_after_resampling(
    monkeypatch: pytest.MonkeyPatch, free_bytes: int, fits: bool
) -> None:
    """Two channels of 8 x 4 x 6 voxels, twice in memory; the border of zeros is cropped before."""
    monkeypatch.setattr("autoseg.preprocess.case.available_memory_bytes", lambda: free_bytes)
    array = np.zeros((2, 9, 9, 9), np.float32)
    array[:, 1:5, 2:4, 3:6] = 1
    scan, settings = _image(array, (2, 2, 2)), configuration((1.0, 1.0, 1.0), channels=(channel(), channel()))
    if fits:
        assert prepare_image(scan, plan(), settings, "la").array.shape == (2, 8, 4, 6)
        return
    words = "la: must fit into memory at the plan's spacing, 1 x 1 x 1 mm, got 8 x 4 x 6 voxels from a spacing of 2 x 2"
    with pytest.raises(DatasetError, match=words):
        prepare_image(scan, plan(), settings, "la")
    untouched = configuration((2.0, 2.0, 2.0), channels=(channel(), channel()))
    assert prepare_image(scan, plan(), untouched, "la").array.shape == (2, 4, 2, 3)
