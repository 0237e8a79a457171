"""`autoseg train`, `autoseg run` and `autoseg benchmark`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from autoseg import pipeline
from autoseg.benchmark.run import benchmark as run_benchmark
from autoseg.cli import options as opt
from autoseg.cli import run_tables, tables
from autoseg.cli.side_by_side import HERE, ExecutorName, Jobs, Parameters, planned_for_cluster, side_by_side
from autoseg.cli.terminal import TerminalProgress, duration, out, print_json
from autoseg.cli.training import training_hooks
from autoseg.core.errors import AutosegError
from autoseg.core.progress import Silent
from autoseg.core.stopwatch import Stopwatch
from autoseg.core.workspace import ALL_DATA, FoldName, Workspace
from autoseg.pipeline.jobs.side_by_side import train_all
from autoseg.pipeline.running.request import RunResult
from autoseg.plan.schema import ConfigurationName
from autoseg.report.live import curves_path
from autoseg.report.picture import write_curves
from autoseg.report.run import draw_run
from autoseg.train.distributed import own_device, teamed
from autoseg.train.loop import TrainingRequest
from autoseg.train.record import TrainingRecord


def train(
    fold: Annotated[
        str,
        typer.Option(
            "--fold", metavar="FOLD", help="Fold to hold out, or several: 0,2 or 0-4; all-data learns from every case."
        ),
    ],
    workspace: opt.WorkspaceFolder = opt.WORKSPACE,
    configuration: opt.Configuration = None,
    epochs: opt.Epochs = None,
    budget: opt.Budget = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    workers: opt.Workers = None,
    restart: opt.Restart = False,
    init_from: opt.InitFrom = None,
    jobs: Jobs = None,
    executor: ExecutorName = HERE,
    slurm: Parameters = None,
    tensorboard: opt.TensorBoard = False,
    as_json: opt.Json = False,
) -> None:
    """Train a fold or several, or go on with them.

    Preprocesses first where needed, and scores the networks on the held-out cases of their folds at the end; all-data
    holds out none, and nothing is scored. Epochs and budget are those of each training.
    """
    place = Workspace(workspace)
    names = opt.parse_trainings(fold)
    together = side_by_side(jobs, executor, slurm, tensorboard=tensorboard)
    planned = pipeline.load_plan(place)
    chosen = pipeline.choose_configuration(planned, configuration)
    length = pipeline.training_length(planned, epochs, budget)
    with teamed() as team, training_hooks(place, tensorboard=tensorboard and team.is_first) as hooks:
        requests = [
            TrainingRequest(
                configuration=chosen,
                fold=name,
                num_epochs=length.num_epochs,
                budget_s=length.budget_s,
                device=own_device(device, team),
                seed=seed,
                num_workers=pipeline.num_loaders(device, max(opt.num_workers(workers) // team.size, 1)),
                restart=restart,
                init_from=init_from,
                team=team,
            )
            for name in names
        ]
        progress = TerminalProgress() if team.is_first else Silent()
        records = train_all(place, requests, together, opt.num_workers(workers), progress, hooks)
    if team.is_first:
        model = pipeline.ModelChoice(chosen, names, device, mirror=True)
        _score_and_show(place, model, records, opt.num_workers(workers), as_json=as_json)


def _score_and_show(
    place: Workspace, model: pipeline.ModelChoice, records: list[TrainingRecord], num_workers: int, *, as_json: bool
) -> None:
    """Score the networks of folds on the cases that they hold out; print how they were trained, and the scores."""
    names = [record.fold for record in records]
    evaluation = None
    if names != [ALL_DATA]:
        evaluation = pipeline.score_held_out(place, model, num_workers, TerminalProgress())
    curves = [curves_path(place, model.configuration, name) for name in names]
    for path, name in zip(curves, names, strict=True):
        write_curves(path, place.fold(model.configuration, name).history)
    if as_json:
        scores = None if evaluation is None else evaluation.model_dump(mode="json")
        print_json({"trainings": [record.model_dump(mode="json") for record in records], "held_out": scores})
        return
    if evaluation is not None:
        folds = f"fold{'s' if len(names) > 1 else ''} {', '.join(map(str, names))}"
        tables.show_evaluation(f"Held-out cases of {folds}, {model.configuration}", evaluation)
    out.print()
    for record, path in zip(records, curves, strict=True):
        out.print(
            f"Trained {record.num_epochs} epochs, {record.num_steps} steps, in {duration(record.seconds)}."
            f" Wrote {place.fold(model.configuration, record.fold).root} and {path}."
        )
    if names == [ALL_DATA]:
        out.print("No case was held out, so that there is no score.")
    others = names if names == [ALL_DATA] else None
    _show_next(place, model.configuration, others)


def naming(place: Workspace, configuration: ConfigurationName, folds: Sequence[FoldName] | None) -> str:
    """Return the options with which networks predict that would not do so by themselves.

    Args:
        place: Where they are.
        configuration: Of the networks.
        folds: Of the networks; None for those that usually predict.
    """
    try:
        usual = pipeline.choose_networks(place)
    except AutosegError:
        usual = None
    named = "" if usual is not None and usual.together == (configuration,) else f" --configuration {configuration}"
    if folds is None or (not named and usual is not None and usual.folds == tuple(folds)):
        return named
    return f"{named} --folds {','.join(map(str, folds))}"


def run(
    context: typer.Context,
    source: opt.Source,
    workspace: opt.WorkspaceFolder = opt.WORKSPACE,
    preset: opt.Preset = None,
    rules: opt.Rules = None,
    configuration: opt.Configurations = None,
    folds: Annotated[str, typer.Option("--folds", help="Folds to train: all, 0, 0,2 or 0-4.")] = "all",
    group_by: opt.GroupBy = None,
    num_folds: opt.NumFolds = None,
    epochs: opt.Epochs = None,
    budget: opt.Budget = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    workers: opt.Workers = None,
    init_from: opt.InitFrom = None,
    jobs: Jobs = None,
    executor: ExecutorName = HERE,
    slurm: Parameters = None,
    tensorboard: opt.TensorBoard = False,
    as_json: opt.Json = False,
) -> None:
    """Do all of it; the same command goes on.

    Check, plan, preprocess, train all folds of the configurations worth it, predict their held-out cases, select the
    best one or two and their postprocessing, draw pictures. With some of the --folds there is no selection.
    """
    place = Workspace(workspace)
    together = side_by_side(jobs, executor, slurm, tensorboard=tensorboard)
    if together.executor == "slurm":
        preset = planned_for_cluster(preset, rules, budget)
    request = pipeline.RunRequest(
        source=source,
        data=pipeline.DataOptions(group_by, num_folds, opt.num_workers(workers)),
        planning=pipeline.PlanOptions(preset, rules),
        configurations=opt.parse_names(configuration),
        folds=opt.parse_folds(folds),
        num_epochs=epochs,
        budget_s=budget,
        device=device,
        seed=seed,
        init_from=init_from,
        side_by_side=together,
        began_s=context.obj,
    )
    with training_hooks(place, tensorboard=tensorboard) as hooks:
        result = pipeline.run(place, request, TerminalProgress(), hooks)
    if as_json:
        print_json(result)
    else:
        run_tables.show_run(result)
    _draw_and_end(place, result, as_json=as_json)


def benchmark(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Entry of datasets.json, for example hippocampus or phantom.")],
    source: Annotated[
        Path | None, typer.Option("--source", help="Folder or archive of the dataset, instead of downloading it.")
    ] = None,
    workspace: Annotated[
        Path | None, typer.Option("--workspace", "-w", help="Folder for everything. [default: autoseg_work/NAME]")
    ] = None,
    preset: opt.Preset = None,
    rules: opt.Rules = None,
    configuration: opt.Configurations = None,
    folds: Annotated[str, typer.Option("--folds", help="Folds to train: all, 0, 0,2 or 0-4.")] = "all",
    epochs: opt.Epochs = None,
    budget: opt.Budget = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    workers: opt.Workers = None,
    jobs: Jobs = None,
    tensorboard: opt.TensorBoard = False,
    as_json: opt.Json = False,
) -> None:
    """Run a public dataset; compare with published Dice.

    The Dice of the held-out cases is shown beside the published one of the same folds.
    """
    place = Workspace(workspace or opt.WORKSPACE / name)
    request = pipeline.RunRequest(
        source=place.root,
        data=pipeline.DataOptions(None, None, opt.num_workers(workers)),
        planning=pipeline.PlanOptions(preset, rules),
        configurations=opt.parse_names(configuration),
        folds=opt.parse_folds(folds),
        num_epochs=epochs,
        budget_s=budget,
        device=device,
        seed=seed,
        side_by_side=side_by_side(jobs, HERE, None, tensorboard=tensorboard),
        began_s=None if source is None else context.obj,
    )
    with training_hooks(place, tensorboard=tensorboard) as hooks:
        result = run_benchmark(name, source, place, request, TerminalProgress(), hooks)
    if as_json:
        print_json(result)
    else:
        run_tables.show_benchmark(result)
    _draw_and_end(place, result.run, as_json=as_json)


def _draw_and_end(place: Workspace, result: RunResult, *, as_json: bool) -> None:
    """Draw the pictures of a run; print where its time went, where they are, and what comes next.

    Raises:
        TrainingError: If trainings have failed, naming each.
    """
    watch = Stopwatch()
    pictures = draw_run(place, result)
    if not as_json:
        run_tables.show_time(result, watch.elapsed_s())
        run_tables.show_pictures(pictures)
        _show_next_of_run(place, result)
    run_tables.require_all(result)


def _show_next_of_run(place: Workspace, result: RunResult) -> None:
    """Print what a run's model is good for: what it has selected, or else the networks that it has trained."""
    out.print()
    if result.selection is None:
        _show_next(place, result.reached[0], result.folds)
    else:
        _show_next(place)


def _show_next(
    place: Workspace, configuration: ConfigurationName | None = None, folds: Sequence[FoldName] | None = None
) -> None:
    """Print what networks are good for: those that usually predict, or those that are named."""
    chosen = "" if configuration is None else naming(place, configuration, folds)
    options = f"{chosen}{opt.same_workspace(place.root)}"
    out.print(f"Next: autoseg predict SCANS OUT{options}")
    out.print(f"To hand the model on: autoseg pack model.zip{options}")
