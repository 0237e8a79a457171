"""A run of a dataset whose scans are so large that the rules plan a cascade: all four configurations, to the end."""

from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.image import read_label
from autoseg.pipeline.prediction.models import load_selection
from autoseg.plan.schema import ConfigurationName
from autoseg.report.run import draw_run
from autoseg.select.choose import Together
from tests.end_to_end.blobs import TINY_RULES, write_blobs

CASCADE: ConfigurationName = "3d_cascade_fullres"
SMALL_PATCHES = """
[cpu.sizing.reference_elements_3d]
value = 150000
"""
"""Makes patches so small that a coarser configuration is planned."""

Finished = tuple[Workspace, pipeline.RunRequest, pipeline.RunResult]


def _request(folder: Path) -> pipeline.RunRequest:
    rules = folder / "rules"
    rules.mkdir(parents=True)
    (rules / "presets.toml").write_text(TINY_RULES.replace("value = 12", "value = 4") + SMALL_PATCHES)
    return pipeline.RunRequest(
        source=write_blobs(folder / "data", num_cases=2, shape=(24, 56, 52)),
        data=pipeline.DataOptions(group_by=None, num_folds=2, num_workers=0),
        planning=pipeline.PlanOptions(preset="cpu", rules=rules),
        num_epochs=1,
        device="cpu",
        seed=1,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of everything, with trainings that are far too short."""
    folder = tmp_path_factory.mktemp("cascade_run")
    workspace, request = Workspace(folder / "work"), _request(folder)
    return workspace, request, pipeline.run(workspace, request, Silent())


@pytest.mark.slow
def test_all_four_and_all_pairs_are_compared(finished: Finished) -> None:
    workspace, _, result = finished
    assert result.trained == ("3d_fullres", "2d", "3d_lowres", CASCADE)
    assert all(list(workspace.folds(name)) == [0, 1] for name in result.trained)
    assert result.selection is not None
    assert len(result.selection.candidates) == 4 + 6
    (share,) = (share for share in result.allocation.shares if share.configuration == CASCADE)
    assert share.stage_s > 0
    assert all(path.exists() for path in draw_run(workspace, result))


@pytest.mark.slow
@pytest.mark.parametrize("selected", [None, ("3d_lowres", CASCADE)])
def test_the_result_predicts_whatever_was_selected(
    finished: Finished, selected: Together | None, tmp_path: Path
) -> None:
    workspace, _, _ = finished
    selection = load_selection(workspace)
    assert selection is not None
    if selected is not None:
        selection = selection.model_copy(update={"configurations": selected})
    case = Dataset.load(workspace.dataset).cases[0]
    asked = pipeline.Request(Path(case.images[0]), tmp_path / "mask.nii.gz")
    choice = pipeline.ModelChoice(selection.configurations[0], None, "cpu", mirror=False)
    (outcome,) = pipeline.predict(workspace, choice, asked, Silent(), selection).cases
    assert outcome.error is None
    assert read_label(tmp_path / "mask.nii.gz").array.shape == read_label(Path(str(case.label))).array.shape


@pytest.mark.slow
def test_the_same_run_again_trains_and_predicts_nothing(finished: Finished) -> None:
    workspace, request, result = finished
    written = {
        path: path.stat().st_mtime_ns
        for folder in ("models", "crossval")
        for path in (workspace.root / folder).rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }
    again = pipeline.run(workspace, request, Silent())
    assert again.selection == result.selection
    assert written == {path: path.stat().st_mtime_ns for path in written}
