"""A picture of a training's curves that grows while it runs."""

import logging
import time
from pathlib import Path

from autoseg.core.errors import ArtefactError
from autoseg.core.workspace import FoldName, Workspace
from autoseg.plan.schema import ConfigurationName
from autoseg.report.picture import write_curves

log = logging.getLogger(__name__)

MIN_SECONDS_BETWEEN = 30.0
LARGEST_SHARE = 0.01
"""Of the time, that drawing may take."""


def curves_path(workspace: Workspace, configuration: ConfigurationName, fold: FoldName) -> Path:
    """Return the picture of a training's curves."""
    return workspace.report / f"{configuration}_fold_{fold}_curves.png"


class LiveCurves:
    """Draws the curves of a training after an epoch, seldom enough to cost next to nothing."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._next_s = 0.0

    def after_epoch(self, configuration: ConfigurationName, fold: FoldName) -> None:
        """Draw, unless the last time is too short ago; a picture that cannot be written is only warned of."""
        began = time.monotonic()
        if began < self._next_s:
            return
        path = curves_path(self._workspace, configuration, fold)
        try:
            write_curves(path, self._workspace.fold(configuration, fold).history)
        except (ArtefactError, OSError) as error:
            log.warning("%s: the curves could not be drawn, got: %s. The training goes on.", path, error)
        ended = time.monotonic()
        self._next_s = ended + max(MIN_SECONDS_BETWEEN, (ended - began) / LARGEST_SHARE)
