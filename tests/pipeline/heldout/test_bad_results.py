"""Results that do not fit together: each is named, with what to do about it, and none is scored in silence."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoseg import pipeline
from autoseg.core.geometry import Geometry
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.data.image import LabelImage, read_label, write_label
from autoseg.data.splits import Splits
from autoseg.plan.schema import Plan
from autoseg.train.record import TrainingRecord
from tests.cli.commands import run_command
from tests.end_to_end.blobs import LARGE, SMALL, write_blobs
from tests.pipeline.models import leave_training

GEOMETRY = Geometry(spacing=(3.0, 1.0, 1.0))
FOLDS = 3


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose three folds of 2d were trained, as far as its files say."""
    folder = tmp_path_factory.mktemp("results")
    source = write_blobs(folder / "data", shape=(7, 16, 15))
    place = Workspace(folder / "work")
    data = pipeline.DataOptions(group_by=None, num_folds=FOLDS, num_workers=0)
    pipeline.plan(source, place, data, pipeline.PlanOptions("cpu", None), Silent())
    for fold in range(FOLDS):
        _leave_training(place, fold)
    return place


def _leave_training(workspace: Workspace, fold: int) -> None:
    leave_training(workspace, Plan.load(workspace.plan), "2d", fold)


def _without_fold(workspace: Workspace) -> None:
    shutil.rmtree(workspace.fold("2d", 1).root)


def _of_another_plan(workspace: Workspace) -> None:
    path = workspace.fold("2d", 2).record
    TrainingRecord.load(path).model_copy(update={"made_from": {"recipe": "another"}}).save(path)


def _with_an_empty_fold(workspace: Workspace) -> None:
    splits = Splits.load(workspace.splits)
    empty = splits.folds[0].model_copy(update={"validation": ()})
    splits.model_copy(update={"folds": (empty, *splits.folds[1:])}).save(workspace.splits)


def _with_a_fold_too_many(workspace: Workspace) -> None:
    shutil.copytree(workspace.fold("2d", 2).root, workspace.fold("2d", 3).root)


def _untrained(workspace: Workspace) -> None:
    shutil.rmtree(workspace.root / "models")


def _unchanged(_: Workspace) -> None:
    pass


SPOILT_FOR_SELECTION: dict[str, tuple[Callable[[Workspace], None], tuple[str, ...], str]] = {
    "a fold is missing": (
        _without_fold,
        (),
        r"fold 1 of 2d must be trained, found no record\. Run `autoseg train --fold 1 --configuration 2d`",
    ),
    "a fold was trained with another plan": (
        _of_another_plan,
        (),
        r"the plan of the workspace says, got another plan\. Run `autoseg train --fold 2 --configuration 2d --restart`",
    ),
    "fewer cases than folds": (
        _with_an_empty_fold,
        (),
        r"each fold must hold out a case, got 3 folds of 6 cases\. Plan with fewer --num-folds",
    ),
    "a fold of an earlier split": (
        _with_a_fold_too_many,
        (),
        r"fold must be one of 0 to 2, got 3\. Move it away, or plan with as many --num-folds as before",
    ),
    "nothing is trained": (
        _untrained,
        (),
        r"must be trained in all folds, got none\. Run `autoseg run DATA`, or `autoseg train --fold K` for each fold",
    ),
    "a configuration that is not trained": (
        _unchanged,
        ("--configuration", "3d_fullres"),
        r"fold 0 of 3d_fullres must be trained, found no record\. Run `autoseg train --fold 0",
    ),
    "a configuration that the plan lacks": (
        _unchanged,
        ("--configuration", "3d_lowres"),
        r"--configuration: must be one of .*, got 3d_lowres\. Choose one of them",
    ),
    "a weight of no class": (
        _unchanged,
        ("--weight", "liver=2"),
        r"--weight: must name a class, large, small, got liver\. Correct it",
    ),
    "all weights are zero": (
        _unchanged,
        ("--weight", "large=0", "--weight", "small=0"),
        r"--weight: must be 0 or more, and more than 0 for a class, got large=0, small=0\. Correct them",
    ),
}


