"""Results as tables on stdout."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from autoseg.cli.terminal import duration, out, show_table
from autoseg.data.check import CheckReport
from autoseg.data.dataset import Dataset
from autoseg.evaluate.bootstrap import Interval
from autoseg.evaluate.scores import Evaluation, Spread
from autoseg.infer.outcome import Outcome, Predictions
from autoseg.pipeline import CPU_PRESET
from autoseg.plan.costs import ConfigurationCosts, Costs
from autoseg.plan.schema import Plan

MOST_CASES = 60
"""Rows of a table of cases; the worst are shown."""

MOST_ALIKE = 3
"""Scans that are named with one and the same warning; of more, their number and an example."""

MOST_CLASSES = 4
"""Classes whose volumes fit beside each other on a terminal."""


def show_check(dataset: Dataset, report: CheckReport) -> None:
    """Print what a dataset is and what is wrong with it."""
    found = f"{len(dataset.cases)} labelled cases, channels {', '.join(dataset.channels)}"
    out.print(f"{dataset.name}: {found}; {dataset.labels.summary}")
    for problem in (*report.errors, *report.warnings):
        out.print(f"{problem.severity:<8}{problem.sentence}")
    verdict = "cannot be planned" if report.errors else "can be planned"
    out.print(f"Errors: {len(report.errors)}. Warnings: {len(report.warnings)}. {dataset.name} {verdict}.")


def show_plan(plan: Plan) -> None:
    """Print what a plan has decided."""
    names = list(plan.configurations)
    rows = [(title, *(text(plan.configurations[name]) for name in names)) for title, text in _PLAN_ROWS]
    show_table(f"Plan of {plan.dataset}, preset {plan.preset}", ("", *names), rows)
    recipe = plan.training
    out.print(
        f"A training: {recipe.num_epochs} epochs of {recipe.steps_per_epoch} steps, {recipe.validation_steps} more to"
        " watch."
    )


def _numbers(values: Sequence[float], separator: str = " x ") -> str:
    return separator.join(f"{value:.4g}" for value in values)


_PLAN_ROWS = (
    ("spacing (mm)", lambda chosen: _numbers(chosen.spacing)),
    ("median shape", lambda chosen: _numbers(chosen.median_shape)),
    ("patch size", lambda chosen: _numbers(chosen.patch_size)),
    ("batch size", lambda chosen: str(chosen.batch_size)),
    ("network", lambda chosen: chosen.network.kind),
    ("features", lambda chosen: _numbers(chosen.network.features, " ")),
    ("blocks", lambda chosen: _numbers(chosen.network.encoder_blocks, " ")),
    ("normalisation", lambda chosen: ", ".join(entry.scheme for entry in chosen.normalization)),
)


def show_costs(plan: Plan, costs: Costs) -> None:
    """Print what a plan costs on this machine, and what to do where that is too much."""
    names = list(costs.configurations)
    rows = [(title, *(text(costs.configurations[name]) for name in names)) for title, text in _COST_ROWS]
    show_table(f"Costs on {costs.speed.device}, {costs.speed.precision}", ("", *names), rows)
    if costs.speed.is_cpu and plan.preset != CPU_PRESET:
        longest = duration(max(found.cross_validation_s for found in costs.configurations.values()))
        out.print(
            f"\nNo GPU here: {costs.num_folds} folds of this plan take {longest} on this CPU. For a CPU, plan with"
            " --preset cpu, or let autoseg run choose."
        )


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


_COST_ROWS: tuple[tuple[str, Callable[[ConfigurationCosts], str]], ...] = (
    ("memory, training", lambda found: _size(found.training.total)),
    ("memory, training on a GPU", lambda found: _size(found.training_on_gpu.total)),
    ("memory, prediction", lambda found: _size(found.prediction.total)),
    ("a training step", lambda found: f"{found.step_s:.2g} s"),
    ("an epoch", lambda found: duration(found.epoch_s)),
    ("a training", lambda found: duration(found.training_s)),
    ("a fold, with its held-out scans", lambda found: duration(found.fold_s)),
    ("all folds", lambda found: duration(found.cross_validation_s)),
    ("a scan of median size", lambda found: duration(found.scan_s)),
    ("disk, preprocessed, at most", lambda found: _size(found.preprocessed_bytes)),
    ("disk, models", lambda found: _size(found.model_bytes + found.checkpoint_bytes)),
    ("disk, label maps, at most", lambda found: _size(found.predictions_bytes)),
)


def show_cases(evaluation: Evaluation) -> None:
    """Print the Dice of every case, worst first; cases in which it is not defined come last."""
    cases = sorted(evaluation.cases, key=lambda case: math.inf if case.dice is None else case.dice)
    names = [label.name for label in evaluation.labels.foreground]
    rows = [(case.name, *(_score(case.classes[name].dice) for name in names)) for case in cases[:MOST_CASES]]
    left_out = f", the worst {MOST_CASES} of {len(cases)}" if len(cases) > MOST_CASES else ""
    show_table(f"Dice per case{left_out}", ("case", *names), rows)


def show_evaluation(title: str, evaluation: Evaluation) -> None:
    """Print the means of the scores per class, and the intervals of Dice."""
    rows = [
        (
            name,
            mean_and_interval(summary.dice.mean, summary.dice.interval),
            _score(summary.dice.median),
            _score(summary.surface_dice.mean),
            _millimetres(summary.hd95_mm),
            str(summary.dice.num_cases),
        )
        for name, summary in evaluation.per_class.items()
    ]
    mean = mean_and_interval(evaluation.mean_foreground_dice, evaluation.mean_foreground_interval)
    rows.append(("mean of classes", mean, "", "", "", str(len(evaluation.cases))))
    surface = f"NSD {evaluation.tolerance_mm:g} mm"
    show_table(title, ("class", "Dice (95 % interval)", "median", surface, "HD95 mm", "cases"), rows)


def mean_and_interval(mean: float | None, interval: Interval | None) -> str:
    """Return a mean with the interval that it lies in, for people."""
    if mean is None:
        return "not defined"
    return f"{mean:.4f}" if interval is None else f"{mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def show_predictions(predictions: Predictions, record: Path) -> None:
    """Print what became of every scan: a table on a terminal, else a line each; then warnings, and what failed."""
    written = [case for case in predictions.cases if case.error is None]
    if out.is_terminal and written:
        _show_written(written[:MOST_CASES])
    else:
        for case in written[:MOST_CASES]:
            out.print(f"{'kept ' if case.is_kept else 'wrote'}   {case.output}")
    if len(written) > MOST_CASES:
        out.print(f"... and {len(written) - MOST_CASES} more")
    _show_warnings(written)
    for case in predictions.cases:
        if case.error is not None:
            out.print(f"failed  {case.error}")
    kept = sum(case.is_kept for case in written)
    kept_part = f", {kept} of them by an earlier call" if kept else ""
    out.print(f"{len(written)} of {len(predictions.cases)} scans segmented{kept_part}. Details: {record}")


def _show_warnings(cases: Sequence[Outcome]) -> None:
    """Print why results deserve a second look; what many scans have in common once, with an example."""
    by_subject: dict[str, list[Outcome]] = {}
    for case in cases:
        for about in case.warnings:
            by_subject.setdefault(about, []).append(case)
    for about, unusual in by_subject.items():
        lines = [f"{case.output}: {case.warnings[about]}." for case in unusual]
        if len(lines) > MOST_ALIKE:
            lines = [f"{len(unusual)} of {len(cases)} scans: {about}; such as {lines[0]}"]
        for line in lines:
            out.print(f"look at {line}")


def _millilitres(volume: float) -> str:
    return f"{volume:.0f}" if volume >= 100 else f"{volume:.3g}"


def _show_written(cases: Sequence[Outcome]) -> None:
    names = list(dict.fromkeys(name for case in cases for name in case.volumes_ml))
    shown = names if len(names) <= MOST_CLASSES else []
    rows = [
        (
            case.output.name if case.output else "",
            "kept" if case.is_kept else duration(sum(case.seconds.values())),
            duration(case.seconds["network"]) if "network" in case.seconds else "",
            _size(case.peak_memory_bytes) if case.peak_memory_bytes else "",
            *(_millilitres(case.volumes_ml[name]) if name in case.volumes_ml else "" for name in shown),
            str(len(case.warnings) or ""),
        )
        for case in cases
    ]
    header = ("label map", "time", "network", "memory", *(f"{name} (ml)" for name in shown), "warnings")
    show_table("Segmented", header, rows)


def _score(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"


def _millimetres(spread: Spread) -> str:
    return "" if spread.mean is None else f"{spread.mean:.2f}"
