"""Which held-out cases are drawn, and what becomes of pictures that are of another run or cannot be drawn."""

from pathlib import Path

import pytest

from autoseg.core.workspace import Workspace
from autoseg.evaluate.scores import summarise
from autoseg.pipeline import RunResult
from autoseg.pipeline.budget.schedule import Allocation
from autoseg.report.run import draw_run, telling_cases
from tests.evaluate.test_scores import CASES, LABELS, RULES, case
from tests.report.test_live import HISTORY

RESULT = RunResult(
    dataset="Task",
    trained=("3d_fullres",),
    folds=(0, 1),
    reached=("3d_fullres",),
    evaluation=summarise(CASES, LABELS, RULES),
    allocation=Allocation(shares=(), mirror=True),
    seconds={},
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two trained folds, one that is broken, and no dataset, so that no scan can be shown."""
    found = Workspace(tmp_path)
    for fold, content in enumerate((HISTORY, HISTORY, "")):
        folder = found.fold("3d_fullres", fold)
        folder.root.mkdir(parents=True)
        folder.history.write_text(content)
    found.report.mkdir()
    return found


def _names(*dice: float | None) -> dict[str, str]:
    cases = tuple(case(f"case_{number}", score, score) for number, score in enumerate(dice))
    return {place: found.name for place, found in telling_cases(cases).items()}


def test_median_worst_and_best_are_drawn() -> None:
    assert _names(0.5, 0.9, 0.7) == {"median": "case_2", "worst": "case_0", "best": "case_1"}


def test_cases_that_are_rightly_empty_are_not_drawn_as_the_worst() -> None:
    assert _names(None, 0.9, 0.0, None, 0.7) == {"median": "case_4", "worst": "case_2", "best": "case_1"}
    assert _names(None, 0.5) == {"median": "case_1"}
    assert _names(None, None) == {"median": "case_1", "worst": "case_0"}


def test_no_case_is_drawn_twice() -> None:
    assert _names(0.5) == {"median": "case_0"}
    assert _names(0.5, 0.9) == {"median": "case_1", "worst": "case_0"}


def test_pictures_of_an_earlier_run_are_removed_and_no_others(workspace: Workspace) -> None:
    earlier = ("2d+3d_fullres_best_case.png", "3d_lowres_worst_case.png", "2d_curves.png")
    others = ("3d_fullres_fold_0_curves.png", "my_worst_case.png", "3d_fullres_worst_case.pdf")
    for name in (*earlier, *others):
        (workspace.report / name).touch()
    drawn = draw_run(workspace, RESULT)
    assert {path.name for path in drawn} == {"dice_per_case.png", "3d_fullres_curves.png"}
    assert {path.name for path in workspace.report.iterdir()} == {*others, *(path.name for path in drawn)}


def test_a_picture_that_cannot_be_drawn_or_removed_is_named_and_the_others_are_there(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    (workspace.report / "2d_curves.png").mkdir()
    workspace.fold("3d_fullres", 1).history.unlink()
    assert draw_run(workspace, RESULT) == [workspace.report / "dice_per_case.png"]
    warned = [entry.getMessage() for entry in caplog.records]
    named = (
        "2d_curves.png: must be removed",
        *(f"3d_fullres_{place}_case.png: must be drawn" for place in ("best", "median", "worst")),
        "3d_fullres_curves.png: must be drawn",
    )
    assert all(start in message for start, message in zip(named, warned, strict=True))
    assert "history.csv: the history of a training must be readable" in warned[-1]


def test_a_report_that_cannot_be_written_does_not_end_the_command(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    workspace.report.rmdir()
    workspace.report.write_text("not a folder")
    assert draw_run(workspace, RESULT) == []
    assert "dice_per_case.png: must be drawn" in caplog.text
