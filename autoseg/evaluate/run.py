"""The evaluation stage: files with predictions and references in, an `Evaluation` out, one case in memory at a time."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.core.errors import EvaluationError
from autoseg.core.labels import Labels, declare_labels
from autoseg.core.parallel import parallel_map
from autoseg.core.progress import Progress, Silent
from autoseg.data.image import LabelImage, label_values, read_label
from autoseg.data.problem import Problem, UnusableFileError
from autoseg.evaluate.metrics import blank_ignored, overlaps, region_mask, volume_ml
from autoseg.evaluate.pairs import Pair, grid_problems, pair_files, problem, refuse
from autoseg.evaluate.scores import CaseScores, ClassScores, Evaluation, summarise
from autoseg.evaluate.surface import surface_distances

DEFAULT_TOLERANCE_MM = 1.0


def evaluate(
    predictions: Path,
    references: Path,
    labels: Labels | None,
    progress: Progress | None = None,
    num_workers: int = 0,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> Evaluation:
    """Compare two label files, or two folders of label files with the same names.

    Args:
        predictions: File or folder.
        references: File if `predictions` is one, folder otherwise. The formats may differ.
        labels: Classes to score; None scores every value that occurs in a file, 0 being the background.
        progress: Shows one step per case.
        num_workers: Processes that score cases side by side; 0 scores them in this one.
        tolerance_mm: Of the surface Dice, in mm.

    Raises:
        EvaluationError: If files lack a partner or cannot be read, grids differ or labels are undeclared; names all.
    """
    pairs = pair_files(predictions, references)
    return evaluate_pairs(pairs, labels, progress, num_workers, tolerance_mm)


def evaluate_pairs(
    pairs: Sequence[Pair],
    labels: Labels | None,
    progress: Progress | None = None,
    num_workers: int = 0,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> Evaluation:
    """Compare pairs of label files; see `evaluate`.

    Args:
        pairs: Name of the case, file of its prediction, file of its reference; at least one.
        labels: Classes to score; None scores every value that occurs in a file, 0 being the background.
        progress: Shows one step per case.
        num_workers: Processes that score cases side by side; 0 scores them in this one.
        tolerance_mm: Of the surface Dice, in mm.

    Raises:
        EvaluationError: If there are no pairs, grids differ, files cannot be read or labels are undeclared; names all.
    """
    if not pairs:
        raise EvaluationError(
            "evaluate: at least one pair of files must be given, got none. Name the files to compare."
        )
    refuse([problem for pair in pairs for problem in grid_problems(pair)])
    labels = labels or _labels_found(pairs)
    score = partial(_score_files, labels=labels, tolerance_mm=tolerance_mm)
    cases: list[CaseScores] = []
    problems: list[Problem] = []
    with (progress or Silent()).task("evaluate", len(pairs)) as task:
        for outcome in parallel_map(score, pairs, num_workers, _name_of, EvaluationError):
            if isinstance(outcome, CaseScores):
                cases.append(outcome)
            else:
                problems.extend(outcome)
            task.advance()
    refuse(problems)
    return summarise(cases, labels, tolerance_mm)


def _labels_found(pairs: Sequence[Pair]) -> Labels:
    """Return a class for every value in any file but 0, the background."""
    values: set[int] = set()
    problems: list[Problem] = []
    for _, *paths in pairs:
        for path in paths:
            try:
                values.update(label_values(read_label(path).array))
            except UnusableFileError as error:
                problems.append(error.problem)
    refuse(problems)
    return declare_labels({value: f"class {value}" for value in values - {0}})


def _score_files(pair: Pair, labels: Labels, tolerance_mm: float) -> CaseScores | tuple[Problem, ...]:
    """Return the scores of a case, or what is wrong with its files."""
    name, *paths = pair
    maps: list[LabelImage] = []
    problems: list[Problem] = []
    for path, allowed in zip(paths, (labels.values, labels.declared_values), strict=True):
        try:
            label = read_label(path)
        except UnusableFileError as error:
            problems.append(error.problem)
            continue
        maps.append(label)
        if unknown := sorted(set(label_values(label.array)) - set(allowed)):
            message = f"label values must be among {allowed}, got {', '.join(map(str, unknown))}"
            problems.append(problem("undeclared", path, message, "Declare these values as classes, or correct them"))
    if problems:
        return tuple(problems)
    prediction, reference = (labels.to_indices(label.array) for label in maps)
    return score_case(name, prediction, reference, maps[1].geometry.spacing, labels, tolerance_mm)


def score_case(
    name: str,
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    spacing_mm: tuple[float, ...],
    labels: Labels,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> CaseScores:
    """Return the scores of one case in every foreground class or region; only annotated voxels count.

    Args:
        name: Of the case.
        prediction: Class indices, (Z, Y, X).
        reference: Class indices of the same shape, `labels.num_classes` where nothing is annotated.
        spacing_mm: (z, y, x), in mm.
        labels: Classes to score.
        tolerance_mm: Of the surface Dice, in mm.

    Raises:
        ValueError: If the shapes differ or an index is no class.
    """
    prediction, reference = blank_ignored(prediction, reference, labels.num_classes)
    found = overlaps(prediction, reference, labels.num_classes, labels.members)
    classes = {}
    for label, members, overlap in zip(labels.foreground, labels.members, found, strict=True):
        masks = region_mask(prediction, members), region_mask(reference, members)
        surfaces = surface_distances(*masks, spacing_mm)
        classes[label.name] = ClassScores(
            dice=overlap.dice,
            iou=overlap.iou,
            true_positives=overlap.true_positives,
            false_positives=overlap.false_positives,
            false_negatives=overlap.false_negatives,
            prediction_ml=volume_ml(overlap.prediction_voxels, spacing_mm),
            reference_ml=volume_ml(overlap.reference_voxels, spacing_mm),
            hd95_mm=surfaces.hd95_mm,
            average_surface_distance_mm=surfaces.average_mm,
            surface_dice=surfaces.surface_dice(tolerance_mm),
        )
    return CaseScores(name=name, classes=classes)


def _name_of(pair: Pair) -> str:
    return str(pair[1])
