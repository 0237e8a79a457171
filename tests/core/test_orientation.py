from itertools import permutations, product

import numpy as np
import pytest

from autoseg.core.geometry import Geometry
from autoseg.core.orientation import Turn, orientation_of, turn_between

ALL = ["".join(sides) for order in permutations(("SI", "PA", "LR")) for sides in product(*order)]


def _geometry(direction: np.ndarray, dimensions: int = 3) -> Geometry:
    return Geometry(spacing=(1, 1, 1), direction=tuple(direction.ravel().tolist()), dimensions=dimensions)


def test_there_are_48_orientations() -> None:
    assert len(set(ALL)) == 48


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        (np.eye(3), "SPL"),
        (np.diag([-1, -1, 1]), "SAR"),
        (np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]]), "RIP"),
        (np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1]]), "IPL"),
    ],
)
def test_axes_are_named_after_the_side_they_run_to(direction: np.ndarray, expected: str) -> None:
    assert orientation_of(_geometry(direction)) == expected


def test_each_side_is_given_once() -> None:
    """Two axes are closest to the same world axis; the better of the two assignments counts."""
    rotation = np.linalg.qr(np.array([[0.7, 0.65, 0.3], [0.5, -0.2, -0.8], [-0.5, 0.7, -0.5]]))[0]
    found = orientation_of(_geometry(rotation))
    assert found is not None
    assert {frozenset(pair) for pair in ("SI", "PA", "LR") if set(pair) & set(found)} == {
        frozenset("SI"),
        frozenset("PA"),
        frozenset("LR"),
    }


def test_a_picture_has_no_orientation() -> None:
    assert orientation_of(_geometry(np.eye(3), dimensions=2)) is None


@pytest.mark.parametrize("known", [(None, "SPL"), ("SPL", None), (None, None), ("SPL", "SPL")])
def test_nothing_turns_where_orientations_are_equal_or_unknown(known: tuple[str | None, str | None]) -> None:
    assert turn_between(*known) == Turn()


def _compass(orientation: str) -> np.ndarray:
    """Return an array in which every voxel holds its position in the patient: x + 10 y + 100 z."""
    total = np.zeros((1, 1, 1))
    for axis, side in enumerate(orientation):
        size, step = next(
            found for pair, found in {"SI": (4, 100), "PA": (3, 10), "LR": (2, 1)}.items() if side in pair
        )
        index = np.arange(size) if side in "SPL" else np.arange(size)[::-1]
        total = total + np.expand_dims(index * step, [other for other in range(3) if other != axis])
    return total


@pytest.mark.parametrize("wanted", ["SPL", "RIA", "PLS"])
@pytest.mark.parametrize("own", ALL)
def test_a_turned_array_shows_the_same_patient(own: str, wanted: str) -> None:
    turn = turn_between(own, wanted)
    array = _compass(own)
    assert np.array_equal(turn.apply(array), _compass(wanted))
    assert np.array_equal(turn.apply(array[None])[0], _compass(wanted))
    assert np.array_equal(turn.undo(turn.apply(array)), array)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_turn_and_a_change_of_order_are_one_turn(order: tuple[int, int, int]) -> None:
    turn = turn_between("RIA", "SPL")
    array = _compass("RIA")
    both = turn.transposed(order)
    assert np.array_equal(both.apply(array), turn.apply(array).transpose(order))
    assert np.array_equal(both.undo(both.apply(array)), array)
