"""`autoseg status`."""

from autoseg.cli import options as opt
from autoseg.cli.terminal import out, print_json, show_table
from autoseg.core.workspace import Workspace
from autoseg.pipeline.running.status import StageState, Status, status_of

STATES: tuple[StageState, ...] = ("done", "failed", "out of date", "missing")
"""In the order in which they are told."""


def status(workspace: opt.WorkspaceFolder = opt.WORKSPACE, as_json: opt.Json = False) -> None:
    """Show what is done, running, missing, failed and why."""
    found = status_of(Workspace(workspace))
    if as_json:
        print_json(found)
    else:
        show_status(found)


def show_status(found: Status) -> None:
    """Print how far a workspace is, and the errors of what failed."""
    told = [(state, [stage for stage, known in found.stages.items() if known == state]) for state in STATES]
    stages = " ".join(f"{state.capitalize()}: {', '.join(names)}." for state, names in told if names)
    out.print(f"{found.dataset or 'No dataset yet'}. {stages}")
    rows = [
        (training.configuration, str(training.fold), training.state, str(training.num_epochs or ""))
        for training in found.trainings
    ]
    if rows:
        show_table("Trainings", ("configuration", "fold", "state", "epochs"), rows)
    for training in found.trainings:
        if training.error is not None:
            place = f"{training.configuration}, fold {training.fold}"
            what = "failed" if training.state == "failed" else "failed when asked for last"
            out.print(f"\n{what}  {place}: {training.error}")
    if found.error is not None:
        out.print(f"\nThe last run failed: {found.error}")
    if found.held_out:
        predicted = ", ".join(f"{name} {number}" for name, number in found.held_out.items())
        out.print(f"\nFolds with held-out predictions: {predicted}")
