"""Which files are scans, what their outputs are called, and which models there are."""

from pathlib import Path

import pytest

from autoseg.core.errors import PlanError, PredictionError
from autoseg.core.labels import declare_labels
from autoseg.core.workspace import Workspace
from autoseg.pipeline import ModelChoice
from autoseg.pipeline.prediction import find_scans, load_model
from autoseg.plan.schema import Plan
from tests.preprocess import plans

PLAN = plans.plan().model_copy(update={"channels": ("T1",), "labels": declare_labels({0: "background", 1: "organ"})})
TWO_CHANNELS = PLAN.model_copy(update={"channels": ("T1", "T2")})


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def _found(source: Path, target: Path, plan: Plan) -> dict[str, list[str]]:
    """Return the names of the files of each scan by the path of the output below the target's parent."""
    return {
        str(scan.output.relative_to(target.parent)): [path.name for path in scan.images]
        for scan in find_scans(source, target, plan)
    }


@pytest.mark.parametrize(
    ("target", "output"),
    [
        ("mask.nii.gz", "mask.nii.gz"),
        ("mask.mha", "mask.mha"),
        ("masks", "masks/scan.nii.gz"),
        ("masks.v2", "masks.v2/scan.nii.gz"),
    ],
)
def test_a_file_goes_to_a_file_or_into_a_folder(tmp_path: Path, target: str, output: str) -> None:
    source = _touch(tmp_path, "scan.nii.gz") / "scan.nii.gz"
    assert _found(source, tmp_path / target, PLAN) == {output: ["scan.nii.gz"]}


def test_a_folder_holds_one_scan_per_file(tmp_path: Path) -> None:
    source = _touch(tmp_path / "in", "b.nii.gz", "a.mha", "c.png", "notes.txt", "deeper/d.nii.gz")
    assert _found(source, tmp_path / "out", PLAN) == {
        "out/a.mha": ["a.mha"],
        "out/b.nii.gz": ["b.nii.gz"],
        "out/c.png": ["c.png"],
    }


def test_channel_files_belong_together(tmp_path: Path) -> None:
    source = _touch(tmp_path / "in", "x_0001.nii.gz", "x_0000.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz")
    assert _found(source, tmp_path / "out", TWO_CHANNELS) == {
        "out/x.nii.gz": ["x_0000.nii.gz", "x_0001.nii.gz"],
        "out/y.nii.gz": ["y_0000.nii.gz", "y_0001.nii.gz"],
    }


def test_a_number_that_is_no_channel_stays_in_the_name(tmp_path: Path) -> None:
    source = _touch(tmp_path / "in", "patient_0007.nii.gz", "patient_0000.nii.gz")
    assert _found(source, tmp_path / "out", PLAN) == {
        "out/patient.nii.gz": ["patient_0000.nii.gz"],
        "out/patient_0007.nii.gz": ["patient_0007.nii.gz"],
    }


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("nowhere", "out", "nowhere: a scan or a folder of scans must be there"),
        ("empty", "out", "at least one scan must be in the folder"),
        ("in", "mask.nii.gz", "OUT must be a folder when IN is one"),
        ("twice", "out", "each scan must have a name of its own"),
    ],
)
def test_what_cannot_be_segmented_is_named(tmp_path: Path, source: str, target: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    _touch(tmp_path / "in", "a.nii.gz")
    _touch(tmp_path / "twice", "a.nii.gz", "a.nii")
    with pytest.raises(PredictionError, match=words):
        find_scans(tmp_path / source, tmp_path / target, PLAN)


def test_an_empty_workspace_asks_for_a_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="Run `autoseg plan DATA` first"):
        load_model(Workspace(tmp_path), ModelChoice("3d_fullres", None, "cpu", mirror=True))


@pytest.mark.parametrize("folds", [None, (0, 3)])
def test_untrained_folds_are_named_with_the_command(tmp_path: Path, folds: tuple[int, ...] | None) -> None:
    PLAN.save(Workspace(tmp_path).plan)
    with pytest.raises(PredictionError, match="autoseg train --fold 0 --configuration 3d_fullres"):
        load_model(Workspace(tmp_path), ModelChoice("3d_fullres", folds, "cpu", mirror=True))
