"""What the command line hangs onto a training: signals that end it, pictures of how it goes."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from autoseg.cli.interruption import INTERRUPTION
from autoseg.cli.terminal import err, show_logs
from autoseg.core.workspace import FoldName, Workspace
from autoseg.plan.schema import ConfigurationName
from autoseg.report.board import Board, board_folder
from autoseg.report.live import LiveCurves
from autoseg.train.hooks import Hooks


@contextmanager
def training_hooks(workspace: Workspace, *, tensorboard: bool) -> Iterator[Hooks]:
    """Give the hooks of the trainings of a command.

    Raises:
        AutosegError: If TensorBoard is asked for and missing.
    """
    with ExitStack() as stack:
        shows = [LiveCurves(workspace).after_epoch]
        if tensorboard:
            shows.append(stack.enter_context(closing(Board(workspace))).after_epoch)
            err.print(f"For TensorBoard: tensorboard --logdir {board_folder(workspace)}")

        def after_epoch(configuration: ConfigurationName, fold: FoldName) -> None:
            for show in shows:
                show(configuration, fold)

        yield Hooks(INTERRUPTION.postponed, after_epoch)


@contextmanager
def job_hooks(workspace: Workspace, *, tensorboard: bool) -> Iterator[Hooks]:
    """Give the hooks of a training in a process of its own, which knows nothing of the command that it is part of."""
    show_logs(debug=False)
    with INTERRUPTION.watched(), training_hooks(workspace, tensorboard=tensorboard) as hooks:
        yield hooks
