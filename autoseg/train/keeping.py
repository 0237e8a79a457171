"""Trainings that make room for those of other settings or data: they are kept aside, and come back when asked for."""

import logging
import shutil
from pathlib import Path

from autoseg.core.workspace import FoldFolder
from autoseg.train.failure import writing
from autoseg.train.record import begun_in

log = logging.getLogger(__name__)


def make_room(folder: FoldFolder, identity: str) -> None:
    """Set aside the training in a folder if it is another one, and bring back the one that is asked for if it was.

    Args:
        folder: Of the training; the caller holds its lock.
        identity: Of the training that is asked for.

    Raises:
        TrainingError: If the folder cannot be written.
    """
    found = begun_in(folder)
    if found is not None and found.identity == identity:
        return
    again = folder.aside(identity)
    with writing(folder.root):
        if found is not None:
            kept = _set_aside(folder, found.identity)
            log.info("%s: settings or cases have changed. What was trained is kept in %s.", folder.root, kept)
        if again.root.exists():
            _return(again, folder)
            log.info("%s: was trained like this before, and is back.", folder.root)


def set_aside(folder: FoldFolder) -> None:
    """Set aside the training in a folder of a fold that there is no longer; it comes back when it is asked for again.

    Args:
        folder: Of a training that is over or broken off.

    Raises:
        TrainingError: If the folder cannot be written.
    """
    found = begun_in(folder)
    if found is not None:
        with writing(folder.root):
            kept = _set_aside(folder, found.identity)
        log.info("%s: there are fewer folds than before. What was trained is kept in %s.", folder.root, kept)


def _set_aside(folder: FoldFolder, identity: str) -> Path:
    """Move a training aside; return where it is."""
    kept = folder.aside(identity)
    shutil.rmtree(kept.root, ignore_errors=True)
    _leave(folder, kept)
    return kept.root


def _leave(folder: FoldFolder, kept: FoldFolder) -> None:
    """Move a training aside, first what says that it is one: broken off, no half of one is taken for a whole."""
    _move((folder.record, folder.checkpoint, folder.weights, folder.history), kept.root)
    folder.spent.unlink(missing_ok=True)


def _return(kept: FoldFolder, folder: FoldFolder) -> None:
    """Move a training back, last what says that it is one."""
    _move((kept.history, kept.weights, kept.checkpoint, kept.record), folder.root)


def _move(paths: tuple[Path, ...], target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if path.exists():
            path.replace(target / path.name)
