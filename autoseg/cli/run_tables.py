"""Results of runs as tables on stdout."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.benchmark.run import BenchmarkResult
from autoseg.cli.selection import show_selection
from autoseg.cli.tables import show_evaluation
from autoseg.cli.terminal import duration, out, show_table
from autoseg.core.errors import TrainingError
from autoseg.pipeline import RunResult
from autoseg.pipeline.budget.schedule import Allocation


def show_run(result: RunResult) -> None:
    """Print what a run has reached."""
    folds = f"fold{'s' if len(result.folds) > 1 else ''} {', '.join(map(str, result.folds))}"
    for name, evaluation in ((result.name, result.evaluation), *result.others.items()):
        before = "" if result.selection is None else ", before postprocessing"
        show_evaluation(f"{result.dataset}, {name}, held-out cases of {folds}{before}", evaluation)
    if result.selection is not None:
        out.print()
        show_selection(result.selection)
    if not result.allocation.mirror:
        out.print("Predicted without mirror images, for the budget. Why: autoseg plan --explain mirror_held_out")


def show_time(result: RunResult, pictures_s: float) -> None:
    """Print where the time of a run went, pictures included."""
    out.print()
    show_seconds({**result.seconds, "draw pictures": pictures_s}, result.allocation)


def require_all(result: RunResult) -> None:
    """Say at the end what has failed, if anything has.

    Raises:
        TrainingError: Naming each training that has, and the way out.
    """
    if not result.failed:
        return
    listed = "\n".join(f"  {name}: {error}" for name, error in result.failed.items())
    raise TrainingError(
        f"{result.dataset}: all trainings must end well, got {len(result.failed)} that failed:\n{listed}\nThe result"
        f" is that of the others, {', '.join(result.trained)}. Mend the cause; the same command trains what is missing"
        " and chooses again."
    )


def show_pictures(paths: Sequence[Path]) -> None:
    """Print where the pictures are, if any could be drawn."""
    if not paths:
        return
    out.print("\nPictures:")
    for path in paths:
        out.print(f"  {path}")


def show_seconds(seconds: Mapping[str, float], allocation: Allocation) -> None:
    """Print the time of every stage, and how it compares with the budget."""
    rows = [(stage, duration(taken)) for stage, taken in seconds.items()]
    rows.append(("total", duration(sum(seconds.values()))))
    if allocation.budget_s is not None:
        rows.append(("budget", duration(allocation.budget_s)))
    show_table("Time", ("stage", ""), rows)


def show_benchmark(result: BenchmarkResult) -> None:
    """Print our scores beside the published ones, after the tables of the run."""
    show_run(result.run)
    networks = list(result.comparison[-1].published)
    if not networks:
        return
    out.print()
    rows = [
        (row.name, _percent(row.ours), *(_percent(row.published[network]) for network in networks))
        for row in result.comparison
    ]
    ours = f"autoseg, {result.run.name}"
    show_table("Dice of the same folds, in percent", ("", ours, *networks), rows)
    if result.run.selection is not None:
        number = len(result.run.selection.candidates)
        chosen = f", and was chosen among {number} candidates by these very cases, so it may be a little high"
        out.print(f"Ours is before postprocessing{chosen if number > 1 else ''}.")
    out.print(f"Published: {result.source}.")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
