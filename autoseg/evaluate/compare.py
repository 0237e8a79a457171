"""Two sets of predictions of the same cases: how far their scores differ, and how certain that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.core.artefact import Artefact, Record
from autoseg.core.errors import EvaluationError
from autoseg.core.labels import Labels
from autoseg.core.progress import Progress
from autoseg.evaluate.bootstrap import (
    Interval,
    draw_cases,
    has_score,
    interval_of,
    mean_of_classes,
    num_groups_in,
    resampled_means,
)
from autoseg.evaluate.pairs import pair_files
from autoseg.evaluate.run import Scoring, evaluate_pairs, labels_found
from autoseg.evaluate.scores import SCORES, Evaluation, groups_of, score_table
from autoseg.plan.rules import EvaluationRules


class Difference(Record):
    """How far two means of a score differ.

    Attributes:
        ours, theirs: Means over the cases in which each is defined; None if it is nowhere.
        difference: Ours less theirs; None if either is None.
        interval: In which the difference lies, by drawing cases for both at once; None with fewer than two groups. One
            that does not hold 0 says that the difference is more than the choice of cases.
    """

    ours: float | None
    theirs: float | None
    difference: float | None
    interval: Interval | None


class Comparison(Artefact):
    """How the scores of two sets of predictions of the same cases differ.

    Attributes:
        num_cases: That both predict.
        mean_foreground_dice: Of the mean over classes.
        per_class: Of each score, by the name of the class and that of the score.
    """

    num_cases: int
    mean_foreground_dice: Difference
    per_class: dict[str, dict[str, Difference]]


@dataclass(frozen=True)
class Compared:
    """What the comparison of files comes to: both evaluations and their difference."""

    ours: Evaluation
    theirs: Evaluation
    comparison: Comparison


def compare_files(
    predictions: tuple[Path, Path],
    references: Path,
    labels: Labels | None,
    progress: Progress | None = None,
    num_workers: int = 0,
    scoring: Scoring | None = None,
) -> Compared:
    """Score two sets of predictions against the same references and compare them.

    Args:
        predictions: Ours and theirs, each a file or folder.
        references: File if these are files, folder otherwise.
        labels: Classes to score; None scores every value that occurs in a file, 0 being the background.
        progress: Shows one step per case.
        num_workers: Processes that score cases side by side; 0 scores them in this one.
        scoring: Constants of the scores, groups of cases; None for the constants in `rules/` and no groups.

    Raises:
        EvaluationError: If files lack a partner or cannot be read, grids differ or labels are undeclared; names all.
    """
    scoring = scoring or Scoring()
    first, second = (pair_files(folder, references) for folder in predictions)
    labels = labels or labels_found([*first, *second])
    ours, theirs = (evaluate_pairs(pairs, labels, progress, num_workers, scoring) for pairs in (first, second))
    return Compared(ours, theirs, compare(ours, theirs, scoring.rules))


def compare(ours: Evaluation, theirs: Evaluation, rules: EvaluationRules) -> Comparison:
    """Return the differences of two evaluations of the same cases, with paired intervals.

    Args:
        ours: Scores of one set of predictions.
        theirs: Of the other: the same cases and classes, with the same tolerance.
        rules: Confidence and samples of the intervals.

    Raises:
        EvaluationError: If cases, classes or tolerances differ.
    """
    _require_comparable(ours, theirs)
    by_name = {case.name: case for case in theirs.cases}
    matching = theirs.model_copy(update={"cases": tuple(by_name[case.name] for case in ours.cases)})
    groups = groups_of(ours.cases)
    draws = draw_cases(groups, rules.num_resamples, rules.seed)

    def difference(score: str, weights: NDArray[np.float64]) -> Difference:
        tables = [score_table(side.cases, ours.labels, score) for side in (ours, matching)]
        return weighted_difference(tables, weights, draws, rules.confidence, groups)

    num_classes = len(ours.labels.foreground)
    return Comparison(
        num_cases=len(ours.cases),
        mean_foreground_dice=difference("dice", np.ones(num_classes)),
        per_class={
            label.name: {score: difference(score, np.eye(num_classes)[index]) for score in SCORES}
            for index, label in enumerate(ours.labels.foreground)
        },
    )


def weighted_difference(
    tables: Sequence[NDArray[np.float64]],
    weights: NDArray[np.float64],
    draws: NDArray[np.float64],
    confidence: float,
    groups: Sequence[str],
) -> Difference:
    """Return the difference of the weighted means over classes of the means over cases.

    Args:
        tables: Ours and theirs, each (cases, classes), NaN where a score is not defined.
        weights: One per class, 0 or more.
        draws: Of `draw_cases`, (samples, cases), the same for both.
        confidence: Of the interval.
        groups: Group of each case; both scores must be defined in two of them to have an interval.
    """
    every_case = np.ones((1, len(tables[0])))
    means = [float(mean_of_classes(resampled_means(table, every_case), weights)[0]) for table in tables]
    samples = [mean_of_classes(resampled_means(table, draws), weights) for table in tables]
    ours, theirs = (None if np.isnan(mean) else mean for mean in means)
    is_defined = ours is not None and theirs is not None
    num_groups = min(num_groups_in(groups, has_score(table, weights)) for table in tables)
    return Difference(
        ours=ours,
        theirs=theirs,
        difference=means[0] - means[1] if is_defined else None,
        interval=interval_of(samples[0] - samples[1], confidence, num_groups) if is_defined else None,
    )


def _require_comparable(ours: Evaluation, theirs: Evaluation) -> None:
    names = [{case.name for case in side.cases} for side in (ours, theirs)]
    if lonely := sorted(names[0] ^ names[1]):
        raise EvaluationError(
            f"compare: both must score the same cases, got {', '.join(lonely)} in one alone. Predict them with both."
        )
    for what, values in (
        ("classes", (ours.labels, theirs.labels)),
        ("tolerance", (ours.tolerance_mm, theirs.tolerance_mm)),
    ):
        if values[0] != values[1]:
            raise EvaluationError(
                f"compare: both must be scored with the same {what}, got others. Evaluate both again."
            )
