"""The format of packed models: a zip that is a workspace with all that prediction needs, and nothing that can run.

`model.json` lists every other member with its size and SHA-256. All members are stored as they are: bytes that do not
depend on a library's compression, and nothing that grows when it is unpacked.
"""

import hashlib
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from autoseg.core.artefact import Artefact, Record
from autoseg.core.errors import ArtefactError, AutosegError
from autoseg.core.temporary import scratch_folder
from autoseg.core.workspace import FoldName, Workspace
from autoseg.select.choose import Together

MANIFEST = "model.json"
CARD = "MODEL_CARD.md"

LARGEST_MANIFEST_BYTES = 1 << 20
"""Of `model.json`, which is read before anything is known of the file."""

MEMBER = re.compile(
    rf"{re.escape(CARD)}|(plan|fingerprint|splits|selection)\.json|crossval/[0-9a-z_+]+/evaluation\.json"
    r"|models/[0-9a-z_]+/fold_([0-9]{1,4}|all-data)/(weights\.safetensors|training\.json)"
)
"""What a packed model may hold beside its manifest."""

FETCH_AGAIN = "Fetch the file again, or have it packed again."

_COPY_BYTES = 1 << 20
_ENCRYPTED = 1


class PackedFile(Record):
    """A member of a packed model.

    Attributes:
        size: In bytes.
        sha256: Of its bytes, 64 hexadecimal digits.
    """

    size: int
    sha256: str


class Licence(Record):
    """Terms under which a model may be used.

    Attributes:
        text: Empty if none is known.
        source: Who says so: whoever packed it, the training data's `dataset.json`, or nobody.
    """

    text: str = ""
    source: Literal["given", "dataset", "none"] = "none"


class PackedModel(Artefact):
    """The manifest of a packed model; its schema version is that of the format.

    Attributes:
        autoseg: Version that packed it.
        dataset: That the networks have learnt from.
        configurations: That predict together.
        folds: Whose networks are averaged.
        licence: Terms of use.
        files: Every other member by its name.
    """

    autoseg: str
    dataset: str
    configurations: Together
    folds: tuple[FoldName, ...]
    licence: Licence
    files: dict[str, PackedFile]


def read_manifest(path: Path) -> PackedModel:
    """Return the manifest of a packed model, without reading anything else.

    Raises:
        ArtefactError: If the file is missing, damaged, no packed model, or of another version of the format.
    """
    with _opened(path) as archive:
        return _manifest(path, archive)


@contextmanager
def unpacked(path: Path, scratch: Path | None = None) -> Iterator[Workspace]:
    """Give a packed model as a temporary workspace, after every member was compared with the manifest.

    Args:
        path: The model.
        scratch: Folder to unpack it in; None for the system's folder of temporary files.

    Raises:
        ArtefactError: If the file is missing, damaged, no packed model or of another version of the format; if a member
            is missing, is not the one that was packed, or has no place in a model. Errors about files of the temporary
            workspace name the packed file.
    """
    with scratch_folder(scratch) as folder:
        _unpack(path, folder)
        try:
            yield Workspace(folder)
        except AutosegError as error:
            if str(folder) not in str(error):
                raise
            raise type(error)(str(error).replace(f"{folder}/", f"{path}, ").replace(str(folder), str(path))) from None


def _unpack(path: Path, folder: Path) -> None:
    with _opened(path) as archive:
        manifest = _manifest(path, archive)
        _require_members(path, archive, manifest)
        manifest.save(Workspace(folder).packed)
        for name, expected in manifest.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, target.open("wb") as stream:
                digest = copy_hashed(source, stream)
            if digest != expected.sha256:
                raise ArtefactError(
                    f"{path}, {name}: must be the file that was packed, got another: its SHA-256 begins with"
                    f" {digest[:8]} instead of {expected.sha256[:8]}. {FETCH_AGAIN}"
                )


