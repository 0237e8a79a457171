"""`autoseg status`."""

from autoseg.cli import options as opt
from autoseg.cli.terminal import out, print_json, show_table
from autoseg.core.workspace import Workspace
from autoseg.pipeline.training.status import Status, status_of


def status(workspace: opt.WorkspaceFolder = opt.WORKSPACE, as_json: opt.Json = False) -> None:
    """Show what is done, running, missing, failed and why."""
    found = status_of(Workspace(workspace))
    if as_json:
        print_json(found)
    else:
        show_status(found)


def show_status(found: Status) -> None:
    """Print how far a workspace is, and the errors of what failed."""
    done = [stage for stage, is_done in found.stages.items() if is_done]
    missing = [stage for stage, is_done in found.stages.items() if not is_done]
    out.print(f"{found.dataset}. Done: {', '.join(done)}. Missing: {', '.join(missing) or 'nothing'}.", markup=False)
    rows = [
        (training.configuration, str(training.fold), training.state, str(training.num_epochs or ""))
        for training in found.trainings
    ]
    show_table("Trainings", ("configuration", "fold", "state", "epochs"), rows)
    for training in found.trainings:
        if training.error is not None:
            out.print(f"\nfailed  {training.configuration}, fold {training.fold}: {training.error}", markup=False)
    if found.held_out:
        predicted = ", ".join(f"{name} {number}" for name, number in found.held_out.items())
        out.print(f"\nFolds with held-out predictions: {predicted}", markup=False)
