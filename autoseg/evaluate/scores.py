"""What an evaluation says: scores per case and class, their spread over the cases, and how certain their means are."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from autoseg.core.artefact import Artefact, Record
from autoseg.core.labels import Labels
from autoseg.evaluate.bootstrap import (
    Interval,
    draw_cases,
    interval_of,
    mean_of_classes,
    num_groups_in,
    resampled_means,
)
from autoseg.plan.rules import EvaluationRules


class ClassScores(Record):
    """Agreement of a prediction with its reference in one class of one case; None where a score is not defined.

    Attributes:
        dice: 0 to 1; None if neither map has the class, 0 if one of them has.
        iou: Intersection over union, 0 to 1; defined as `dice` is.
        true_positives, false_positives, false_negatives: Counts of voxels.
        prediction_ml, reference_ml: Volumes, in ml.
        volume_error_ml: Prediction less reference, in ml; 0 if neither map has the class.
        relative_volume_error: The same as a share of the reference; None if that lacks the class.
        hd95_mm: The larger of the two directed 95th percentiles of surface distances, in mm; None if either map lacks
            the class.
        average_surface_distance_mm: Mean distance of the surfaces, in mm; None if either map lacks the class.
        surface_dice: Share of the border voxels of both maps within the tolerance, 0 to 1; defined as `dice` is.
        predicted_lesions, reference_lesions: Connected components of either map.
        matched_lesions: Pairs of them that overlap enough.
        lesion_precision, lesion_recall: Matched share of the predicted and of the reference lesions; None without any.
        lesion_f1: Harmonic mean of both; None if neither map has a lesion.
    """

    dice: float | None
    iou: float | None
    true_positives: int
    false_positives: int
    false_negatives: int
    prediction_ml: float
    reference_ml: float
    volume_error_ml: float
    relative_volume_error: float | None
    hd95_mm: float | None
    average_surface_distance_mm: float | None
    surface_dice: float | None
    predicted_lesions: int
    reference_lesions: int
    matched_lesions: int
    lesion_precision: float | None
    lesion_recall: float | None
    lesion_f1: float | None


class CaseScores(Record):
    """Scores of one case.

    Attributes:
        name: Of the case.
        classes: Scores by the name of the foreground class.
        group: Cases of one group, such as the scans of a patient, are not independent; None for a group of its own.
    """

    name: str
    classes: dict[str, ClassScores]
    group: str | None = None

    @property
    def dice(self) -> float | None:
        """Mean over the foreground classes in which Dice is defined; None if there are none."""
        return spread_of(scores.dice for scores in self.classes.values()).mean


class Spread(Record):
    """Distribution of a score over the cases in which it is defined.

    Attributes:
        mean, median: None if the score is defined nowhere.
        standard_deviation: Of the sample (n - 1 in the denominator); None below two cases.
        num_cases: Cases in which the score is defined.
        interval: In which the mean lies, by bootstrap; None if the score is defined in fewer than two groups of cases.
    """

    mean: float | None
    standard_deviation: float | None
    median: float | None
    num_cases: int
    interval: Interval | None = None


class ClassSummary(Record):
    """Spread of each score of a class over the cases; the names are those of `ClassScores`."""

    dice: Spread
    iou: Spread
    surface_dice: Spread
    hd95_mm: Spread
    average_surface_distance_mm: Spread
    volume_error_ml: Spread
    relative_volume_error: Spread
    lesion_precision: Spread
    lesion_recall: Spread
    lesion_f1: Spread


SCORES = tuple(ClassSummary.model_fields)
"""Names of the scores that are averaged over cases."""


class Evaluation(Artefact):
    """Scores of a set of predictions.

    Attributes:
        labels: Classes that were scored.
        tolerance_mm: Of the surface Dice, in mm.
        min_lesion_iou: Overlap of matching lesions, as a share of their union.
        cases: Scores of each case, in the order in which they were given.
        per_class: Spread over the cases, by the name of the foreground class.
        foreground_dice: Spread over the cases of each case's mean Dice over its classes.
        mean_foreground_dice: Mean over the classes of each class's mean over the cases; what nnU-Net publishes. It
            differs from the mean of `foreground_dice` if a case lacks a class. None if no class is defined anywhere.
        mean_foreground_interval: In which it lies; see `Spread`.
    """

    current_version: ClassVar[int] = 2

    schema_version: int = 2
    labels: Labels
    tolerance_mm: float
    min_lesion_iou: float
    cases: tuple[CaseScores, ...]
    per_class: dict[str, ClassSummary]
    foreground_dice: Spread
    mean_foreground_dice: float | None
    mean_foreground_interval: Interval | None = None


def summarise(
    cases: Iterable[CaseScores],
    labels: Labels,
    rules: EvaluationRules,
    groups: Mapping[str, str] | None = None,
) -> Evaluation:
    """Return the evaluation of a set of scored cases, for example of the held-out cases of all folds.

    Args:
        cases: Scores of each case, for all foreground classes of `labels`.
        labels: Classes that were scored.
        rules: With which they were scored; confidence and samples of the intervals.
        groups: Group of each case, by name; None where each case is a group of its own.
    """
    cases = tuple(case if groups is None else case.model_copy(update={"group": groups[case.name]}) for case in cases)
    case_groups = groups_of(cases)
    draws = draw_cases(case_groups, rules.num_resamples, rules.seed)

    def spread(scores: Sequence[float | None]) -> Spread:
        column = np.array([[np.nan if score is None else score] for score in scores], dtype=np.float64)
        num_groups = num_groups_in(case_groups, [score is not None for score in scores])
        found = interval_of(resampled_means(column, draws)[:, 0], rules.confidence, num_groups)
        return spread_of(scores).model_copy(update={"interval": found})

    per_class = {
        label.name: ClassSummary(
            **{score: spread([getattr(case.classes[label.name], score) for case in cases]) for score in SCORES}
        )
        for label in labels.foreground
    }
    table = score_table(cases, labels, "dice")
    means = mean_of_classes(resampled_means(table, draws), np.ones(table.shape[1]))
    return Evaluation(
        labels=labels,
        tolerance_mm=rules.tolerance_mm,
        min_lesion_iou=rules.min_lesion_iou,
        cases=cases,
        per_class=per_class,
        foreground_dice=spread([case.dice for case in cases]),
        mean_foreground_dice=spread_of(summary.dice.mean for summary in per_class.values()).mean,
        mean_foreground_interval=interval_of(
            means, rules.confidence, num_groups_in(case_groups, [case.dice is not None for case in cases])
        ),
    )


def score_table(cases: Sequence[CaseScores], labels: Labels, score: str) -> NDArray[np.float64]:
    """Return a score of every case in every foreground class, (cases, classes), NaN where it is not defined."""
    rows = [[getattr(case.classes[label.name], score) for label in labels.foreground] for case in cases]
    return np.array(rows, dtype=np.float64).reshape(len(cases), len(labels.foreground))


def groups_of(cases: Sequence[CaseScores]) -> tuple[str, ...]:
    """Return the group of each case, its own name where it has none."""
    return tuple(case.name if case.group is None else case.group for case in cases)


def spread_of(scores: Iterable[float | None]) -> Spread:
    """Return mean, standard deviation and median of the scores that are not None."""
    defined = [score for score in scores if score is not None]
    return Spread(
        mean=float(np.mean(defined)) if defined else None,
        standard_deviation=float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        median=float(np.median(defined)) if defined else None,
        num_cases=len(defined),
    )