def copy_hashed(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy a stream to its end, and return the SHA-256 of its bytes."""
    sha256 = hashlib.sha256()
    while chunk := source.read(_COPY_BYTES):
        sha256.update(chunk)
        target.write(chunk)
    return sha256.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a packed model; whatever a damaged zip raises is named."""
    if not path.is_file():
        found = "a folder. Name the folder with --workspace" if path.is_dir() else "no file. Check the path"
        raise ArtefactError(f"{path}: must be a model that autoseg pack wrote, found {found}.")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ArtefactError(f"{path}: must be a whole model file, got: {reason}. {FETCH_AGAIN}") from None
    except OSError as error:
        raise ArtefactError(
            f"{path}: must be readable, with room to unpack it, got: {error}. Make room, or set TMPDIR to a folder"
            " that has it; else fetch the file again."
        ) from None


def _manifest(path: Path, archive: zipfile.ZipFile) -> PackedModel:
    found = [member for member in archive.infolist() if member.filename == MANIFEST]
    if not found:
        raise ArtefactError(
            f"{path}: must be a model that autoseg pack wrote, found no {MANIFEST} in it. Name another file; nnU-Net's"
            " models are taken over by autoseg import-nnunet."
        )
    is_plain = found[0].compress_type == zipfile.ZIP_STORED and not found[0].flag_bits & _ENCRYPTED
    if not is_plain or found[0].file_size > LARGEST_MANIFEST_BYTES:
        raise ArtefactError(
            f"{path}, {MANIFEST}: must be stored as it is, and of {LARGEST_MANIFEST_BYTES} bytes at most, got"
            f" {found[0].file_size} bytes. {FETCH_AGAIN}"
        )
    return PackedModel.parse(archive.read(found[0]), f"{path}, {MANIFEST}", FETCH_AGAIN)


def _require_members(path: Path, archive: zipfile.ZipFile, manifest: PackedModel) -> None:
    """Refuse members that are not those of the manifest, or no plain files of a model."""
    members = archive.infolist()
    for member in members:
        if reason := _problem(member, manifest):
            raise ArtefactError(
                f"{path}: must hold nothing but a model, got {member.filename!r}, {reason}. {FETCH_AGAIN}"
            )
    names = Counter(member.filename for member in members)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ArtefactError(f"{path}: each member must be there once, got {twice[0]} twice. {FETCH_AGAIN}")
    if missing := sorted(manifest.files.keys() - names.keys()):
        raise ArtefactError(f"{path}: must hold all that {MANIFEST} lists, found no {missing[0]}. {FETCH_AGAIN}")
    for member in members:
        expected = manifest.files.get(member.filename)
        if expected is not None and member.file_size != expected.size:
            raise ArtefactError(
                f"{path}, {member.filename}: must be the file that was packed, of {expected.size} bytes, got"
                f" {member.file_size} bytes. {FETCH_AGAIN}"
            )
    claimed, there = sum(member.file_size for member in members), path.stat().st_size
    if claimed > there:
        raise ArtefactError(
            f"{path}: members must not be larger than the file, got {claimed} bytes in a file of {there}. {FETCH_AGAIN}"
        )


def _problem(member: zipfile.ZipInfo, manifest: PackedModel) -> str | None:
    """Return what is wrong with a member, None for nothing."""
    name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in name:
        return "which is a path out of its folder"
    if kind not in (0, stat.S_IFREG):
        return "which is a link" if kind == stat.S_IFLNK else "which is no plain file"
    if member.flag_bits & _ENCRYPTED:
        return "which is encrypted"
    if member.compress_type != zipfile.ZIP_STORED:
        return f"which would grow from {member.compress_size} to {member.file_size} bytes"
    if name == MANIFEST:
        return None
    if MEMBER.fullmatch(name) is None:
        return "which is no part of a model"
    if name not in manifest.files:
        return f"which {MANIFEST} does not list"
    return None
