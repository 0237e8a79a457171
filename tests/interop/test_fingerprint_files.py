import json
from pathlib import Path
from typing import Any

import pytest

from autoseg.core.errors import DatasetError
from autoseg.core.labels import declare_labels
from autoseg.data.dataset import Case, Dataset
from autoseg.interop.fingerprint_files import DescribedDataset, read_dataset_description, read_fingerprint
from autoseg.plan.planner import make_plan
from autoseg.plan.rulebook import load_rulebook
from tests.plan.published_case import published

DATASET = DescribedDataset("Heart", ("MRI",), declare_labels({0: "background", 1: "left atrium"}))


def _nnunet_fingerprint() -> dict[str, Any]:
    fingerprint, _, _ = published("heart")
    return {
        "shapes_after_crop": [case.cropped_shape for case in fingerprint.cases],
        "spacings": [case.spacing for case in fingerprint.cases],
        "median_relative_size_after_cropping": fingerprint.median_relative_size_after_cropping,
        "foreground_intensity_properties_per_channel": {"0": fingerprint.intensities[0].model_dump()},
    }


def _write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_a_plan_from_nnunets_files_is_the_published_one(tmp_path: Path) -> None:
    description = _write(
        tmp_path / "dataset.json",
        {"name": "Heart", "channel_names": {"0": "MRI"}, "labels": {"background": 0, "left atrium": 1}},
    )
    dataset = read_dataset_description(description)
    assert dataset == DATASET
    fingerprint = read_fingerprint(_write(tmp_path / "dataset_fingerprint.json", _nnunet_fingerprint()), dataset)
    plan = make_plan(fingerprint, dataset, load_rulebook(), "plain")
    _, _, plans = published("heart")
    expected = plans["plain"]["configurations"]["3d_fullres"]
    assert list(plan.configurations["3d_fullres"].patch_size) == expected["patch_size"]
    assert plan.configurations["3d_fullres"].batch_size == expected["batch_size"]
    assert plan.configurations["3d_fullres"].normalization[0].within_mask is True


def test_our_own_files_are_read(tmp_path: Path) -> None:
    fingerprint, heart, _ = published("heart")
    case = Case(name="a", images=("a.nii.gz",), label="a_seg.nii.gz", group="a")
    dataset = Dataset(name="Heart", layout="folders", channels=heart.channels, labels=heart.labels, cases=(case,))
    dataset.save(tmp_path / "dataset.json")
    fingerprint.save(tmp_path / "fingerprint.json")
    described = read_dataset_description(tmp_path / "dataset.json")
    assert described == DATASET
    assert read_fingerprint(tmp_path / "fingerprint.json", described) == fingerprint


@pytest.mark.parametrize(
    ("shape", "noted", "expected"),
    [
        ((1, 30, 20), (999, 1, 1), (1, 1, 1)),
        ((1, 30, 20), (0.7 * 999, 0.7, 0.3), (1, 0.7, 0.3)),
        ((1, 30, 20), (5, 0.7, 0.7), (5, 0.7, 0.7)),
        ((4, 30, 20), (999, 1, 1), (999, 1, 1)),
    ],
)
def test_the_axis_that_pictures_lack_is_one_as_we_read_them(
    tmp_path: Path, shape: tuple[int, ...], noted: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    changed = {**_nnunet_fingerprint(), "shapes_after_crop": [shape], "spacings": [noted]}
    (case,) = read_fingerprint(_write(tmp_path / "dataset_fingerprint.json", changed), DATASET).cases
    assert case.spacing == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacings": [[1, 1, 1]]}, r"dataset_fingerprint.json: must be a fingerprint of 1 channels"),
        ({"foreground_intensity_properties_per_channel": {}}, r"got: KeyError\('0'\)"),
        ({"median_relative_size_after_cropping": "half"}, "valid number"),
    ],
)
def test_a_broken_fingerprint_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = _write(tmp_path / "dataset_fingerprint.json", _nnunet_fingerprint() | change)
    with pytest.raises(DatasetError, match=message):
        read_fingerprint(path, DATASET)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "must be readable JSON"), ("[1]", "must hold a JSON object, got a list"),
     ('{"labels": {"background": 0, "a": 1}}', "must declare labels and channels")],
)  # fmt: skip
def test_a_broken_description_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_dataset_description(tmp_path / "dataset.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"fingerprint.json: must be readable JSON"):
        read_fingerprint(tmp_path / "fingerprint.json", DATASET)
