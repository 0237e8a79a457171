import errno
import json
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from pydantic import Field, ValidationError

from autoseg.core.artefact import Artefact, Record, digest_of, digest_of_arrays, digest_of_file, replacing
from autoseg.core.errors import ArtefactError


class Part(Record):
    name: str
    size_mm: float


class Example(Artefact):
    current_version: ClassVar[int] = 3

    schema_version: int = 3
    parts: tuple[Part, ...]
    counts: dict[str, int] = Field(default={})


EXAMPLE = Example(
    parts=(Part(name="Brägen", size_mm=0.1), Part(name="b", size_mm=1e-9)), counts={"a": 1}, made_from={"x": "0123"}
)


def _names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_saved_then_loaded_is_equal(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "example.json"
    EXAMPLE.save(path)
    assert Example.load(path) == EXAMPLE
    assert Example.load(path).digest() == EXAMPLE.digest()
    assert "Brägen" in path.read_text(encoding="utf-8")
    assert _names_in(path.parent) == ["example.json"]


def test_an_artefact_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        EXAMPLE.counts = {}  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Part(name="a", size_mm=float("nan"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "extra must fit the Example schema"),
        ({"parts": [{"name": "a", "size_mm": "wide"}]}, "parts.0.size_mm must fit the Example schema"),
        ({"schema_version": 2}, r"schema version must be 3, got 2\. Delete it and rerun its stage\."),
        ({"schema_version": 4}, r"schema version must be 3, got 4, which a newer autoseg wrote\. Update autoseg\."),
        ({"schema_version": None}, "schema version must be 3, got None"),
    ],
)
def test_a_document_that_breaks_the_schema_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "example.json"
    path.write_text(json.dumps({**EXAMPLE.model_dump(mode="json"), **change}))
    with pytest.raises(ArtefactError, match=message) as caught:
        Example.load(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [b"", b'{"parts": [', b"\xff\xfe", b"[1, 2]", b"null", b"[" * 100_000])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "example.json"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"example\.json: (must be readable JSON|schema version must be 3)"):
        Example.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="Example must be there, found no file"):
        Example.load(tmp_path / "example.json")


def test_equal_content_has_equal_digests_whatever_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert Example(parts=(), counts={"a": 1, "b": 2}).digest() == Example(parts=(), counts={"b": 2, "a": 1}).digest()


def test_a_change_changes_the_digest() -> None:
    documents: list[object] = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, ["a", 1], None]
    digests = [digest_of(document) for document in documents]
    assert len(set(digests)) == len(documents)
    assert {len(digest) for digest in digests} == {16}
    assert EXAMPLE.digest() != EXAMPLE.model_copy(update={"counts": {"a": 2}}).digest()


def test_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest_of_file(tmp_path / "abc") == "ba7816bf8f01cfea"


def test_replacing_shows_the_new_file_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert _names_in(tmp_path) == ["scan.nii.gz"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "example.json"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ha")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text() == "old"
    assert _names_in(tmp_path) == ["example.json"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "example.json"
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"), replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match=r"^disk full$"), replacing(path):
        raise OSError("disk full")
    with pytest.raises(OSError, match="No space left on device: 'another'"), replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "another")


def test_a_replaced_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with replacing(tmp_path / "replaced") as temporary:
        temporary.write_text("")
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_arrays_are_told_apart_by_type_shape_and_values() -> None:
    array = np.arange(6, dtype=np.float32)
    others = [digest_of_arrays(found) for found in (array.reshape(2, 3), array + 1, array[::-1])]
    assert len({digest_of_arrays(array), digest_of_arrays(array.astype(np.float64)), *others}) == 5
    assert digest_of_arrays(np.arange(12, dtype=np.float32)[::2] / 2) == digest_of_arrays(array)
    assert digest_of_arrays(array[:2], array[2:]) != digest_of_arrays(array)
