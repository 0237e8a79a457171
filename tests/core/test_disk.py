import errno
import os
from pathlib import Path

import pytest

from autoseg.core.disk import not_usable, not_writable


def test_the_cause_is_found_behind_what_a_library_says() -> None:
    said = RuntimeError("unexpected pos 64 vs 0")
    said.__context__ = OSError(errno.ENOSPC, "No space left on device")
    expected = "file: must be writable, got: No space left on device. Free some space."
    assert not_writable(Path("file"), said) == expected


def test_the_cause_is_found_in_the_words_of_a_library() -> None:
    said = RuntimeError("Error while serializing: I/O error: File too large (os error 27)")
    assert not_writable(Path("file"), said).startswith("file: must be writable, got: File too large. Raise the limit")


def test_a_cause_without_a_number_is_repeated() -> None:
    said = RuntimeError("unexpected pos 64 vs 0\nframe #0: ...")
    assert not_writable(Path("file"), said).startswith("file: must be writable, got: unexpected pos 64 vs 0. Free")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS), "work/plan.json"),
            "work/plan.json: must be readable and writable, got: Read-only file system. Make the folder writable,",
        ),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            "files: must be readable and writable, got: No space left on device. Free some space. Then",
        ),
        (
            OSError(errno.EMFILE, os.strerror(errno.EMFILE), b"scan"),
            "scan: must be readable and writable, got: Too many open files. With --debug, the command shows",
        ),
        (OSError("the stream has ended"), "files: must be readable and writable, got: the stream has ended. With"),
    ],
)
def test_an_error_that_nothing_expects_is_one_sentence(error: OSError, sentence: str) -> None:
    assert not_usable(error).startswith(sentence)
