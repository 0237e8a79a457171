"""What an evaluation says: scores per case and class, and their spread over the cases."""

from collections.abc import Iterable

import numpy as np

from autoseg.core.artefact import Artefact, Record
from autoseg.core.labels import Labels


class ClassScores(Record):
    """Agreement of a prediction with its reference in one class of one case; None where a score is not defined.

    Attributes:
        dice: 0 to 1; None if neither map has the class, 0 if one of them has.
        iou: Intersection over union, 0 to 1; defined as `dice` is.
        true_positives, false_positives, false_negatives: Counts of voxels.
        prediction_ml, reference_ml: Volumes, in ml.
        hd95_mm: 95th percentile of the Hausdorff distance, in mm; None if either map lacks the class.
        average_surface_distance_mm: Mean distance of the surfaces, in mm; None if either map lacks the class.
        surface_dice: Share of the surfaces that agree within the tolerance, 0 to 1; defined as `dice` is.
    """

    dice: float | None
    iou: float | None
    true_positives: int
    false_positives: int
    false_negatives: int
    prediction_ml: float
    reference_ml: float
    hd95_mm: float | None
    average_surface_distance_mm: float | None
    surface_dice: float | None


class CaseScores(Record):
    """Scores of one case.

    Attributes:
        name: Of the case.
        classes: Scores by the name of the foreground class.
    """

    name: str
    classes: dict[str, ClassScores]

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
    """

    mean: float | None
    standard_deviation: float | None
    median: float | None
    num_cases: int


class ClassSummary(Record):
    """Spread of each score of a class over the cases; the names are those of `ClassScores`."""

    dice: Spread
    iou: Spread
    hd95_mm: Spread
    average_surface_distance_mm: Spread
    surface_dice: Spread


class Evaluation(Artefact):
    """Scores of a set of predictions.

    Attributes:
        labels: Classes that were scored.
        tolerance_mm: Of the surface Dice, in mm.
        cases: Scores of each case, in the order in which they were given.
        per_class: Spread over the cases, by the name of the foreground class.
        foreground_dice: Spread over the cases of each case's mean Dice over its classes.
        mean_foreground_dice: Mean over the classes of each class's mean over the cases; what nnU-Net publishes. It
            differs from the mean of `foreground_dice` if a case lacks a class. None if no class is defined anywhere.
    """

    labels: Labels
    tolerance_mm: float
    cases: tuple[CaseScores, ...]
    per_class: dict[str, ClassSummary]
    foreground_dice: Spread
    mean_foreground_dice: float | None


def summarise(cases: Iterable[CaseScores], labels: Labels, tolerance_mm: float) -> Evaluation:
    """Return the evaluation of a set of scored cases, for example of the held-out cases of all folds.

    Args:
        cases: Scores of each case, for all foreground classes of `labels`.
        labels: Classes that were scored.
        tolerance_mm: Of the surface Dice, in mm.
    """
    cases = tuple(cases)
    per_class = {
        label.name: ClassSummary(
            **{
                score: spread_of(getattr(case.classes[label.name], score) for case in cases)
                for score in ClassSummary.model_fields
            }
        )
        for label in labels.foreground
    }
    return Evaluation(
        labels=labels,
        tolerance_mm=tolerance_mm,
        cases=cases,
        per_class=per_class,
        foreground_dice=spread_of(case.dice for case in cases),
        mean_foreground_dice=spread_of(summary.dice.mean for summary in per_class.values()).mean,
    )


def spread_of(scores: Iterable[float | None]) -> Spread:
    """Return mean, standard deviation and median of the scores that are not None."""
    defined = [score for score in scores if score is not None]
    return Spread(
        mean=float(np.mean(defined)) if defined else None,
        standard_deviation=float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        median=float(np.median(defined)) if defined else None,
        num_cases=len(defined),
    )
