"""All of the job: two configurations, all folds, selection, a model that predicts; repeated without change."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.pipeline.prediction.models import load_selection
from autoseg.pipeline.running.status import status_of
from autoseg.report.run import draw_run
from autoseg.select.choose import Selection
from tests.end_to_end.blobs import write_blobs, write_tiny_rules

Finished = tuple[Workspace, pipeline.RunRequest, pipeline.RunResult]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of everything, with trainings that are far too short."""
    folder = tmp_path_factory.mktemp("full")
    workspace = Workspace(folder / "work")
    request = pipeline.RunRequest(
        source=write_blobs(folder / "data", num_cases=4),
        data=pipeline.DataOptions(group_by=None, num_folds=2, num_workers=0),
        planning=pipeline.PlanOptions(preset="cpu", rules=write_tiny_rules(folder / "rules")),
        num_epochs=2,
        device="cpu",
        seed=1,
    )
    return workspace, request, pipeline.run(workspace, request, Silent())


@pytest.mark.slow
def test_everything_is_trained_and_the_best_is_selected(finished: Finished) -> None:
    workspace, _, result = finished
    assert result.trained == ("3d_fullres", "2d")
    assert [list(workspace.folds(name)) for name in result.trained] == [[0, 1], [0, 1]]
    assert result.selection is not None
    assert len(result.selection.candidates) == 3
    assert result.reached == result.selection.configurations
    assert result.evaluation.mean_foreground_dice == pytest.approx(result.selection.candidates[0].score)
    assert len(result.evaluation.cases) == 4
    assert Selection.load(workspace.selection) == result.selection


@pytest.mark.slow
def test_the_same_run_again_writes_nothing_but_its_result(finished: Finished) -> None:
    workspace, request, result = finished
    before = _files_and_times(workspace)
    again = pipeline.run(workspace, request, Silent())
    assert again.model_copy(update={"seconds": result.seconds}) == result
    after = _files_and_times(workspace)
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} <= {"run.json"}


@pytest.mark.slow
def test_the_model_is_ready_to_predict(finished: Finished, tmp_path: Path) -> None:
    workspace, request, result = finished
    choice = pipeline.ModelChoice(result.reached[0], None, "cpu", mirror=True)
    scan = min((request.source / "images").iterdir())
    asked = pipeline.Request(scan, tmp_path / "mask.nii.gz")
    (outcome,) = pipeline.predict(workspace, choice, asked, Silent(), load_selection(workspace)).cases
    assert outcome.error is None
    assert (tmp_path / "mask.nii.gz").exists()


@pytest.mark.slow
def test_pictures_show_the_run(finished: Finished) -> None:
    workspace, _, result = finished
    pictures = draw_run(workspace, result)
    assert all(path.exists() for path in pictures)
    names = {path.name for path in pictures}
    overlays = {f"{'+'.join(result.reached)}_{place}_case.png" for place in ("best", "median", "worst")}
    assert names == {"dice_per_case.png", *overlays, *(f"{name}_curves.png" for name in result.trained)}


@pytest.mark.slow
def test_some_folds_of_several_configurations_are_scored_without_a_selection(finished: Finished) -> None:
    workspace, request, _ = finished
    result = pipeline.run(workspace, replace(request, configurations=("2d", "3d_fullres"), folds=(1,)), Silent())
    assert result.selection is None
    assert result.reached == ("3d_fullres",)
    assert list(result.others) == ["2d"]
    assert {len(found.cases) for found in (result.evaluation, *result.others.values())} == {2}
    whole = pipeline.run(workspace, request, Silent())
    assert len(whole.evaluation.cases) == 4  # not the scores of one fold that the files held


@pytest.mark.slow
def test_a_configuration_that_fails_does_not_keep_the_others_from_their_result(
    finished: Finished, tmp_path: Path
) -> None:
    workspace, request, before = finished
    spoilt = Workspace(tmp_path / "work")
    shutil.copytree(workspace.root, spoilt.root)
    folder = spoilt.fold("2d", 0)
    folder.record.unlink()
    folder.checkpoint.write_bytes(b"no checkpoint")
    result = pipeline.run(spoilt, request, Silent())
    assert result.trained == result.reached == ("3d_fullres",)
    assert list(result.failed) == ["2d fold 0"]
    assert "must be a checkpoint" in result.failed["2d fold 0"]
    assert result.selection is not None
    assert [candidate.name for candidate in result.selection.candidates] == ["3d_fullres"]
    found = status_of(spoilt)
    states = {(training.configuration, training.fold): training.state for training in found.trainings}
    assert (states["2d", 0], states["2d", 1]) == ("failed", "done")
    assert found.stages["run"] == "failed"
    folder.checkpoint.unlink()
    again = pipeline.run(spoilt, request, Silent())
    assert (again.trained, again.failed) == (before.trained, {})


def _files_and_times(workspace: Workspace) -> dict[str, int]:
    return {
        str(path.relative_to(workspace.root)): path.stat().st_mtime_ns
        for path in workspace.root.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }
