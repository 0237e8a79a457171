"""Archives of public datasets, fetched over HTTP: resumed where they broke off, verified before they are used."""

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

from autoseg.benchmark.registry import Entry
from autoseg.core.errors import DownloadError
from autoseg.core.progress import Progress, Silent

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
"""Without a byte for this long, a connection is taken for dead."""

ATTEMPTS = 3
"""Connections in a row that may fail without bringing a byte."""

PAUSE_S = 1.0
"""Between two connections."""


def fetch(entry: Entry, folder: Path, progress: Progress | None = None) -> Path:
    """Return the archive of a dataset in a folder, downloaded if it is not there yet.

    What has arrived is kept beside it as `.part`, from which this call, and a later one, go on. The archive gets its
    name only once its checksum is right, so that a file of that name is whole.

    The transfer is done with requests, as pooch's downloaders begin anew after a break, which is of no use for archives
    of many gigabytes; pooch computes the checksum.

    Args:
        entry: With address and checksum.
        folder: Where to keep archives; made if it is missing.
        progress: Shows the bytes.

    Raises:
        DownloadError: If there is no connection, the server refuses, the disk is full or the checksum is wrong.
        ValueError: If the entry has no address or no checksum.
    """
    if entry.address is None or entry.md5 is None:
        raise ValueError(f"{entry.name} must have an address and a checksum to be fetched")
    target = folder / Path(urlsplit(entry.address).path).name
    if target.exists():
        return target
    part = target.with_name(f"{target.name}.part")
    with _disk_errors_named(part):
        folder.mkdir(parents=True, exist_ok=True)
        _transfer(entry, part, progress or Silent())
        _verify(entry, part)
        part.replace(target)
    return target


def _transfer(entry: Entry, part: Path, progress: Progress) -> None:
    """Bring a partial file to its full length, over several connections if they break off."""
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer_once(entry, part, progress)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures == ATTEMPTS:
                raise _unreachable(entry, part, _innermost(error)) from None
            log.info("%s: connection failed at %d bytes: %s", entry.address, _size(part), _innermost(error))
            time.sleep(PAUSE_S)
        except requests.RequestException as error:
            raise _unreachable(entry, part, _innermost(error)) from None
        else:
            return


def _transfer_once(entry: Entry, part: Path, progress: Progress) -> None:
    """Fetch over one connection what a partial file lacks.

    Raises:
        requests.RequestException: If the connection fails or breaks off.
        DownloadError: If the server refuses.
    """
    held = _size(part)
    headers = {"Range": f"bytes={held}-", "Accept-Encoding": "identity"} if held else {"Accept-Encoding": "identity"}
    with requests.get(str(entry.address), headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if held and response.status_code == requests.codes.requested_range_not_satisfiable:
            return
        if not response.ok:
            raise _unreachable(entry, part, f"the server's answer {response.status_code} {response.reason}")
        resumes = response.headers.get("Content-Range", "").startswith(f"bytes {held}-")
        if not (response.status_code == requests.codes.partial_content and resumes):
            held = 0
        total = held + int(response.headers.get("Content-Length", 0))
        with part.open("ab" if held else "wb") as stream, progress.task(f"download {entry.name}", total) as task:
            task.position(held)
            for chunk in response.iter_content(CHUNK_BYTES):
                stream.write(chunk)
                task.advance(len(chunk))


def _verify(entry: Entry, part: Path) -> None:
    """Remove a downloaded file and raise a `DownloadError` if its checksum is wrong."""
    found = pooch.file_hash(str(part), alg="md5")
    if found != entry.md5:
        part.unlink()
        raise DownloadError(
            f"{entry.address}: MD5 of the download must be {entry.md5}, got {found}; it was removed. Run the same"
            f" command again; if that fails too, {_by_hand(entry)}."
        )


def _unreachable(entry: Entry, part: Path, reason: str) -> DownloadError:
    kept = f"; {_size(part)} bytes are kept in {part}" if _size(part) else ""
    return DownloadError(
        f"{entry.address}: must be reachable to fetch {entry.name}, got {reason}{kept}. Run the same command again when"
        f" it is, or {_by_hand(entry)}."
    )


def _by_hand(entry: Entry) -> str:
    return f"download {entry.address} on another machine and pass it with `--source FILE_OR_FOLDER`"


@contextmanager
def _disk_errors_named(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"{part}: the disk must have room for the whole archive, got a full disk after {_size(part)} bytes."
                " Make room and run the same command again, which goes on from there, or name a --workspace on another"
                " disk."
            ) from None
        raise DownloadError(
            f"{part}: the folder must be writable, got: {error.strerror or error}. Mend its permissions or name another"
            " --workspace."
        ) from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _innermost(error: BaseException) -> str:
    """Return the plain reason at the bottom of the exceptions that requests wraps around it."""
    reason = getattr(error, "reason", None) or next((part for part in error.args if isinstance(part, Exception)), None)
    return _innermost(reason) if isinstance(reason, Exception) else str(error)
