import numpy as np
import pytest

from autoseg.evaluate.metrics import Overlap, confusion_matrix, overlaps, volume_ml

REFERENCE = np.array([[[0, 1, 1, 1], [0, 1, 2, 2]]])
PREDICTION = np.array([[[0, 0, 1, 1], [1, 1, 2, 0]]])


def test_confusion_has_reference_rows_and_prediction_columns() -> None:
    matrix = confusion_matrix(PREDICTION, REFERENCE, 3)

    np.testing.assert_array_equal(matrix, [[1, 1, 0], [1, 3, 0], [1, 0, 1]])


def test_overlaps_counted_by_hand() -> None:
    background, first, second = overlaps(PREDICTION, REFERENCE, 3)

    assert background == Overlap(true_positives=1, false_positives=2, false_negatives=1)
    assert first == Overlap(true_positives=3, false_positives=1, false_negatives=1)
    assert second == Overlap(true_positives=1, false_positives=0, false_negatives=1)
    assert (first.prediction_voxels, first.reference_voxels) == (4, 4)
    assert (second.prediction_voxels, second.reference_voxels) == (1, 2)


@pytest.mark.parametrize(
    ("overlap", "dice", "iou"),
    [
        (Overlap(3, 1, 1), 0.75, 0.6),
        (Overlap(1, 0, 1), 2 / 3, 0.5),
        (Overlap(5, 0, 0), 1.0, 1.0),
        (Overlap(0, 4, 4), 0.0, 0.0),
        (Overlap(0, 4, 0), 0.0, 0.0),
        (Overlap(0, 0, 4), 0.0, 0.0),
        (Overlap(0, 0, 0), None, None),
    ],
)
def test_dice_and_iou(overlap: Overlap, dice: float | None, iou: float | None) -> None:
    assert overlap.dice == (None if dice is None else pytest.approx(dice))
    assert overlap.iou == (None if iou is None else pytest.approx(iou))


def test_half_shifted_box_has_dice_one_half() -> None:
    reference = np.zeros((6, 10, 10), dtype=np.uint8)
    prediction = np.zeros_like(reference)
    reference[1:5, 2:6, 2:6] = 1
    prediction[1:5, 4:8, 2:6] = 1

    assert overlaps(prediction, reference, 2)[1].dice == 0.5


def test_counts_do_not_overflow_small_types() -> None:
    many = np.full((70, 70, 70), 200, dtype=np.uint8)

    assert overlaps(many, many, 201)[200].true_positives == 343_000


def test_class_of_neither_map_has_no_score() -> None:
    maps = np.zeros((2, 2, 2), dtype=np.int16)

    assert overlaps(maps, maps, 3)[2].dice is None


def test_swapping_the_maps_swaps_the_errors() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, (2, 5, 6, 7))

    for one, other in zip(overlaps(first, second, 4), overlaps(second, first, 4), strict=True):
        assert one.dice == other.dice
        assert (one.false_positives, one.false_negatives) == (other.false_negatives, other.false_positives)


def test_volume_uses_every_axis_of_the_spacing() -> None:
    assert volume_ml(1000, (5.0, 0.5, 0.8)) == pytest.approx(2.0)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"must have the reference's shape \(2,\), got \(3,\)"):
        overlaps(np.zeros(3, dtype=int), np.zeros(2, dtype=int), 2)


@pytest.mark.parametrize("wrong", [-1, 2])
def test_indices_must_be_classes(wrong: int) -> None:
    with pytest.raises(ValueError, match="prediction must hold class indices 0 to 1"):
        overlaps(np.array([0, wrong]), np.array([0, 1]), 2)
