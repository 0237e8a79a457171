"""Options of trainings side by side, on this machine or on a cluster."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import typer

from autoseg.cli import options as opt
from autoseg.cli.training import job_hooks
from autoseg.core.errors import PlanError
from autoseg.pipeline.jobs.cluster import PARAMETERS
from autoseg.pipeline.jobs.side_by_side import Executor, SideBySide
from autoseg.plan.rulebook import load_rulebook

HERE: Executor = "here"

Jobs = Annotated[
    str | None,
    typer.Option(
        "--jobs",
        metavar="N|auto",
        help="Folds to train at a time: on GPUs one each (auto: on all of them), on a CPU each with its share of the"
        " cores. [default: 1; with --executor slurm, all]",
    ),
]
ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="NAME",
        help="Who starts the trainings: here; slurm, which this command waits for; local, the same on this machine.",
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--slurm", metavar="KEY=VALUE", help="For sbatch, repeatable: partition=gpu, gres=gpu:1, time=8h."),
]


def side_by_side(jobs: str | None, executor: str, parameters: Sequence[str] | None, *, tensorboard: bool) -> SideBySide:
    """Return how several trainings run, from what was asked for on the command line."""
    known: dict[str, Executor] = {name: name for name in get_args(Executor)}
    if executor not in known:
        raise typer.BadParameter(f"--executor: must be one of {', '.join(known)}, got {executor!r}")
    if parameters and executor != "slurm":
        raise typer.BadParameter(f"--slurm: must come with --executor slurm, got --executor {executor}")
    return SideBySide(
        num_jobs=None if jobs is None and executor == "slurm" else parse_jobs(jobs or "1"),
        executor=known[executor],
        parameters=parse_parameters(parameters or ()),
        open_hooks=partial(job_hooks, tensorboard=tensorboard),
    )


def planned_for_cluster(preset: str | None, rules: Path | None, budget: float | None) -> str:
    """Return the preset of a run on a cluster; without one, the default, as this machine need not have its GPUs.

    Raises:
        PlanError: If there is a budget.
    """
    if budget is not None:
        raise PlanError(
            "--budget: must come without --executor slurm, whose nodes cannot be timed before it has chosen them, got"
            " both. Give --epochs, or neither."
        )
    return preset or load_rulebook(rules).inferred.preset.default


def parse_jobs(text: str) -> int | None:
    """Return how many trainings run at a time; None for auto."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"--jobs: must be a number from 1 on, or auto, got {text!r}")
    return int(text)


def parse_parameters(texts: Sequence[str]) -> dict[str, str]:
    """Return parameters of jobs by name from texts like mem=32G, gres=gpu:1, time=8h; the time in minutes."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equals or not value or name not in PARAMETERS:
            raise typer.BadParameter(
                f"--slurm: must be NAME=VALUE with one of the names {', '.join(PARAMETERS)}, got {text!r}"
            )
        if name == "time" and not value.isdecimal():
            value = f"{opt.parse_duration(value) / 60:g}"
        if name in ("cpus_per_task", "signal_delay_s") and not value.isdecimal():
            raise typer.BadParameter(f"--slurm {name}: must be a whole number, got {value!r}")
        found[name] = value
    return found
