"""Why a training has failed, as it is kept beside it; whether one runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from autoseg.core.artefact import Artefact
from autoseg.core.errors import AutosegError, InterruptionError
from autoseg.core.workspace import FoldFolder


class Failure(Artefact):
    """The last error of a training, or of a run.

    Attributes:
        error: Its message.
    """

    error: str


@contextmanager
def noting(place: Path, may_write: Callable[[], bool]) -> Iterator[None]:
    """Keep the message of an expected error within the block, in place of an earlier one.

    Args:
        place: File of the `Failure`.
        may_write: Whether the message is about what lies there.
    """
    with suppress(OSError):  # Where nothing can be written, the work itself says so.
        if may_write():
            place.unlink(missing_ok=True)
    try:
        yield
    except InterruptionError:
        raise
    except AutosegError as error:
        with suppress(OSError):  # That nothing can be written here may be why.
            if may_write():
                Failure(error=str(error)).save(place)
        raise


@contextmanager
def noting_failure(folder: FoldFolder) -> Iterator[None]:
    """Keep why a training has failed beside it; what another process trains there meanwhile has not."""
    with noting(folder.failure, lambda: not is_held(folder)):
        yield
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
