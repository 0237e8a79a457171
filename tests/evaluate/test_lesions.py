import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.evaluate.lesions import Detection, detect_lesions


def _line(*spans: tuple[int, int], size: int = 40) -> NDArray[np.bool_]:
    mask = np.zeros((1, 1, size), dtype=bool)
    for first, last in spans:
        mask[..., first:last] = True
    return mask


@pytest.mark.parametrize(
    ("predicted", "labelled", "expected"),
    [
        ([(0, 4), (10, 14)], [(0, 4), (20, 24)], Detection(2, 2, 1)),
        ([(0, 4)], [(3, 7)], Detection(1, 1, 1)),  # 1 of 7
        ([(0, 6)], [(5, 10)], Detection(1, 1, 1)),  # 1 of 10: the bound counts
        ([(0, 6)], [(5, 11)], Detection(1, 1, 0)),  # 1 of 11
        ([(0, 10)], [(0, 4), (6, 10)], Detection(1, 2, 1)),  # one prediction finds one of two
        ([(0, 4), (6, 10)], [(0, 10)], Detection(2, 1, 1)),  # two halves find one
        ([], [], Detection(0, 0, 0)),
    ],
)
def test_matches_by_hand(
    predicted: list[tuple[int, int]], labelled: list[tuple[int, int]], expected: Detection
) -> None:
    assert detect_lesions(_line(*predicted), _line(*labelled), 0.1) == expected


@pytest.mark.parametrize(
    ("detection", "precision", "recall", "f1"),
    [
        (Detection(4, 2, 1), 0.25, 0.5, 1 / 3),
        (Detection(2, 2, 2), 1.0, 1.0, 1.0),
        (Detection(0, 0, 0), None, None, None),
        (Detection(3, 0, 0), 0.0, None, 0.0),
        (Detection(0, 3, 0), None, 0.0, 0.0),
    ],
)
def test_precision_recall_and_f1(
    detection: Detection, precision: float | None, recall: float | None, f1: float | None
) -> None:
    assert (detection.precision, detection.recall) == (precision, recall)
    assert detection.f1 == (None if f1 is None else pytest.approx(f1))


def test_pairs_are_made_in_the_order_of_overlap() -> None:
    """The second prediction overlaps the first lesion as well, but less than the first one does."""
    assert detect_lesions(_line((0, 9), (10, 18)), _line((0, 11), (12, 20)), 0.05).matched == 2


def test_corners_connect() -> None:
    mask = np.eye(4, dtype=bool)[None]

    assert detect_lesions(mask, mask, 0.1) == Detection(1, 1, 1)


def test_agrees_with_all_pairs_of_components() -> None:
    """Above one half each component has one partner at most, so that matching is counting."""
    rng = np.random.default_rng(5)
    reference = ndimage.binary_opening(ndimage.gaussian_filter(rng.normal(size=(12, 40, 40)), 1.5) > 0.05)
    prediction = ndimage.binary_dilation(reference) & (rng.random(reference.shape) < 0.97)
    first, num_first = ndimage.label(prediction, np.ones((3, 3, 3)))
    second, num_second = ndimage.label(reference, np.ones((3, 3, 3)))
    overlaps = [
        ((first == one) & (second == other)).sum() / ((first == one) | (second == other)).sum()
        for one in range(1, num_first + 1)
        for other in range(1, num_second + 1)
    ]
    expected = Detection(num_first, num_second, sum(overlap >= 0.5 for overlap in overlaps))

    assert num_second > 5
    assert detect_lesions(prediction, reference, 0.5) == expected


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="must have the reference's shape"):
        detect_lesions(_line(size=3), _line(size=4), 0.1)
