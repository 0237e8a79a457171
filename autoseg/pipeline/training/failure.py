"""Why a training has failed, as it is kept beside it; whether one runs."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import filelock

from autoseg.core.artefact import Artefact
from autoseg.core.errors import AutosegError, InterruptionError
from autoseg.core.workspace import FoldFolder


class Failure(Artefact):
    """The last error of a training.

    Attributes:
        error: Its message.
    """

    error: str


@contextmanager
def noting_failure(folder: FoldFolder) -> Iterator[None]:
    """Keep the message of an expected error within the block beside the training, in place of an earlier one."""
    with suppress(OSError):  # Where nothing can be written, the training itself says so.
        if not is_held(folder):
            folder.failure.unlink(missing_ok=True)
    try:
        yield
    except InterruptionError:
        raise
    except AutosegError as error:
        with suppress(OSError):  # That nothing can be written here may be why.
            # A lock that is held elsewhere says nothing about the training that holds it.
            if not is_held(folder):
                Failure(error=str(error)).save(folder.failure)
        raise
    folder.failure.unlink(missing_ok=True)


def is_held(folder: FoldFolder) -> bool:
    """Return whether a process trains in a folder: whether its lock cannot be taken for a moment."""
    if not folder.lock.exists():
        return False
    lock = filelock.FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False
