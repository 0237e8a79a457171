"""`autoseg train`, `autoseg run` and `autoseg benchmark`."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg import pipeline
from autoseg.benchmark.run import benchmark as run_benchmark
from autoseg.cli import options as opt
from autoseg.cli import run_tables, tables
from autoseg.cli.terminal import TerminalProgress, duration, out, print_json
from autoseg.cli.training import training_hooks
from autoseg.core.progress import Silent
from autoseg.core.workspace import ALL_DATA, FoldName, Workspace
from autoseg.report.live import curves_path
from autoseg.report.picture import write_curves
from autoseg.report.run import draw_run
from autoseg.train.distributed import own_device, teamed
from autoseg.train.loop import TrainingRequest


def train(
    fold: Annotated[
        str,
        typer.Option("--fold", metavar="FOLD", help="Number of the fold to hold out; all-data learns from every case."),
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
    tensorboard: opt.TensorBoard = False,
    as_json: opt.Json = False,
) -> None:
    """Train one fold, or go on with it.

    Preprocesses first where needed, and scores the network on the held-out cases of the fold at the end; all-data holds
    out none, and nothing is scored.
    """
    place = Workspace(workspace)
    name = opt.parse_fold(fold)
    planned = pipeline.load_plan(place)
    chosen = pipeline.choose_configuration(planned, configuration)
    length = pipeline.training_length(planned, epochs, budget)
    with teamed() as team, training_hooks(place, tensorboard=tensorboard and team.is_first) as hooks:
        request = TrainingRequest(
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
        progress = TerminalProgress() if team.is_first else Silent()
        record = pipeline.train(place, request, opt.num_workers(workers), progress, hooks)
    if not team.is_first:
        return
    evaluation = None
    if name != ALL_DATA:
        model = pipeline.ModelChoice(chosen, (name,), device, mirror=True)
        evaluation = pipeline.score_held_out(place, model, opt.num_workers(workers), TerminalProgress())
    curves = curves_path(place, chosen, name)
    write_curves(curves, place.fold(chosen, name).history)
    if as_json:
        scores = None if evaluation is None else evaluation.model_dump(mode="json")
        print_json({"training": record.model_dump(mode="json"), "held_out": scores})
        return
    if evaluation is not None:
        tables.show_evaluation(f"Held-out cases of fold {name}, {chosen}", evaluation)
    out.print(
        f"\nTrained {record.num_epochs} epochs, {record.num_steps} steps, in {duration(record.seconds)}."
        f" Wrote {place.fold(chosen, name).root} and {curves}."
        f" {_next_prediction(name)}{opt.same_workspace(workspace)}"
    )


def _next_prediction(name: FoldName) -> str:
    """Return the sentence on what a training is good for."""
    if name == ALL_DATA:
        return f"No case was held out, so that there is no score. Next: autoseg predict SCAN OUT --folds {ALL_DATA}"
    return "Next: autoseg predict SCAN OUT"


def run(
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
    tensorboard: opt.TensorBoard = False,
    as_json: opt.Json = False,
) -> None:
    """Do all of it; the same command goes on.

    Check, plan, preprocess, train all folds of the configurations worth it, predict their held-out cases, select the
    best one or two and their postprocessing, draw pictures. With some of the --folds there is no selection.
    """
    place = Workspace(workspace)
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
    )
    with training_hooks(place, tensorboard=tensorboard) as hooks:
        result = pipeline.run(place, request, TerminalProgress(), hooks)
    pictures = draw_run(place, result)
    if as_json:
        print_json(result)
        return
    run_tables.show_run(result)
    run_tables.show_pictures(pictures)
    out.print(f"\nNext: autoseg predict SCAN OUT{opt.same_workspace(workspace)}")


def benchmark(
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
    )
    with training_hooks(place, tensorboard=tensorboard) as hooks:
        result = run_benchmark(name, source, place, request, TerminalProgress(), hooks)
    pictures = draw_run(place, result.run)
    if as_json:
        print_json(result)
        return
    run_tables.show_benchmark(result)
    run_tables.show_pictures(pictures)
