"""The command `evaluate`: scores of label maps, and of one set of them against another."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli import options as opt
from autoseg.cli import tables
from autoseg.cli.terminal import TerminalProgress, out, print_json, show_table
from autoseg.data.declared import declared_labels
from autoseg.data.groups import case_groups
from autoseg.evaluate.bootstrap import Interval
from autoseg.evaluate.compare import Compared, Comparison, Difference, compare_files
from autoseg.evaluate.pairs import pair_files
from autoseg.evaluate.run import Scoring, evaluation_rules
from autoseg.evaluate.run import evaluate as evaluate_files
from autoseg.evaluate.scores import SCORES, ClassSummary, Evaluation, Spread

TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "surface_dice": "surface Dice",
    "hd95_mm": "HD95 (mm)",
    "average_surface_distance_mm": "average surface distance (mm)",
    "volume_error_ml": "volume error (ml)",
    "relative_volume_error": "volume error, relative",
    "lesion_precision": "lesions: precision",
    "lesion_recall": "lesions: recall",
    "lesion_f1": "lesions: F1",
}

Declared = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="A dataset.json, or a workspace, that declares classes, regions and the value to ignore."
        " [default: every value in a file is a class]",
    ),
]


def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="PRED", help="Predicted label file or folder.")],
    references: Annotated[Path, typer.Argument(metavar="REF", help="Reference label file or folder.")],
    versus: Annotated[
        Path | None, typer.Option("--versus", help="Other predictions of the same cases, to be compared.")
    ] = None,
    labels: Declared = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="Of the surface Dice, in mm. [default: 1, a rule]")
    ] = None,
    group_by: opt.GroupBy = None,
    as_json: opt.Json = False,
    save: Annotated[Path | None, typer.Option("--save", help="Also write the JSON here.")] = None,
    workers: opt.Workers = None,
) -> None:
    """Score label maps against references.

    Overlap, surfaces, volumes and lesions per class, with intervals by bootstrap over cases, or over groups of them;
    with --versus, the difference to other predictions.
    """
    groups = None
    if group_by is not None:
        groups = case_groups([name for name, _, _ in pair_files(predictions, references)], None, group_by)
    scoring = Scoring(evaluation_rules(tolerance), groups)
    declared = None if labels is None else declared_labels(labels)
    progress, num_workers = TerminalProgress(), opt.num_workers(workers)
    result: Evaluation | Comparison
    if versus is None:
        result = evaluation = evaluate_files(predictions, references, declared, progress, num_workers, scoring)
        show = partial(_show_evaluated, evaluation)
    else:
        found = compare_files((predictions, versus), references, declared, progress, num_workers, scoring)
        result = found.comparison
        show = partial(_show_compared, found)
    if save is not None:
        result.save(save)
    if as_json:
        print_json(result)
    else:
        show()


def _show_evaluated(evaluation: Evaluation) -> None:
    tables.show_cases(evaluation)
    out.print()
    show_scores(evaluation)


def show_scores(evaluation: Evaluation) -> None:
    """Print the mean of every score per class, and the interval that it lies in."""
    tolerance, overlap = evaluation.tolerance_mm, evaluation.min_lesion_iou
    names = list(evaluation.per_class)
    rows = [
        (TITLES[score], *(_mean(_spread(summary, score)) for summary in evaluation.per_class.values()))
        for score in SCORES
    ]
    title = f"Mean over {len(evaluation.cases)} cases (95 % interval); surfaces within {tolerance:g} mm"
    show_table(f"{title}, lesions of IoU {overlap:g} or more", ("", *names), rows)
    mean = evaluation.mean_foreground_dice
    shown = "not defined" if mean is None else f"{mean:.4f}{_range(evaluation.mean_foreground_interval)}"
    out.print(f"\nMean Dice over classes: {shown}")


def show_comparison(comparison: Comparison) -> None:
    """Print how far two sets of predictions differ."""
    names = list(comparison.per_class)
    rows = [
        (TITLES[score], *(_difference(found[score]) for found in comparison.per_class.values())) for score in SCORES
    ]
    title = f"Difference, first less second, over {comparison.num_cases} cases (95 % interval, paired)"
    show_table(title, ("", *names), rows)
    mean = comparison.mean_foreground_dice
    both = " against ".join("not defined" if side is None else f"{side:.4f}" for side in (mean.ours, mean.theirs))
    out.print(f"\nMean Dice over classes: {both}: {_difference(mean)}")


def _show_compared(found: Compared) -> None:
    for title, evaluation in (("First", found.ours), ("Second", found.theirs)):
        tables.show_evaluation(title, evaluation)
        out.print()
    show_comparison(found.comparison)


def _spread(summary: ClassSummary, score: str) -> Spread:
    spread: Spread = getattr(summary, score)
    return spread


def _mean(spread: Spread) -> str:
    return "not defined" if spread.mean is None else f"{spread.mean:.4f}{_range(spread.interval)}"


def _difference(difference: Difference) -> str:
    if difference.difference is None:
        return "not defined"
    return f"{difference.difference:+.4f}{_range(difference.interval, signed='+')}"


def _range(interval: Interval | None, signed: str = "") -> str:
    return "" if interval is None else f" ({interval.low:{signed}.4f} to {interval.high:{signed}.4f})"
