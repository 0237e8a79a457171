"""Which configuration, or which two together, segments best: the highest mean score over classes of held-out cases."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from autoseg.core.artefact import Artefact, Record
from autoseg.core.errors import SelectionError
from autoseg.core.labels import Labels
from autoseg.evaluate.bootstrap import (
    Interval,
    draw_cases,
    has_score,
    interval_of,
    mean_of_classes,
    num_groups_in,
    resampled_means,
)
from autoseg.evaluate.compare import Difference, weighted_difference
from autoseg.evaluate.scores import CaseScores, Evaluation, groups_of, score_table
from autoseg.plan.rules import EvaluationRules
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan
from autoseg.select.crossfit import Metric
from autoseg.select.postprocess import Postprocessing

Together = tuple[ConfigurationName, ...]
"""A configuration, or several whose probabilities are averaged."""

SCORE_OF_METRIC = {"dice": "dice", "nsd": "surface_dice"}


class Candidate(Record):
    """How well a configuration or an ensemble segments the held-out cases.

    Attributes:
        configurations: Whose probabilities are averaged.
        score: Weighted mean over classes of the mean over cases.
        interval: In which the score lies, by bootstrap over groups of cases; None with fewer than two.
        classes: Mean over cases by class; None where it is not defined.
        behind: Score less that of the winner, with its paired interval.
    """

    configurations: Together
    score: float
    interval: Interval | None
    classes: dict[str, float | None]
    behind: Difference

    @property
    def name(self) -> str:
        """Names of the configurations, joined by a plus."""
        return " + ".join(self.configurations)


class Selection(Artefact):
    """What held-out cases have decided.

    Attributes:
        metric: That decided: Dice, or surface Dice (nsd).
        tolerance_mm: Of the surface Dice, in mm.
        weights: Of each class in the mean.
        folds: Whose networks predict.
        num_cases, num_groups: Held-out cases, and groups of them, such as patients.
        configurations: The winner.
        candidates: All that were tried, the winner first, then by falling score.
        tie_margin: Scores that differ by no more are tied, and the simpler candidate wins.
        postprocessing: What is done to its label maps.
        dropped: What would have been done, had its steps helped one after another as each does by itself.
        gain: Score after postprocessing less that before, each case treated by what was decided without its fold.
    """

    metric: Metric
    tolerance_mm: float
    weights: dict[str, float]
    folds: tuple[int, ...]
    num_cases: int
    num_groups: int
    configurations: Together
    candidates: tuple[Candidate, ...]
    tie_margin: float
    postprocessing: Postprocessing
    gain: Difference
    dropped: Postprocessing = Postprocessing()

    @property
    def is_weighted(self) -> bool:
        """Whether classes count differently in the mean."""
        return len(set(self.weights.values())) > 1


def candidates_of(names: Sequence[ConfigurationName]) -> list[Together]:
    """Return every configuration and every pair of them."""
    return [*((name,) for name in names), *combinations(names, 2)]


def class_weights(labels: Labels, asked: Mapping[str, float]) -> NDArray[np.float64]:
    """Return the weight of each class: the one asked for, or else 1.

    Raises:
        SelectionError: If a name is no class, a weight is negative, or all are zero.
    """
    names = [label.name for label in labels.foreground]
    if unknown := sorted(set(asked) - set(names)):
        raise SelectionError(f"--weight: must name a class, {', '.join(names)}, got {', '.join(unknown)}. Correct it.")
    weights = np.array([asked.get(name, 1.0) for name in names], dtype=np.float64)
    if not np.isfinite(weights).all() or weights.min() < 0 or not weights.any():
        got = ", ".join(f"{name}={weight:g}" for name, weight in zip(names, weights, strict=True))
        raise SelectionError(f"--weight: must be 0 or more, and more than 0 for a class, got {got}. Correct them.")
    return weights


def rank(
    evaluations: Mapping[Together, Evaluation],
    metric: Metric,
    weights: NDArray[np.float64],
    rules: EvaluationRules,
    *,
    stages: Mapping[ConfigurationName, int],
    tie_margin: float,
) -> tuple[Candidate, ...]:
    """Return the candidates, the winner first.

    Args:
        evaluations: Of the same cases and classes, by candidate.
        metric: That decides.
        weights: Of each class.
        rules: Confidence and samples of the intervals.
        stages: Networks that follow each other in a configuration: 1, or 2 in a cascade.
        tie_margin: Scores that differ by no more are tied.

    Raises:
        SelectionError: If the score is defined in no case.
    """
    first = next(iter(evaluations.values()))
    names = [case.name for case in first.cases]
    tables = {together: _table(found, names, metric) for together, found in evaluations.items()}
    every_case = np.ones((1, len(names)))
    scores = {
        together: float(mean_of_classes(resampled_means(table, every_case), weights)[0])
        for together, table in tables.items()
    }
    if any(np.isnan(score) for score in scores.values()):
        raise SelectionError(
            f"select: {SCORE_OF_METRIC[metric]} must be defined in a held-out case, got none. Check the labels."
        )
    best = max(scores.values())
    listed = list(stages)

    def simplicity(together: Together) -> tuple[int, int, list[int]]:
        return len(together), sum(stages[name] for name in together), [listed.index(name) for name in together]

    tied = [together for together in scores if scores[together] >= best - tie_margin]
    winner = min(tied, key=simplicity)
    groups = groups_of(first.cases)
    draws = draw_cases(groups, rules.num_resamples, rules.seed)
    others = sorted((together for together in scores if together != winner), key=lambda one: -scores[one])

    def candidate(together: Together) -> Candidate:
        table = tables[together]
        samples = mean_of_classes(resampled_means(table, draws), weights)
        means = resampled_means(table, every_case)[0]
        return Candidate(
            configurations=together,
            score=scores[together],
            interval=interval_of(samples, rules.confidence, num_groups_in(groups, has_score(table, weights))),
            classes={
                label.name: None if np.isnan(mean) else float(mean)
                for label, mean in zip(first.labels.foreground, means, strict=True)
            },
            behind=weighted_difference((table, tables[winner]), weights, draws, rules.confidence, groups),
        )

    return tuple(candidate(together) for together in (winner, *others))


def stages_of(
    configurations: Mapping[ConfigurationName, ConfigurationPlan], names: Sequence[ConfigurationName]
) -> dict[ConfigurationName, int]:
    """Return how many networks follow each other in each configuration."""
    found = {}
    for name in names:
        count, stage = 1, configurations[name].previous_stage
        while stage is not None:
            count, stage = count + 1, configurations[stage].previous_stage
        found[name] = count
    return found


def _table(evaluation: Evaluation, names: Sequence[str], metric: Metric) -> NDArray[np.float64]:
    """Return the scores of the named cases, in their order."""
    by_name: dict[str, CaseScores] = {case.name: case for case in evaluation.cases}
    return score_table([by_name[name] for name in names], evaluation.labels, SCORE_OF_METRIC[metric])
