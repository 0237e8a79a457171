"""Typed artefacts: immutable, validated records that the stages hand to each other as readable JSON."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from autoseg.core.errors import ArtefactError
from autoseg.core.temporary import temporary_prefix


class Record(BaseModel):
    """A frozen part of an artefact; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Artefact(Record):
    """The result of a stage, saved as JSON with a schema version and the digests of what it was made from.

    A subclass raises `current_version` whenever its JSON changes meaning, so that an old file is refused by name
    instead of being misread.
    """

    current_version: ClassVar[int] = 1

    schema_version: int = 1
    made_from: dict[str, str] = {}
    """Digest of each input, by its name."""

    def digest(self) -> str:
        """Return 16 hexadecimal digits of the SHA-256 of the content; equal content gives equal digits."""
        return digest_of(self.model_dump(mode="json"))

    def text(self) -> str:
        """Return the artefact as its file has it."""
        document = {**self.model_dump(mode="json"), "schema_version": self.current_version}
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    def save(self, path: Path) -> None:
        """Write the artefact to `path`, whole or not at all; a file that says the same already is left alone."""
        text = self.text()
        if path.exists() and path.read_bytes() == text.encode():
            return
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an artefact.

        Raises:
            ArtefactError: If the file is missing, not JSON, of another schema version, or breaks the schema.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise ArtefactError(
                f"{path}: a {cls.__name__} must be there, found no file. Run the stage that writes it."
            ) from None
        except OSError as error:
            raise ArtefactError(f"{path}: must be readable, got: {error}. Delete it and rerun its stage.") from None
        return cls.parse(content, str(path), "Delete it and rerun its stage.")

    @classmethod
    def parse(cls, content: bytes, where: str, remedy: str) -> Self:
        """Return the artefact that the bytes of a file stand for.

        Args:
            content: JSON, UTF-8.
            where: Name of the file for errors.
            remedy: What to do about a file that cannot be used, a sentence.

        Raises:
            ArtefactError: If it is not JSON, of another schema version, or breaks the schema.
        """
        try:
            document = json.loads(content.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ArtefactError(f"{where}: must be readable JSON, got: {error}. {remedy}") from None
        version = document.get("schema_version") if isinstance(document, dict) else None
        if version != cls.current_version:
            is_newer = isinstance(version, int) and version > cls.current_version
            got, do = (f"{version}, which a newer autoseg wrote", "Update autoseg.") if is_newer else (version, remedy)
            raise ArtefactError(f"{where}: schema version must be {cls.current_version}, got {got}. {do}")
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the document"
            raise ArtefactError(
                f"{where}: {place} must fit the {cls.__name__} schema, got: {first['msg']}. {remedy}"
            ) from None


def digest_of(document: object) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a JSON-able value, independent of the order of keys."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def digest_of_file(path: Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def digest_of_arrays(*arrays: NDArray[Any]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of types, shapes and values of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:16]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, and move it over `path` once the block ends without an error.

    The temporary name keeps the suffixes of `path`, for libraries that choose a format by suffix. The bytes are on the
    disk before the move, so that a crash leaves the old file or the new one, never half of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffixes = "".join(path.suffixes[-2:])
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=temporary_prefix(), suffix=suffixes)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_current_umask())
        temporary.replace(path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)  # The system names none where a write fails.
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
