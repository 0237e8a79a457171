import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.transform import resize

from autoseg.core.geometry import Shape, Spacing
from autoseg.preprocess.resample import (
    axis_orders,
    coarse_axis,
    interpolation_matrix,
    resample_array,
    resample_image,
    resample_label,
)
from tests.preprocess.plans import RESAMPLING

SHAPES = [
    ((20, 30, 25), (31, 22, 40)),
    ((20, 30, 25), (5, 90, 12)),
    ((1, 30, 25), (1, 22, 40)),
    ((3, 2, 1), (7, 5, 3)),
    ((6, 70, 65), (6, 140, 33)),
]


def _volume(shape: Shape, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _blobs(shape: Shape, num_classes: int = 4, seed: int = 0) -> NDArray[np.int16]:
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.normal(size=shape), 2) for _ in range(num_classes)]
    blobs: NDArray[np.int16] = (np.argmax(fields, axis=0) - 1).astype(np.int16)
    return blobs


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ((1, 1, 1), (1, 1, 1), None),
        ((3, 1, 1), (1, 1, 1), None),
        ((3.01, 1, 1), (1, 1, 1), 0),
        ((1, 4, 1), (5, 1, 1), 1),
        ((1, 1, 1), (1, 1, 5), 2),
        ((5, 5, 1), (1, 1, 1), None),
        ((5, 5, 1), (5, 1, 1), None),
    ],
)
def test_coarse_axis(old: Spacing, new: Spacing, expected: int | None) -> None:
    assert coarse_axis(old, new, 3.0) == expected


@pytest.mark.parametrize(("old", "new"), SHAPES)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_resampling_agrees_with_skimage(old: Shape, new: Shape, order: int) -> None:
    volume = _volume(old)
    reference = resize(volume.astype(np.float64), new, order=order, mode="edge", anti_aliasing=False, clip=False)
    assert np.abs(resample_array(volume, new, (order,) * 3) - reference).max() < 1e-5 * np.ptp(volume)


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_images_are_cubic_and_stay_in_their_range(old: Shape, new: Shape) -> None:
    image = np.stack([np.sign(_volume(old)), 1000 * _volume(old, 1)])
    resampled = resample_image(image, new, None, RESAMPLING)
    for channel, result in zip(image, resampled, strict=True):
        reference = resize(channel.astype(np.float64), new, order=3, mode="edge", anti_aliasing=False)
        assert np.abs(result - reference).max() < 1e-4 * np.ptp(channel)
        assert result.min() >= channel.min()
        assert result.max() <= channel.max()


@pytest.mark.parametrize("coarse", [0, 1, 2])
def test_a_coarse_axis_takes_the_nearest_slice(coarse: int) -> None:
    image = _volume((1, 8, 8, 8))
    shape = tuple(16 if axis == coarse else 12 for axis in range(3))
    resampled = np.moveaxis(resample_image(image, shape, coarse, RESAMPLING)[0], coarse, 0)
    slices = np.moveaxis(image[0], coarse, 0)
    for number, plane in enumerate(resampled):
        reference = resize(slices[number // 2].astype(np.float64), (12, 12), order=3, mode="edge", anti_aliasing=False)
        assert np.abs(plane - reference).max() < 1e-4 * np.ptp(image)


def test_orders_per_axis() -> None:
    assert axis_orders(3, None, 0) == (3, 3, 3)
    assert axis_orders(1, 2, 0) == (1, 1, 0)


def test_equal_shapes_are_left_alone() -> None:
    image, label = _volume((2, 4, 5, 6)), _blobs((4, 5, 6))
    assert resample_image(image, (4, 5, 6), 0, RESAMPLING) is image
    assert resample_label(label, (4, 5, 6), 0, RESAMPLING) is label


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_labels_are_set_class_by_class(old: Shape, new: Shape) -> None:
    label = _blobs(old)
    expected, tie = np.zeros(new, label.dtype), np.zeros(new, bool)
    for entry in np.unique(label):
        mask = (label == entry).astype(np.float64)
        share = resize(mask, new, order=1, mode="edge", anti_aliasing=False)
        expected[share >= 0.5] = entry
        tie |= np.abs(share - 0.5) < 1e-5
    resampled = resample_label(label, new, None, RESAMPLING)
    assert resampled.dtype == label.dtype
    assert tie.mean() < 0.2
    assert np.array_equal(resampled[~tie], expected[~tie])


def test_labels_keep_whole_slices_along_a_coarse_axis() -> None:
    label = _blobs((6, 20, 20))
    resampled = resample_label(label, (12, 20, 20), 0, RESAMPLING)
    assert np.array_equal(resampled, np.repeat(label, 2, axis=0))


def test_the_higher_class_wins_a_tie() -> None:
    label = np.array([[[1, 2]]], np.int16)
    assert resample_label(label, (1, 1, 1), None, RESAMPLING).tolist() == [[[2]]]


def test_a_voxel_that_no_class_claims_is_background() -> None:
    label = np.array([[[1, 2, 3]]], np.int16)
    averaged = resample_label(np.repeat(label, 2, axis=2)[:, :, 1:5], (1, 1, 1), None, RESAMPLING)
    assert averaged.tolist() == [[[2]]]
    corners = np.array([[[1, 2], [3, 4]]], np.int16)
    assert resample_label(corners, (1, 1, 1), None, RESAMPLING).tolist() == [[[0]]]


@pytest.mark.parametrize("order", [0, 1, 3])
def test_matrices_keep_constants(order: int) -> None:
    for sizes in [(7, 13), (200, 60), (60, 201), (1, 4)]:
        assert np.allclose(interpolation_matrix(*sizes, order).sum(axis=1), 1, atol=1e-5)


def test_background_of_the_lowest_value_stays_the_lowest_value() -> None:
    """Far from all else every voxel keeps the value to the last bit, so that tiles of background are all alike."""
    image = np.full((1, 80, 30, 30), -2.7182817, np.float32)
    image[0, :20] += np.random.default_rng(0).uniform(0, 1, (20, 30, 30)).astype(np.float32)
    image[0, 3, 4, 5] = -2.7182817
    resampled = resample_image(image, (55, 23, 17), None, RESAMPLING)
    assert resampled.min() == image.min()
    assert (resampled[0, 40:] == image.min()).all()
