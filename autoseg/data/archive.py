"""Archives of datasets, unpacked so that nothing of them lands outside their folder."""

import logging
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from autoseg.core.artefact import digest_of
from autoseg.core.errors import DatasetError

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")

_MARKER = ".autoseg-unpacked"
MOST_EXPANSION = 200
"""An archive that unpacks to more than this many times its size is no dataset and no model, but made to fill disks."""

ALWAYS_ALLOWED_BYTES = 1 << 30
"""That any archive may unpack to: small ones of empty scans expand more than large ones."""

_COPY_BYTES = 1 << 20
_logger = logging.getLogger(__name__)


def archive_suffix(path: Path) -> str | None:
    """Return the suffix that makes a file name an archive, as in `ARCHIVE_SUFFIXES`, or None."""
    return next((suffix for suffix in ARCHIVE_SUFFIXES if path.name.lower().endswith(suffix)), None)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive into a folder of its name below `folder`, and return that.

    An archive of the same name, size and time of change is not unpacked twice. The files appear under their final name
    all at once, so that an interrupted call leaves nothing that could be taken for a whole dataset.

    Links are stored as copies of what they point to inside the archive; no link is ever made. Files that macOS adds
    (`._*`, `.DS_Store`, `__MACOSX`) are left out.

    Args:
        archive: A `.tar`, `.tar.gz`, `.tgz` or `.zip` file.
        folder: Created if needed.

    Raises:
        DatasetError: If the archive is missing, damaged or encrypted, has a member that would leave its folder, is a
            device, or is a link to something that the archive does not hold, or if it unpacks to far more than it is or
            than there is room for.
    """
    suffix = archive_suffix(archive)
    if suffix is None or not archive.is_file():
        raise DatasetError(
            f"{archive}: a dataset must be a folder or an archive ({', '.join(ARCHIVE_SUFFIXES)}), got neither. "
            "Check the path."
        )
    target = folder / archive.name[: -len(suffix)]
    about = archive.stat()
    mark = digest_of([archive.name, about.st_size, about.st_mtime_ns])
    marker = target / _MARKER
    if marker.is_file() and marker.read_text(encoding="utf-8") == mark:
        return target
    _logger.info("unpacking %s", archive)
    partial = folder / f".unpacking-{target.name}"
    with _damage_named(archive):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        extract = _extract_zip if suffix == ".zip" else _extract_tar
        try:
            extract(archive, partial)
            (partial / _MARKER).write_text(mark, encoding="utf-8")
            if target.exists():
                shutil.rmtree(target)
            partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


@contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, LZMAError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(":- ") if str(error) else type(error).__name__
        raise DatasetError(f"{archive}: an archive must be whole, got: {reason}. Fetch it again.") from None
    except OSError as error:
        raise DatasetError(
            f"{archive}: it must be possible to unpack it, got: {error}. Make room or fetch it again."
        ) from None


class _Room:
    """Counts what an archive unpacks to, before it is written."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self._archive = archive
        self._most = max(ALWAYS_ALLOWED_BYTES, MOST_EXPANSION * archive.stat().st_size)
        self._free = shutil.disk_usage(folder).free
        self._claimed = 0

    def claim(self, num_bytes: int) -> None:
        """Count a member.

        Raises:
            DatasetError: If all of them together are too large.
        """
        self._claimed += num_bytes
        if self._claimed > self._most:
            raise DatasetError(
                f"{self._archive}: an archive must not unpack to more than {MOST_EXPANSION} times its size, got"
                f" {self._claimed} bytes from {self._archive.stat().st_size}. Fetch it from a place that you trust, or"
                " unpack it yourself."
            )
        if self._claimed > self._free:
            raise DatasetError(
                f"{self._archive}: there must be room to unpack it, got {self._free} bytes for {self._claimed} and"
                " more. Make room, or name another --workspace."
            )


def _extract_tar(archive: Path, folder: Path) -> None:
    room = _Room(archive, folder)
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            destination = _destination(archive, member.name, folder)
            if destination is None:
                continue
            if member.isdir():
                destination.mkdir(parents=True, exist_ok=True)
                continue
            content = _tar_content(archive, tar, member)
            with content:
                room.claim(content.seek(0, os.SEEK_END))
                content.seek(0)
                _copy(content, destination)
        _require_end_mark(tar)


def _tar_content(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    if member.isfile() or member.islnk() or member.issym():
        try:
            content = tar.extractfile(member)
        except (KeyError, RecursionError):
            content = None
        if content is not None:
            return content
    kind = f"a link to {member.linkname}" if member.islnk() or member.issym() else "a device"
    raise _refused(archive, member.name, kind)


def _require_end_mark(tar: tarfile.TarFile) -> None:
    """Refuse a tar file that ends between two members: the format ends with empty blocks, which tarfile forgives."""
    if tar.fileobj is None:
        return
    tar.fileobj.seek(tar.offset)
    if len(tar.fileobj.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("unexpected end of data")


def _extract_zip(archive: Path, folder: Path) -> None:
    room = _Room(archive, folder)
    with zipfile.ZipFile(archive) as source:
        for member in source.infolist():
            destination = _destination(archive, member.filename, folder)
            if destination is None:
                continue
            if member.is_dir():
                destination.mkdir(parents=True, exist_ok=True)
                continue
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise _refused(archive, member.filename, "a link" if stat.S_ISLNK(mode) else "a device")
            if member.flag_bits & 1:
                raise _refused(archive, member.filename, "encrypted")
            room.claim(member.file_size)
            with source.open(member) as content:
                _copy(content, destination)


def _destination(archive: Path, name: str, folder: Path) -> Path | None:
    """Return where a member goes, or None for one that is left out."""
    slashed = name.replace("\\", "/")
    path = PurePosixPath(slashed)
    has_drive = len(slashed) > 1 and slashed[1] == ":"
    if path.is_absolute() or ".." in path.parts or has_drive or "\0" in name:
        raise _refused(archive, name, "a path out of the folder")
    is_litter = any(part.startswith("._") or part in (".DS_Store", "__MACOSX") for part in path.parts)
    return None if is_litter else folder / path


def _copy(content: IO[bytes], destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    with destination.open("wb") as stream:
        shutil.copyfileobj(content, stream, _COPY_BYTES)


def _refused(archive: Path, name: str, kind: str) -> DatasetError:
    return DatasetError(
        f"{archive}: members must be plain files and folders inside the archive, got {name!r}, which is {kind}. "
        "Pack it again without this member."
    )
