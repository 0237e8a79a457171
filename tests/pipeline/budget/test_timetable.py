"""Trainings that are cut where the work before them took longer than planned."""

from pathlib import Path

import pytest

from autoseg.core.workspace import Workspace
from autoseg.pipeline.budget.schedule import Allocation, Contents, Share
from autoseg.pipeline.budget.timetable import Timetable, begin_together
from autoseg.plan.schema import ConfigurationName
from autoseg.train.record import TrainingRecord

CASCADE: ConfigurationName = "3d_cascade_fullres"
FOLDS = (0, 1)


class Clock:
    """Seconds that are gone, as a test says."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _share(name: ConfigurationName, training_s: float, prediction_s: float, stage_s: float = 0.0) -> Share:
    return Share(
        configuration=name,
        num_trainings=len(FOLDS),
        training_s=training_s,
        num_steps=100,
        prediction_s=prediction_s,
        stage_s=stage_s,
    )


def _timetable(workspace: Workspace, clock: Clock, budget_s: float = 1000.0) -> Timetable:
    """Two folds of 3d_fullres of 200 s, two of 2d of 100 s, 50 s each for predictions, 100 s for what comes after."""
    if not workspace.allocation.exists():
        shares = (_share("3d_fullres", 200.0, 50.0), _share("2d", 100.0, 50.0))
        Allocation(shares=shares, mirror=False, after_s=100.0).save(workspace.allocation)
    contents = Contents(("3d_fullres", "2d"), frozenset(), FOLDS, FOLDS)
    return Timetable(workspace, contents, budget_s, clock, least_steps=50)


def test_on_time_each_training_gets_what_was_allocated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "autoseg")
    workspace, clock = Workspace(tmp_path), Clock()
    timetable = _timetable(workspace, clock)
    clock.now_s = 150.0
    assert timetable.begin("3d_fullres", 0) == 200.0
    clock.now_s = 340.0  # early: nothing is given away
    assert timetable.begin("3d_fullres", 1) == 200.0
    assert not caplog.text


def test_behind_all_that_follow_are_cut_alike_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After the first fold, 400 s are left for 400 s; 100 s later, 300 s."""
    caplog.set_level("INFO", "autoseg")
    workspace, clock = Workspace(tmp_path), Clock()
    timetable = _timetable(workspace, clock)
    clock.now_s = 200.0
    assert timetable.begin("3d_fullres", 0) == 200.0
    clock.now_s = 500.0
    assert timetable.begin("3d_fullres", 1) == pytest.approx(150.0)
    clock.now_s = 650.0
    assert timetable.begin("2d", 0) == pytest.approx(75.0)
    clock.now_s = 725.0
    assert timetable.begin("2d", 1) == pytest.approx(75.0)
    (record,) = caplog.records
    assert record.message == (
        "Behind the plan: 3d_fullres fold 1 and what follows get 75 % of their time, 150 s instead of 200 s each, so"
        " that the budget of 1000 s holds."
    )


def test_nothing_left_still_means_the_least_steps(tmp_path: Path) -> None:
    timetable = _timetable(Workspace(tmp_path), clock := Clock())
    clock.now_s = 5000.0
    assert timetable.begin("2d", 1) == 50.0


def test_a_training_that_was_broken_off_keeps_its_length(tmp_path: Path) -> None:
    """The first process is killed 180 s into the second training, which needs 30 s more in another process."""
    workspace = Workspace(tmp_path)
    timetable = _timetable(workspace, clock := Clock())
    clock.now_s = 100.0
    timetable.begin("3d_fullres", 0)
    clock.now_s = 400.0
    assert timetable.begin("3d_fullres", 1) == 200.0

    again = _timetable(workspace, clock := Clock())
    clock.now_s = 20.0
    assert again.begin("3d_fullres", 0) == again.begin("3d_fullres", 1) == 200.0
    with again.counting("3d_fullres", 1):
        _finish(workspace.fold("3d_fullres", 1).record, 210.0)
    clock.now_s = 50.0
    assert again.begin("2d", 0) == pytest.approx((1000 - 400 - 210 - 50 - 200) / 2, abs=0.1)


def test_a_training_that_ended_as_the_run_was_killed_counts(tmp_path: Path) -> None:
    """The second training ends after 210 s; the process is killed before it begins another."""
    workspace = Workspace(tmp_path)
    timetable = _timetable(workspace, clock := Clock())
    clock.now_s = 100.0
    timetable.begin("3d_fullres", 0)
    clock.now_s = 400.0
    timetable.begin("3d_fullres", 1)
    _finish(workspace.fold("3d_fullres", 0).record, 290.0)
    _finish(workspace.fold("3d_fullres", 1).record, 210.0)

    again = _timetable(workspace, clock := Clock())
    clock.now_s = 50.0
    for fold in FOLDS:
        again.begin("3d_fullres", fold)
        with again.counting("3d_fullres", fold):
            pass
    assert again.begin("2d", 0) == pytest.approx((1000 - 400 - 210 - 50 - 200) / 2)


def test_trainings_beside_each_other_keep_their_lengths_one_by_one(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    timetable = _timetable(workspace, clock := Clock())
    clock.now_s = 500.0
    cut_s = timetable.begin("3d_fullres", 0)
    assert cut_s < 200.0
    contents = timetable.contents
    expected = {"3d_fullres fold 0": cut_s, "3d_fullres fold 1": 200.0, "2d fold 0": 100.0, "2d fold 1": 100.0}
    assert begin_together(workspace, contents, 600.0) == expected
    written = workspace.allocation.read_bytes()
    assert begin_together(workspace, contents, 700.0) == expected
    assert workspace.allocation.read_bytes() == written
    again = _timetable(workspace, clock)
    assert {name: again.begin(name, 1) for name in contents.configurations} == {"3d_fullres": 200.0, "2d": 100.0}


def test_what_a_cascade_begins_with_is_set_aside_until_it_has_begun(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    shares = (_share("3d_lowres", 100.0, 0.0), _share(CASCADE, 100.0, 0.0, stage_s=100.0))
    Allocation(shares=shares, mirror=False, after_s=0.0).save(workspace.allocation)
    contents = Contents(("3d_lowres", CASCADE), frozenset({"3d_lowres"}), FOLDS, FOLDS)
    timetable = Timetable(workspace, contents, 500.0, clock := Clock(), least_steps=1)
    assert timetable.begin("3d_lowres", 0) == 100.0
    clock.now_s = 100.0
    assert timetable.begin("3d_lowres", 1) == 100.0
    clock.now_s = 240.0
    assert timetable.begin(CASCADE, 0) == pytest.approx(80.0)
    clock.now_s = 240.0 + 100.0 + 80.0
    assert timetable.begin(CASCADE, 1) == pytest.approx(80.0)


def _finish(path: Path, seconds: float) -> None:
    TrainingRecord(
        configuration="3d_fullres",
        fold=1,
        identity="",
        seed=0,
        num_epochs=1,
        num_steps=1,
        seconds=seconds,
        device="cpu",
        precision="float32",
        versions={},
        validation_dice={},
    ).save(path)
