"""The commands, each imported when it is asked for: a plan is made before anything could have imported torch.

Results go to stdout, logs and progress to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted,
143 ended by SIGTERM.
"""

import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer

import autoseg
from autoseg.cli.interruption import INTERRUPTION
from autoseg.cli.planning import with_explained_value
from autoseg.cli.terminal import err, out, quiet_threads, show_logs
from autoseg.core.disk import not_usable
from autoseg.core.errors import WITHOUT_RESTART, AutosegError, InterruptionError, TrainingError
from autoseg.core.parallel import is_launched


class Command(NamedTuple):
    """Where a command is.

    Attributes:
        module: Of `autoseg.cli`.
        function: Of that module.
        summary: The first line of its docstring.
    """

    module: str
    function: str
    summary: str

    def load(self) -> Callable[..., Any]:
        """Import the command and return it."""
        found: Callable[..., Any] = getattr(import_module(f"autoseg.cli.{self.module}"), self.function)
        return found


COMMANDS = {
    "check": Command("preparing", "check", "Verify a dataset: all problems, with remedies."),
    "plan": Command("planning", "plan", "Plan a dataset: spacing, patch, batch, network."),
    "rules": Command("planning", "rules", "List the constants of all rules, with reasons."),
    "preprocess": Command("preparing", "preprocess", "Preprocess a planned dataset; train does it too."),
    "train": Command("running", "train", "Train a fold or several, or go on with them."),
    "predict": Command("prediction", "predict", "Segment new scans with the trained folds."),
    "evaluate": Command("evaluation", "evaluate", "Score label maps against references."),
    "select": Command("selection", "select", "Choose from what is trained, by held-out cases."),
    "run": Command("running", "run", "Do all of it; the same command goes on."),
    "status": Command("status", "status", "Show what is done, running, missing, failed and why."),
    "benchmark": Command("running", "benchmark", "Run a public dataset; compare with published Dice."),
    "pack": Command("packing", "pack", "Write a trained model to one file to hand on."),
    "info": Command("packing", "info", "Show what a model is."),
    "import-nnunet": Command("importing", "import_nnunet_models", "Take over trained models of nnU-Net v2."),
}


def main() -> None:
    """Run the command line and end the process with its exit code."""
    began_s = time.monotonic()  # Importing a command may take seconds, which count to its budget.
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    show_logs(debug=debug)
    try:
        words = with_explained_value([text for text in arguments if text != "--debug"])
        app = command_line(next((text for text in words if not text.startswith("-")), None))
        with INTERRUPTION.watched(), quiet_threads():
            code = app(args=words or ["--help"], prog_name="autoseg", standalone_mode=False, obj=began_s)
    except typer.TyperException as error:
        command = " ".join(["autoseg", *(text for text in arguments[:1] if text in COMMANDS)])
        err.print(f"Error: {error.format_message().rstrip('.')}. See {command} --help.")
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        without = f" {WITHOUT_RESTART}" if "--restart" in arguments else ""
        err.print(f"Interrupted. The same command goes on from here.{without}")
        sys.exit(INTERRUPTION.exit_code)
    except InterruptionError as error:
        err.print(f"Interrupted. {error}")
        sys.exit(INTERRUPTION.exit_code)
    except AutosegError as error:
        if debug:
            raise
        err.print(f"Error: {error}")
        sys.exit(1)
    except OSError as error:  # Of the system, where no stage has expected it.
        if debug:
            raise
        err.print(f"Error: {not_usable(error)}")
        sys.exit(1)
    sys.exit(code or 0)


def command_line(asked: str | None) -> typer.Typer:
    """Return the command line with one command imported, and all others by name and summary."""
    app = typer.Typer(
        name="autoseg",
        help="Medical image segmentation that configures itself. Add --debug to any command for tracebacks.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    for name, command in COMMANDS.items():
        if name == asked:
            app.command(name)(command.load())
        else:
            app.command(name, help=command.summary)(_not_asked_for)
    return app


def _not_asked_for() -> None:
    raise AssertionError("a command must be imported to be run")


def _show_version(asked: bool) -> None:
    if asked:
        out.print(f"autoseg {autoseg.__version__}")
        raise typer.Exit


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
