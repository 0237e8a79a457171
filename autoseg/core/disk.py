"""What the system says when a file cannot be read or written, and what to do about it."""

import errno
import os
import re
from pathlib import Path

_NOT_WRITABLE = "Make the folder writable, or name another one with --workspace."
_REMEDIES = {
    errno.ENOSPC: "Free some space.",
    errno.EDQUOT: "Free some of the quota.",
    errno.EFBIG: "Raise the limit on the size of files.",
    errno.EROFS: _NOT_WRITABLE,
    errno.EACCES: _NOT_WRITABLE,
    errno.EPERM: _NOT_WRITABLE,
}


def not_writable(path: Path, error: BaseException) -> str:
    """Return the sentence on a file or folder that cannot be written: why, and what to do.

    Args:
        path: That was to be written.
        error: Of the system, or of a library that writes.
    """
    number = _error_number(error)
    reason = os.strerror(number) if number else str(error).partition("\n")[0]
    remedy = _REMEDIES.get(number, "Free some space, or make the folder writable.")
    return f"{path}: must be writable, got: {reason}. {remedy}"


def not_usable(error: OSError) -> str:
    """Return the sentence on an error of the system that no stage has expected: where, why, and what to do."""
    where = "files" if error.filename is None else os.fsdecode(error.filename)
    remedy = _REMEDIES.get(error.errno or 0, "With --debug, the command shows where that was.")
    return f"{where}: must be readable and writable, got: {error.strerror or error}. {remedy} Then give it again."


def _error_number(error: BaseException) -> int:
    """Return the system's number of an error, be it behind another or only in its words; 0 if there is none."""
    for cause in (error, error.__context__):
        if isinstance(cause, OSError) and cause.errno:
            return cause.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0
