import json
from pathlib import Path

import pytest

from autoseg.core.errors import DatasetError
from autoseg.core.labels import declare_labels
from autoseg.data.dataset import Case, Dataset
from autoseg.data.declared import declared_labels


def _write(folder: Path, **document: object) -> Path:
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


def test_regions_and_ignored_values_of_nnunet(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    found = declared_labels(_write(tmp_path, labels=labels, regions_class_order=[1, 2]))

    assert [region.name for region in found.foreground] == ["whole", "core"]
    assert found.ignored == 3
    assert found == declared_labels(tmp_path / "dataset.json")


def test_labels_of_a_workspace(tmp_path: Path) -> None:
    labels = declare_labels({1: "organ", 9: "ignore"})
    case = Case(name="a", images=("a.nii.gz",), label="b.nii.gz", group="a")
    Dataset(name="d", layout="folders", channels=("MRI",), labels=labels, cases=(case,)).save(tmp_path / "dataset.json")

    assert declared_labels(tmp_path) == labels


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "a file that declares labels must be there"),
        ("{}", "labels must be declared"),
        ("[]", "must be a JSON object"),
        ("{", "must be valid JSON"),
    ],
)
def test_what_declares_nothing_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=words):
        declared_labels(tmp_path)
