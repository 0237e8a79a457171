"""The commands.

Results go to stdout, logs and progress to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted,
143 ended by SIGTERM.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

import autoseg
from autoseg import pipeline
from autoseg.benchmark.run import benchmark as run_benchmark
from autoseg.cli import evaluation, importing, planning, prediction, selection, tables
from autoseg.cli import options as opt
from autoseg.cli.interruption import INTERRUPTION
from autoseg.cli.planning import with_explained_value
from autoseg.cli.terminal import TerminalProgress, duration, err, out, print_json, quiet_threads, show_logs
from autoseg.cli.training import training_hooks
from autoseg.core.errors import AutosegError, InterruptionError, TrainingError
from autoseg.core.progress import Silent
from autoseg.core.workspace import ALL_DATA, FoldName, Workspace
from autoseg.report.live import curves_path
from autoseg.report.picture import write_curves
from autoseg.report.run import draw_run
from autoseg.train.distributed import end_process, is_launched, own_device, teamed
from autoseg.train.loop import TrainingRequest

app = typer.Typer(
    name="autoseg",
    help="Medical image segmentation that configures itself. Add --debug to any command for tracebacks.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


COMMANDS = (
    "check",
    "plan",
    "rules",
    "preprocess",
    "train",
    "predict",
    "evaluate",
    "select",
    "run",
    "benchmark",
    "import-nnunet",
)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    show_logs(debug=debug)
    try:
        words = with_explained_value([text for text in arguments if text != "--debug"])
        with INTERRUPTION.watched(), quiet_threads():
            code = app(args=words or ["--help"], prog_name="autoseg", standalone_mode=False)
    except typer.TyperException as error:
        command = " ".join(["autoseg", *(text for text in arguments[:1] if text in COMMANDS)])
        err.print(f"Error: {error.format_message().rstrip('.')}. See {command} --help.", markup=False)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        err.print("Interrupted. The same command goes on from here.")
        sys.exit(INTERRUPTION.exit_code)
    except InterruptionError as error:
        err.print(f"Interrupted. {error}", markup=False)
        sys.exit(INTERRUPTION.exit_code)
    except AutosegError as error:
        if debug:
            raise
        err.print(f"Error: {error}", markup=False)
        sys.exit(1)
    if is_launched():
        end_process(code or 0)
    sys.exit(code or 0)


def _show_version(asked: bool) -> None:
    if asked:
        out.print(f"autoseg {autoseg.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if is_launched() and context.invoked_subcommand != "train":
        raise TrainingError(
            f"torchrun: only autoseg train shares out its work, got autoseg {context.invoked_subcommand}. Train the"
            " folds that way; autoseg run takes them over."
        )


@app.command()
def check(
    source: opt.Source,
    workspace: opt.WorkspaceFolder = opt.WORKSPACE,
    group_by: opt.GroupBy = None,
    workers: opt.Workers = None,
    as_json: opt.Json = False,
) -> int:
    """Verify a dataset: all problems, with remedies."""
    data = pipeline.DataOptions(group_by, None, opt.num_workers(workers))
    dataset, report = pipeline.check(source, Workspace(workspace), data, TerminalProgress())
    if as_json:
        print_json(report)
    else:
        tables.show_check(dataset, report)
    return 1 if report.errors else 0


app.command()(planning.plan)
app.command()(planning.rules)
app.command("import-nnunet")(importing.import_nnunet_models)


@app.command()
def preprocess(
    workspace: opt.WorkspaceFolder = opt.WORKSPACE,
    configuration: opt.Configuration = None,
    workers: opt.Workers = None,
) -> None:
    """Preprocess a planned dataset; train does it too."""
    place = Workspace(workspace)
    chosen = pipeline.choose_configuration(pipeline.load_plan(place), configuration)
    _, folder = pipeline.preprocess(place, chosen, opt.num_workers(workers), TerminalProgress())
    out.print(f"Wrote {folder}. Next: autoseg train --fold 0{opt.same_workspace(workspace)}")


@app.command()
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


app.command()(prediction.predict)


app.command()(evaluation.evaluate)
app.command()(selection.select)


@app.command()
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
    tables.show_run(result)
    tables.show_pictures(pictures)
    out.print(f"\nNext: autoseg predict SCAN OUT{opt.same_workspace(workspace)}")


@app.command()
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
    tables.show_benchmark(result)
    tables.show_pictures(pictures)
