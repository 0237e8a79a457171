import numpy as np
import pytest

from autoseg.core.seeding import generator


def test_the_same_place_draws_the_same() -> None:
    assert np.array_equal(generator(7, "train", 0).random(9), generator(7, "train", 0).random(9))


@pytest.mark.parametrize("place", [(8, "train", 0), (7, "train", 1), (7, "test", 0), (7, "train"), (7, "train", "0")])
def test_another_place_draws_other_numbers(place: tuple[int, ...]) -> None:
    assert not np.array_equal(generator(7, "train", 0).random(9), generator(*place).random(9))


def test_numbers_stay_the_same_over_versions() -> None:
    assert generator(1234, "train", 0).integers(1_000_000, size=3).tolist() == [280100, 41775, 185669]
