"""Results of runs as tables on stdout."""

from collections.abc import Sequence
from pathlib import Path

from autoseg.benchmark.run import BenchmarkResult
from autoseg.cli.selection import show_selection
from autoseg.cli.tables import show_evaluation
from autoseg.cli.terminal import duration, out, show_table
from autoseg.pipeline import RunResult


def show_run(result: RunResult) -> None:
    """Print what a run has reached, and where its time went."""
    folds = ", ".join(str(fold) for fold in result.folds)
    for name, evaluation in ((result.name, result.evaluation), *result.others.items()):
        show_evaluation(f"{result.dataset}, {name}, held-out cases of fold {folds}", evaluation)
    if result.selection is not None:
        out.print()
        show_selection(result.selection)
    if not result.allocation.mirror:
        out.print("Predicted without mirror images, for the budget. Why: autoseg plan --explain mirror_held_out")
    out.print()
    show_seconds(result)


def show_pictures(paths: Sequence[Path]) -> None:
    """Print where the pictures are."""
    out.print("\nPictures:")
    for path in paths:
        out.print(f"  {path}", markup=False)


def show_seconds(result: RunResult) -> None:
    """Print the time of every stage."""
    rows = [(stage, duration(seconds)) for stage, seconds in result.seconds.items()]
    rows.append(("total", duration(sum(result.seconds.values()))))
    show_table("Time", ("stage", ""), rows)


def show_benchmark(result: BenchmarkResult) -> None:
    """Print our scores beside the published ones."""
    show_run(result.run)
    networks = list(result.comparison[-1].published)
    if not networks:
        return
    out.print()
    rows = [
        (row.name, _percent(row.ours), *(_percent(row.published[network]) for network in networks))
        for row in result.comparison
    ]
    show_table("Dice of the same folds, in percent", ("", "autoseg", *networks), rows)
    out.print(f"Published: {result.source}.", markup=False)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