@pytest.mark.parametrize("what", SPOILT_FOR_SELECTION)
def test_select_names_what_does_not_fit(
    what: str,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil, options, message = SPOILT_FOR_SELECTION[what]
    copied = Workspace(tmp_path / "work")
    shutil.copytree(workspace.root, copied.root)
    spoil(copied)
    code, out, errors = run_command(monkeypatch, capsys, "select", "--workspace", copied.root, *options)
    assert (code, out) == (1, "")
    assert re.search(message, " ".join(errors.split())), errors
    assert not copied.selection.exists()


def _folders(folder: Path) -> tuple[Path, Path]:
    """Write predictions and references of two cases that fit each other."""
    label = np.zeros((4, 8, 8), dtype=np.uint8)
    label[1:3, 2:6, 2:6] = LARGE
    label[2, 3:5, 3:5] = SMALL
    for side in ("predictions", "references"):
        for name in ("a", "b"):
            write_label(folder / side / f"{name}.nii.gz", LabelImage(label, GEOMETRY))
    return folder / "predictions", folder / "references"


def _one_too_many(predictions: Path, _: Path) -> None:
    shutil.copy(predictions / "a.nii.gz", predictions / "c.nii.gz")


def _one_too_few(predictions: Path, _: Path) -> None:
    (predictions / "b.nii.gz").unlink()


def _other_label(predictions: Path, _: Path) -> None:
    found = read_label(predictions / "b.nii.gz")
    write_label(predictions / "b.nii.gz", LabelImage(np.where(found.array == LARGE, 5, found.array), GEOMETRY))


def _other_reference_label(_: Path, references: Path) -> None:
    found = read_label(references / "a.nii.gz")
    write_label(references / "a.nii.gz", LabelImage(np.where(found.array == SMALL, 9, found.array), GEOMETRY))


def _other_shape(predictions: Path, _: Path) -> None:
    write_label(predictions / "a.nii.gz", LabelImage(np.zeros((4, 8, 9), dtype=np.uint8), GEOMETRY))


def _other_spacing(predictions: Path, _: Path) -> None:
    found = read_label(predictions / "a.nii.gz")
    write_label(predictions / "a.nii.gz", LabelImage(found.array, Geometry(spacing=(3.0, 1.0, 1.5))))


def _truncated(predictions: Path, _: Path) -> None:
    path = predictions / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:60])


def _emptied(predictions: Path, references: Path) -> None:
    for folder in (predictions, references):
        shutil.rmtree(folder)
        folder.mkdir()


SPOILT_FOR_EVALUATION: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a prediction too many": (
        _one_too_many,
        r"c\.nii\.gz: a prediction must have a reference of its name, found none in .*references\. Add its reference",
    ),
    "a prediction too few": (
        _one_too_few,
        r"b\.nii\.gz: a reference must have a prediction of its name, found none in .*predictions\. Predict b, or",
    ),
    "a label that is not declared, predicted": (
        _other_label,
        r"predictions/b\.nii\.gz: label values must be among \(0, 3, 7\), got 5\. Declare these values as classes, or",
    ),
    "a label that is not declared, in a reference": (
        _other_reference_label,
        r"references/a\.nii\.gz: label values must be among \(0, 3, 7\), got 9\. Declare",
    ),
    "another shape": (_other_shape, r"predictions/a\.nii\.gz: .*shape.*Write the prediction of a on the grid"),
    "another spacing": (_other_spacing, r"predictions/a\.nii\.gz: .*spacing.*Write the prediction of a on the grid"),
    "a damaged file": (_truncated, r"predictions/a\.nii\.gz: .*\. Fetch or export the file again"),
    "no files": (_emptied, r"predictions: must hold label files, found none\. Correct the path"),
}


@pytest.mark.parametrize("what", SPOILT_FOR_EVALUATION)
def test_evaluate_names_what_does_not_fit(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = SPOILT_FOR_EVALUATION[what]
    predictions, references = _folders(tmp_path)
    spoil(predictions, references)
    labels = tmp_path / "dataset.json"
    labels.write_text('{"labels": {"background": 0, "large": 3, "small": 7}}')
    code, out, errors = run_command(
        monkeypatch, capsys, "evaluate", predictions, references, "--labels", labels, "--workers", "0"
    )
    assert (code, out) == (1, "")
    assert re.search(message, " ".join(errors.split())), errors
