"""The history of trainings for TensorBoard."""

import logging
import shutil
from pathlib import Path

import pandas as pd

from autoseg.core.errors import AutosegError
from autoseg.core.workspace import FoldName, Workspace
from autoseg.plan.schema import ConfigurationName

log = logging.getLogger(__name__)

TAGS = {"training_loss": "loss/training", "validation_loss": "loss/validation", "dice": "dice/mean"}
"""Names of columns of the history in TensorBoard; a class's Dice is `dice/<class>`, others are what they are."""


class Board:
    """Writes each epoch's row of the history as scalars, one folder per training."""

    def __init__(self, workspace: Workspace) -> None:
        """Hold no file open yet.

        Raises:
            AutosegError: If the package tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise AutosegError(
                "--tensorboard: the package tensorboard must be installed, found none."
                " Run `pip install tensorboard`, or leave the option out."
            ) from None
        self._make_writer = SummaryWriter
        self._workspace = workspace
        self._open: tuple[Path, SummaryWriter] | None = None

    def after_epoch(self, configuration: ConfigurationName, fold: FoldName) -> None:
        """Write the latest row; the first time, all rows in place of what an earlier run of the training wrote.

        What cannot be written is only warned of.
        """
        folder = board_folder(self._workspace) / f"{configuration}_fold_{fold}"
        try:
            self._write(folder, configuration, fold)
        except OSError as error:
            log.warning("%s: could not be written, got: %s. The training goes on.", folder, error)
            self._open = None

    def _write(self, folder: Path, configuration: ConfigurationName, fold: FoldName) -> None:
        rows = pd.read_csv(self._workspace.fold(configuration, fold).history)
        if self._open is None or self._open[0] != folder:
            self.close()
            shutil.rmtree(folder, ignore_errors=True)
            self._open = folder, self._make_writer(folder)
        else:
            rows = rows.tail(1)
        writer = self._open[1]
        for row in rows.to_dict("records"):
            epoch = int(row.pop("epoch"))
            for column, value in row.items():
                tag = TAGS.get(str(column), str(column).replace("dice_", "dice/", 1))
                writer.add_scalar(tag, float(value), epoch)
        writer.flush()

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


def board_folder(workspace: Workspace) -> Path:
    """Return the folder for `tensorboard --logdir`."""
    return workspace.report / "tensorboard"
