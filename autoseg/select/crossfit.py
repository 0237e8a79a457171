"""Which postprocessing helps: chosen on some folds, checked on the others, so that the reported gain is honest.

What each treatment would do to the score of each held-out case is measured once, case by case, in a table. All
decisions are means of its rows:

- a treatment is chosen where it raises the mean score of its class most, the simpler one in a tie; only the largest
  component of the whole foreground is kept if that raises the mean over classes and lowers no class;
- it is accepted if what is chosen on all folds but one raises the score on that one, over all folds together;
- the gain that is reported is that of this whole procedure, decided on all folds but one and checked on that one.

Classes are treated and scored one by one, while in the end one step follows another: a hole may be filled where an
earlier step removed something, and regions overlap. So all that was accepted is applied once as it will be, and left
out if the mean does not rise so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autoseg.core.geometry import Spacing
from autoseg.core.labels import Labels
from autoseg.evaluate.bootstrap import mean_of_classes, resampled_means
from autoseg.evaluate.case import class_boxes
from autoseg.evaluate.metrics import region_mask
from autoseg.evaluate.surface import surface_distances
from autoseg.plan.rules import EvaluationRules
from autoseg.select.postprocess import UNTREATED, Components, Postprocessing, Treatment, largest_component

Metric = Literal["dice", "nsd"]

UNTOUCHED = 0
"""Index, among the treatments, of doing nothing; and among the states of the foreground, of all of it."""

ROUNDING = 1e-9
"""Scores that differ by less are equal."""


def outcomes(
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    spacing_mm: Spacing,
    labels: Labels,
    tried: Sequence[Treatment],
    score: Callable[[NDArray[np.bool_], NDArray[np.bool_]], float],
) -> NDArray[np.float64]:
    """Return the score of each class of a case after each treatment, (2, classes, treatments).

    The first half is of all of the foreground, the second of its largest component alone. NaN where a score is not
    defined.

    Args:
        prediction: Class indices, (Z, Y, X).
        reference: Class indices of the same shape, `labels.num_classes` where nothing is annotated.
        spacing_mm: (z, y, x), in mm.
        labels: Classes.
        tried: Treatments, doing nothing first.
        score: Of a predicted and a reference mask.
    """
    foreground = prediction > 0
    largest = largest_component(foreground)
    annotated = reference != labels.num_classes
    boxes = class_boxes((prediction, np.where(annotated, reference, 0)), labels)
    table = np.full((2, len(boxes), len(tried)), np.nan)
    for number, (box, members) in enumerate(zip(boxes, labels.members, strict=True)):
        counted = annotated[box]
        wanted = region_mask(reference[box], members) & counted
        for state, kept in enumerate((foreground, largest)):
            part = np.where(kept[box], prediction[box], 0)
            if state and (part == prediction[box]).all():
                table[state, number] = table[UNTOUCHED, number]
                continue
            found = Components(region_mask(part, members), part == 0, spacing_mm)
            known: dict[int, float] = {}
            for column, treatment in enumerate(tried):
                mask = found.treated(treatment)
                if id(mask) not in known:
                    known[id(mask)] = score(mask & counted, wanted)
                table[state, number, column] = known[id(mask)]
    return table


def mask_score(
    metric: Metric, spacing_mm: Spacing, rules: EvaluationRules
) -> Callable[[NDArray[np.bool_], NDArray[np.bool_]], float]:
    """Return the function that scores a predicted against a reference mask; NaN where the score is not defined.

    Args:
        metric: Dice, or surface Dice (nsd).
        spacing_mm: Of the masks, (z, y, x).
        rules: Tolerance of the surface Dice.
    """

    def dice(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
        voxels = int(prediction.sum()) + int(reference.sum())
        return 2 * int((prediction & reference).sum()) / voxels if voxels else np.nan

    def surface_dice(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
        found = surface_distances(prediction, reference, spacing_mm).surface_dice(rules.tolerance_mm)
        return np.nan if found is None else found

    return dice if metric == "dice" else surface_dice


@dataclass(frozen=True)
class OutcomeTable:
    """What treatments do to the scores of held-out cases.

    Attributes:
        scores: (cases, 2, classes, treatments), as `outcomes` gives them.
        folds: Of each case, (cases,).
        weights: Of each class.
        names: Of each class.
        tried: Treatments, doing nothing first.
        min_gain: Smallest gain that is worth a treatment.
    """

    scores: NDArray[np.float64]
    folds: NDArray[np.int64]
    weights: NDArray[np.float64]
    names: tuple[str, ...]
    tried: tuple[Treatment, ...]
    min_gain: float

    @property
    def before(self) -> NDArray[np.float64]:
        """Score of each case and class without postprocessing, (cases, classes)."""
        untouched: NDArray[np.float64] = self.scores[:, UNTOUCHED, :, UNTOUCHED]
        return untouched


@dataclass(frozen=True)
class Choice:
    """Postprocessing as indices into a table: the state of the foreground, and the treatment of each class."""

    state: int
    columns: tuple[int, ...]


def fit_postprocessing(table: OutcomeTable) -> Postprocessing:
    """Return the postprocessing that helps on all folds of a table."""
    chosen = _fit(table, np.unique(table.folds))
    classes = {name: table.tried[column] for name, column in zip(table.names, chosen.columns, strict=True) if column}
    return Postprocessing(
        keeps_largest_foreground=chosen.state > 0,
        classes={name: treatment for name, treatment in classes.items() if treatment != UNTREATED},
    )


def honest_scores(table: OutcomeTable) -> NDArray[np.float64]:
    """Return the score of each case and class, (cases, classes), after what was fitted without the case's fold."""
    after = table.before.copy()
    folds = np.unique(table.folds)
    for fold in folds:
        held_out = table.folds == fold
        after[held_out] = _scores(table, _fit(table, folds[folds != fold]))[held_out]
    return after


