"""Names of files under work, by which those of a killed process are known and removed."""

import os
import platform
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = re.compile(r"\.writing-(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-.+")


def temporary_prefix() -> str:
    """Return how the name of a file under work begins: hidden, with the machine and the process that writes it."""
    return f".writing-{_machine()}-{os.getpid()}-"


@contextmanager
def scratch_folder(place: Path | None = None) -> Iterator[Path]:
    """Give a folder for the block, and remove what killed processes have left of theirs in the same place.

    Args:
        place: Folder in which it is made; None for the system's folder of temporary files.
    """
    remove_abandoned(place or Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=temporary_prefix(), dir=place) as name:
        yield Path(name)


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that no longer run have left under work in a folder, files and folders.

    What other machines or other users write, and what has other names, is left alone; so is a file whose process number
    has been given to another program meanwhile, until that ends.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is None or match["machine"] != _machine() or _is_running(int(match["process"])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(FileNotFoundError, PermissionError):
                path.unlink()


def remove_abandoned_below(folder: Path) -> None:
    """Do the same in a folder and in all folders below it."""
    for place, folders, _ in os.walk(folder):
        remove_abandoned(Path(place))
        folders[:] = [name for name in folders if _NAME.fullmatch(name) is None]


def _machine() -> str:
    """Return eight digits that stand for the name of this machine, which may hold what no file name can."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
