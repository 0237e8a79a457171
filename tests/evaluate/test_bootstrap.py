"""Intervals against cases where they are known."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from autoseg.evaluate.bootstrap import Interval, draw_cases, interval_of, mean_of_classes, resampled_means

NUM_RESAMPLES = 4000


def _interval(
    scores: Sequence[float] | NDArray[np.float64],
    seed: int = 0,
    confidence: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    column = np.asarray(scores, dtype=float)[:, None]
    draws = draw_cases([str(number) for number in range(len(column))], num_resamples, seed)
    found = interval_of(resampled_means(column, draws)[:, 0], confidence, len(column))
    assert found is not None
    return found


@pytest.mark.parametrize(("ones", "cases"), [(25, 50), (10, 80), (190, 200)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_of_zeros_and_ones_it_is_the_binomial_distribution(ones: int, cases: int, confidence: float) -> None:
    """The number of ones in a sample is binomial, so that its quantiles are known."""
    found = _interval([1.0] * ones + [0.0] * (cases - ones), confidence=confidence)
    low, high = (stats.binom(cases, ones / cases).ppf((1 + side * confidence) / 2) / cases for side in (-1, 1))

    assert found.low == pytest.approx(low, abs=1 / cases + 1e-9)
    assert found.high == pytest.approx(high, abs=1 / cases + 1e-9)


def test_of_many_cases_it_is_the_normal_one() -> None:
    scores = np.random.default_rng(3).normal(0.8, 0.1, 400)
    found = _interval(scores)
    half = 1.96 * scores.std() / 400**0.5

    assert (found.low, found.high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.1 * half)


def test_it_holds_the_true_mean_as_often_as_it_says() -> None:
    """Of 200 intervals of 95 %, binomially 181 to 197 hold the mean (99 %); percentiles run a little short."""
    rng = np.random.default_rng(7)
    held = sum(
        found.low <= 0.7 <= found.high
        for found in (_interval(rng.normal(0.7, 0.2, 60), 1, num_resamples=500) for _ in range(200))
    )

    assert 179 <= held <= 197


def test_each_sample_has_as_many_groups_as_there_are() -> None:
    draws = draw_cases(["a", "b", "b", "c"], 500, 0)

    assert (draws[:, 1] == draws[:, 2]).all()
    assert (draws[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert draws[:, 0].mean() == pytest.approx(1, abs=0.15)


def test_equal_seeds_give_equal_draws() -> None:
    groups = [str(number) for number in range(9)]

    np.testing.assert_array_equal(draw_cases(groups, 10, 4), draw_cases(groups, 10, 4))
    assert (draw_cases(groups, 10, 4) != draw_cases(groups, 10, 5)).any()


def test_undefined_scores_are_left_out() -> None:
    scores = np.array([[0.2, np.nan], [0.6, np.nan], [np.nan, np.nan]])
    means = resampled_means(scores, np.array([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 3.0]]))

    np.testing.assert_allclose(means, [[0.4, np.nan], [0.2, np.nan], [np.nan, np.nan]])
    np.testing.assert_allclose(mean_of_classes(means, np.ones(2)), [0.4, 0.2, np.nan])


def test_classes_count_by_their_weights() -> None:
    means = np.array([[0.9, 0.3], [np.nan, 0.3]])

    np.testing.assert_allclose(mean_of_classes(means, np.array([1.0, 2.0])), [0.5, 0.3])
    np.testing.assert_allclose(mean_of_classes(means, np.array([1.0, 0.0])), [0.9, np.nan])


def test_nothing_is_said_of_one_group_or_of_nothing() -> None:
    assert interval_of(np.array([0.5, 0.5]), 0.95, 1) is None
    assert interval_of(np.array([np.nan, np.nan]), 0.95, 5) is None
