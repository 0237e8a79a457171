"""The evaluation stage: files with predictions and references in, an `Evaluation` out, one case in memory at a time."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from autoseg.core.errors import EvaluationError
from autoseg.core.labels import Labels, declare_labels
from autoseg.core.parallel import parallel_map
from autoseg.core.progress import Progress, Silent
from autoseg.data.image import LabelImage, label_values, read_label
from autoseg.data.problem import Problem, UnusableFileError
from autoseg.evaluate.case import score_case
from autoseg.evaluate.pairs import Pair, grid_problems, pair_files, problem, refuse
from autoseg.evaluate.scores import CaseScores, Evaluation, summarise
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.rules import EvaluationRules

SetName = TypeVar("SetName", bound=Hashable)


def evaluation_rules(tolerance_mm: float | None = None) -> EvaluationRules:
    """Return the constants of the scores as in `rules/`, with another tolerance of the surface Dice if one is given.

    Raises:
        EvaluationError: If the tolerance is negative.
    """
    if tolerance_mm is not None and tolerance_mm < 0:
        raise EvaluationError(f"--tolerance: must be 0 mm or more, got {tolerance_mm:g}. Give a distance in mm.")
    rules = load_rulebook().empirical.evaluation
    return rules if tolerance_mm is None else rules.model_copy(update={"tolerance_mm": tolerance_mm})


@dataclass(frozen=True)
class Scoring:
    """How cases are scored.

    Attributes:
        rules: Tolerance of the surface Dice, overlap of lesions, intervals.
        groups: Group of each case by its name, for the intervals; None where each case is a group of its own.
    """

    rules: EvaluationRules = field(default_factory=evaluation_rules)
    groups: Mapping[str, str] | None = None


def evaluate(
    predictions: Path,
    references: Path,
    labels: Labels | None,
    progress: Progress | None = None,
    num_workers: int = 0,
    scoring: Scoring | None = None,
) -> Evaluation:
    """Compare two label files, or two folders of label files with the same names.

    Args:
        predictions: File or folder.
        references: File if `predictions` is one, folder otherwise. The formats may differ.
        labels: Classes to score; None scores every value that occurs in a file, 0 being the background.
        progress: Shows one step per case.
        num_workers: Processes that score cases side by side; 0 scores them in this one.
        scoring: Constants of the scores, groups of cases; None for the constants in `rules/` and no groups.

    Raises:
        EvaluationError: If files lack a partner or cannot be read, grids differ or labels are undeclared; names all.
    """
    pairs = pair_files(predictions, references)
    return evaluate_pairs(pairs, labels, progress, num_workers, scoring)


def evaluate_pairs(
    pairs: Sequence[Pair],
    labels: Labels | None,
    progress: Progress | None = None,
    num_workers: int = 0,
    scoring: Scoring | None = None,
) -> Evaluation:
    """Compare pairs of label files; see `evaluate`.

    Args:
        pairs: Name of the case, file of its prediction, file of its reference; at least one.
        labels: Classes to score; None scores every value that occurs in a file, 0 being the background.
        progress: Shows one step per case.
        num_workers: Processes that score cases side by side; 0 scores them in this one.
        scoring: Constants of the scores, groups of cases; None for the constants in `rules/` and no groups.

    Raises:
        EvaluationError: If there are no pairs, grids differ, files cannot be read or labels are undeclared; names all.
    """
    return evaluate_sets({"": pairs}, labels, progress, num_workers, scoring)[""]


def evaluate_sets(
    sets: Mapping[SetName, Sequence[Pair]],
    labels: Labels | None,
    progress: Progress | None = None,
    num_workers: int = 0,
    scoring: Scoring | None = None,
) -> dict[SetName, Evaluation]:
    """Compare several sets of pairs of label files, all cases in one go; see `evaluate_pairs`.

    Args:
        sets: Pairs by the name of their set, which may be anything; at least one pair each.
        labels: Classes to score; None scores every value that occurs in a file, 0 being the background.
        progress: Shows one step per pair.
        num_workers: Processes that score cases side by side; 0 scores them in this one.
        scoring: Constants of the scores, groups of cases; None for the constants in `rules/` and no groups.

    Raises:
        EvaluationError: See `evaluate_pairs`.
    """
    if not sets or not all(sets.values()):
        raise EvaluationError(
            "evaluate: at least one pair of files must be given, got none. Name the files to compare."
        )
    listed = [(name, pair) for name, pairs in sets.items() for pair in pairs]
    every_pair = [pair for _, pair in listed]
    refuse([problem for pair in every_pair for problem in grid_problems(pair)])
    labels = labels or labels_found(every_pair)
    scoring = scoring or Scoring()
    num_threads = max(num_workers, 1) if len(listed) == 1 else 1
    score = partial(score_files, labels=labels, rules=scoring.rules, num_threads=num_threads)
    cases: dict[SetName, list[CaseScores]] = {name: [] for name in sets}
    problems: list[Problem] = []
    with (progress or Silent()).task("evaluate", len(listed)) as task:
        found = parallel_map(score, every_pair, num_workers, _name_of, EvaluationError)
        for (name, _), outcome in zip(listed, found, strict=True):
            if isinstance(outcome, CaseScores):
                cases[name].append(outcome)
            else:
                problems.extend(outcome)
            task.advance()
    refuse(problems)
    return {name: summarise(scored, labels, scoring.rules, scoring.groups) for name, scored in cases.items()}


def labels_found(pairs: Sequence[Pair]) -> Labels:
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


def score_files(
    pair: Pair, labels: Labels, rules: EvaluationRules, num_threads: int
) -> CaseScores | tuple[Problem, ...]:
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
    scores = score_case(prediction, reference, maps[1].geometry.spacing, labels, rules, num_threads)
    return CaseScores(name=name, classes=scores)


def _name_of(pair: Pair) -> str:
    return str(pair[1])
