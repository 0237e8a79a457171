"""Confidence intervals of means over cases: percentiles of the means of cases drawn again and again, with replacement.

Cases of one group, such as the scans of a patient, are drawn together: their scores are not independent of each other.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.core.artefact import Record


class Interval(Record):
    """Where a mean lies, with the confidence of the rules."""

    low: float
    high: float


def draw_cases(groups: Sequence[str], num_resamples: int, seed: int) -> NDArray[np.float64]:
    """Return how often each bootstrap sample holds each case, float64 (samples, cases).

    A sample has as many groups as there are, drawn with replacement, and all cases of each.

    Args:
        groups: Group of each case.
        num_resamples: Samples to draw.
        seed: Of the draw; the same groups and seed give the same samples.
    """
    names, group_of_case = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=num_resamples)
    return counts[:, group_of_case].astype(np.float64)


def resampled_means(scores: NDArray[np.float64], draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each score over the cases of each sample, float64 (samples, scores); NaN where undefined.

    Args:
        scores: (cases, scores), NaN where a score is not defined.
        draws: Of `draw_cases`, (samples, cases).
    """
    is_defined = ~np.isnan(scores)
    sums, counts = draws @ np.where(is_defined, scores, 0.0), draws @ is_defined.astype(np.float64)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def mean_of_classes(means: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted mean over classes of the means of samples, leaving out the undefined; NaN where all are.

    Args:
        means: (samples, classes).
        weights: One per class, 0 or more.
    """
    is_defined = ~np.isnan(means)
    totals = is_defined @ weights
    sums = np.where(is_defined, means, 0.0) @ weights
    return np.divide(sums, totals, out=np.full_like(sums, np.nan), where=totals > 0)


def has_score(scores: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for each case whether a class that counts is defined in it, bool (cases).

    Args:
        scores: (cases, classes), NaN where a score is not defined.
        weights: One per class, 0 or more.
    """
    totals: NDArray[np.float64] = ~np.isnan(scores) @ weights
    return totals > 0


def num_groups_in(groups: Sequence[str], is_defined: Sequence[bool] | NDArray[np.bool_]) -> int:
    """Return in how many groups of cases a score is defined.

    Args:
        groups: Group of each case.
        is_defined: Whether the score is defined, for each case.
    """
    return len({group for group, is_in in zip(groups, is_defined, strict=True) if is_in})


def interval_of(samples: NDArray[np.float64], confidence: float, num_groups: int) -> Interval | None:
    """Return the middle `confidence` of the samples of a mean.

    None where nothing can be said: fewer than two groups, whose samples are all alike, or no sample that is defined.

    Args:
        samples: One mean per bootstrap sample, NaN where it is not defined.
        confidence: Share of the samples that the interval holds, 0 to 1.
        num_groups: Groups of cases in which the score is defined.

    Source:
        Efron and Tibshirani 1993, chapter 13, the percentile interval.
    """
    defined = samples[~np.isnan(samples)]
    if num_groups < 2 or not defined.size:
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(low=float(low), high=float(high))