def gain_of(table: OutcomeTable, after: NDArray[np.float64]) -> float:
    """Return by how much scores of the cases of a table, (cases, classes), are above those without postprocessing."""
    return _mean(after, table.weights) - _mean(table.before, table.weights)


def _fit(table: OutcomeTable, folds: NDArray[np.int64]) -> Choice:
    """Return what is chosen and accepted on some folds: first for the whole foreground, then for each class."""
    num_classes = len(table.names)
    nothing = Choice(UNTOUCHED, (UNTOUCHED,) * num_classes)
    if not len(folds):
        return nothing
    chosen = _accepted(table, folds, nothing, lambda some: _with_foreground(table, some, nothing))
    for number in range(num_classes):
        before = chosen

        def treated(some: NDArray[np.int64], number: int = number, before: Choice = before) -> Choice:
            return _with_treatment(table, some, before, number)

        chosen = _accepted(table, folds, before, treated)
    return chosen


def _accepted(
    table: OutcomeTable, folds: NDArray[np.int64], before: Choice, choose: Callable[[NDArray[np.int64]], Choice]
) -> Choice:
    """Return what `choose` comes to on all folds, if its choices on all but one help on that one; else `before`.

    A single fold has none to check on, and its choice stands.
    """
    chosen = choose(folds)
    if chosen == before or len(folds) == 1:
        return chosen
    among = np.isin(table.folds, folds)
    checked = _scores(table, before)
    for fold in folds:
        held_out = table.folds == fold
        checked[held_out] = _scores(table, choose(folds[folds != fold]))[held_out]
    gain = _mean(checked[among], table.weights) - _mean(_scores(table, before)[among], table.weights)
    return chosen if gain > table.min_gain else before


def _with_foreground(table: OutcomeTable, folds: NDArray[np.int64], before: Choice) -> Choice:
    """Return the choice with the largest component of the foreground, if the mean rises and no class falls."""
    among = np.isin(table.folds, folds)
    other = Choice(1, before.columns)
    scores = [_scores(table, choice)[among] for choice in (before, other)]
    classes = [_class_means(found) for found in scores]
    gain = _mean(scores[1], table.weights) - _mean(scores[0], table.weights)
    falls = np.nan_to_num(classes[1] - classes[0]) < -ROUNDING
    return before if falls.any() or not gain > table.min_gain else other


def _with_treatment(table: OutcomeTable, folds: NDArray[np.int64], before: Choice, number: int) -> Choice:
    """Return the choice with the treatment that a class gains most from; the simpler one in a tie."""
    among = np.isin(table.folds, folds)
    means = np.nan_to_num(_class_means(table.scores[among, before.state, number]))
    best = int(np.argmax(means >= means.max() - ROUNDING))
    share = table.weights[number] / table.weights.sum()
    if not (means[best] - means[UNTOUCHED]) * share > table.min_gain:
        return before
    return Choice(before.state, (*before.columns[:number], best, *before.columns[number + 1 :]))


def _scores(table: OutcomeTable, choice: Choice) -> NDArray[np.float64]:
    """Return the score of each case and class after a choice, (cases, classes)."""
    return np.stack(
        [table.scores[:, choice.state, number, column] for number, column in enumerate(choice.columns)], axis=1
    )


def _class_means(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = resampled_means(scores, np.ones((1, len(scores))))[0]
    return means


def _mean(scores: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float(mean_of_classes(_class_means(scores)[None], weights)[0])
