"""Stages are run once for the same input, and again when it changes."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.core.errors import DatasetError, PlanError
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.splits import Splits
from tests.end_to_end.blobs import write_blobs
from tests.preprocess import plans

DATA = pipeline.DataOptions(group_by=None, num_folds=3, num_workers=1)
PATIENTS = replace(DATA, group_by=r"(pat\d+)_")
PLANNING = pipeline.PlanOptions(preset=None, rules=None)


def _times(workspace: Workspace) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in workspace.root.glob("*.json")}


def test_planning_again_changes_nothing(tmp_path: Path) -> None:
    data, workspace = write_blobs(tmp_path / "data", num_cases=3), Workspace(tmp_path / "work")
    first = pipeline.plan(data, workspace, DATA, PLANNING, Silent())
    written = _times(workspace)
    made = {"check.json", "dataset.json", "fingerprint.json", "plan.json", "planning.json", "splits.json"}
    assert set(written) == made
    assert pipeline.plan(data, workspace, DATA, PLANNING, Silent()) == first
    assert _times(workspace) == written


def test_a_changed_image_is_seen(tmp_path: Path) -> None:
    data, workspace = write_blobs(tmp_path / "data", num_cases=3), Workspace(tmp_path / "work")
    pipeline.plan(data, workspace, DATA, PLANNING, Silent())
    written = _times(workspace)
    image = min((data / "images").iterdir())
    os.utime(image, ns=(1, 1))
    pipeline.plan(data, workspace, DATA, PLANNING, Silent())
    changed = {name for name, moment in _times(workspace).items() if moment != written[name]}
    assert changed == set(written) - {"planning.json"}


def test_another_preset_changes_the_plan_alone(tmp_path: Path) -> None:
    data, workspace = write_blobs(tmp_path / "data", num_cases=3), Workspace(tmp_path / "work")
    pipeline.plan(data, workspace, DATA, PLANNING, Silent())
    written = _times(workspace)
    planned = pipeline.plan(data, workspace, DATA, pipeline.PlanOptions("cpu", None), Silent())
    assert planned.preset == "cpu"
    assert {name for name, moment in _times(workspace).items() if moment != written[name]} == {
        "plan.json",
        "planning.json",
    }


def test_a_dataset_with_errors_is_not_planned(tmp_path: Path) -> None:
    data, workspace = write_blobs(tmp_path / "data", num_cases=3), Workspace(tmp_path / "work")
    for path in sorted((data / "images").iterdir())[:2]:
        path.write_bytes(b"not an image")
    with pytest.raises(DatasetError, match="must be free of errors to be planned, got 2"):
        pipeline.plan(data, workspace, DATA, PLANNING, Silent())
    assert not workspace.plan.exists()


def test_groups_stay_until_others_are_named(tmp_path: Path) -> None:
    data, workspace = write_blobs(tmp_path / "data", num_cases=6), Workspace(tmp_path / "work")
    pipeline.plan(data, workspace, PATIENTS, PLANNING, Silent())
    written = _times(workspace)
    paired = Splits.load(workspace.splits)
    assert all(len({name[:4] for name in fold.validation}) == 1 for fold in paired.folds)

    pipeline.plan(data, workspace, DATA, PLANNING, Silent())
    assert _times(workspace) == written

    pipeline.plan(data, workspace, replace(DATA, group_by=".+"), PLANNING, Silent())
    assert {case.name: case.group for case in Dataset.load(workspace.dataset).cases} == {
        case: case for fold in paired.folds for case in fold.validation
    }
    assert Splits.load(workspace.splits) != paired


def test_a_case_that_has_come_to_grouped_ones_wants_a_group(tmp_path: Path) -> None:
    data, workspace = write_blobs(tmp_path / "data", num_cases=6), Workspace(tmp_path / "work")
    pipeline.plan(data, workspace, PATIENTS, PLANNING, Silent())
    for folder in ("images", "labels"):
        first = min((data / folder).iterdir())
        shutil.copy(first, first.with_name("pat9_scan9.nii.gz"))
    with pytest.raises(DatasetError, match="--group-by: must be given again when cases have come"):
        pipeline.plan(data, workspace, DATA, PLANNING, Silent())


@pytest.mark.parametrize(("asked", "chosen"), [(None, "3d_fullres"), ("2d", "2d")])
def test_choose_configuration(asked: str | None, chosen: str) -> None:
    plan = plans.plan()
    both = plan.model_copy(update={"configurations": dict.fromkeys(("2d", "3d_fullres"), _any(plan.configurations))})
    assert pipeline.choose_configuration(both, asked) == chosen
    with pytest.raises(PlanError, match="must be one of 2d, 3d_fullres, got 3d"):
        pipeline.choose_configuration(both, "3d")


def _any(configurations: dict) -> object:  # type: ignore[type-arg]
    return next(iter(configurations.values()))
