import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg.evaluate.surface import surface_distances

SPACING = (5.0, 1.0, 2.0)


def mask_of(shape: tuple[int, int, int], *voxels: tuple[int, int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


@pytest.mark.parametrize(
    ("other", "distance_mm"),
    [((2, 4, 4), 5.0), ((1, 7, 4), 3.0), ((1, 4, 6), 4.0), ((1, 7, 6), 5.0), ((2, 4, 10), 13.0)],
)
def test_distance_of_two_voxels_uses_each_axis_spacing(other: tuple[int, int, int], distance_mm: float) -> None:
    shape = (4, 12, 12)

    distances = surface_distances(mask_of(shape, (1, 4, 4)), mask_of(shape, other), SPACING)

    assert distances.hd95_mm == pytest.approx(distance_mm)
    assert distances.average_mm == pytest.approx(distance_mm)
    assert distances.surface_dice(distance_mm - 0.01) == 0.0
    assert distances.surface_dice(distance_mm) == 1.0


def test_only_border_voxels_count() -> None:
    cube = np.zeros((7, 7, 7), dtype=bool)
    cube[1:6, 1:6, 1:6] = True

    distances = surface_distances(cube, cube, (1.0, 1.0, 1.0))

    assert distances.from_prediction_mm.size == 5**3 - 3**3
    assert distances.hd95_mm == 0.0
    assert distances.surface_dice(0.0) == 1.0


def test_edge_of_the_array_is_a_border() -> None:
    full = np.ones((3, 3, 3), dtype=bool)

    assert surface_distances(full, full, SPACING).from_prediction_mm.size == 26


def test_directed_distances_differ() -> None:
    shape = (1, 1, 21)
    reference = mask_of(shape, (0, 0, 0))
    prediction = mask_of(shape, (0, 0, 0), (0, 0, 20))

    distances = surface_distances(prediction, reference, (1.0, 1.0, 0.5))

    assert sorted(distances.from_prediction_mm) == [0.0, 10.0]
    assert sorted(distances.from_reference_mm) == [0.0]
    assert distances.average_mm == pytest.approx(10 / 3)
    assert distances.hd95_mm == pytest.approx(9.5)
    assert distances.surface_dice(1.0) == pytest.approx(2 / 3)


def test_hd95_ignores_a_far_outlier_among_many() -> None:
    shape = (1, 1, 300)
    reference = np.zeros(shape, dtype=bool)
    reference[0, 0, 0:200:2] = True
    prediction = reference.copy()
    prediction[0, 0, 299] = True

    assert surface_distances(prediction, reference, (1.0, 1.0, 1.0)).hd95_mm == 0.0


def test_nested_cubes_are_a_voxel_apart() -> None:
    outer = np.zeros((9, 9, 9), dtype=bool)
    outer[1:8, 1:8, 1:8] = True
    inner = np.zeros_like(outer)
    inner[2:7, 2:7, 2:7] = True

    distances = surface_distances(inner, outer, (3.0, 3.0, 3.0))

    np.testing.assert_allclose(distances.from_prediction_mm, 3.0)
    assert distances.from_reference_mm.max() == pytest.approx(3.0 * 3**0.5)
    assert distances.surface_dice(2.9) == 0.0


def test_single_slice_has_a_contour() -> None:
    square = np.zeros((1, 6, 6), dtype=bool)
    square[0, 1:5, 1:5] = True

    assert surface_distances(square, square, (5.0, 1.0, 1.0)).from_prediction_mm.size == 12


def test_two_empty_masks_have_no_score() -> None:
    empty = np.zeros((3, 4, 5), dtype=bool)

    distances = surface_distances(empty, empty, SPACING)

    assert (distances.hd95_mm, distances.average_mm, distances.surface_dice(1.0)) == (None, None, None)


@pytest.mark.parametrize("empty_one", ["prediction", "reference"])
def test_one_empty_mask_scores_zero_and_has_no_distance(empty_one: str) -> None:
    empty, full = np.zeros((3, 4, 5), dtype=bool), np.ones((3, 4, 5), dtype=bool)
    masks = (empty, full) if empty_one == "prediction" else (full, empty)

    distances = surface_distances(*masks, SPACING)

    assert (distances.hd95_mm, distances.average_mm, distances.surface_dice(100.0)) == (None, None, 0.0)


def test_agrees_with_all_pairs_of_border_voxels() -> None:
    rng = np.random.default_rng(1)
    prediction, reference = rng.random((2, 5, 9, 8)) < 0.05
    spacing = np.array([3.0, 0.7, 1.1])
    apart = np.linalg.norm((np.argwhere(prediction)[:, None] - np.argwhere(reference)[None]) * spacing, axis=-1)

    distances = surface_distances(prediction, reference, (3.0, 0.7, 1.1))

    np.testing.assert_allclose(distances.from_prediction_mm, apart.min(axis=1), atol=1e-9)
    np.testing.assert_allclose(distances.from_reference_mm, apart.min(axis=0), atol=1e-9)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"must have the reference's shape \(2, 2, 2\)"):
        surface_distances(np.ones((2, 2, 3), dtype=bool), np.ones((2, 2, 2), dtype=bool), SPACING)


def test_two_steps_are_within_a_tolerance_of_two_steps_wherever_they_lie() -> None:
    for row in range(1, 30):
        masks = mask_of((1, 1, 40), (0, 0, row)), mask_of((1, 1, 40), (0, 0, row + 2))
        assert surface_distances(*masks, (5.0, 1.0, 0.7)).surface_dice(1.4) == 1.0
