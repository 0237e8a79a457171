"""Trainings that are cut where the work before them took longer than planned."""

from pathlib import Path

import pytest

from autoseg.core.workspace import FoldFolder, Workspace
from autoseg.pipeline.budget.schedule import Allocation, Contents, Share
from autoseg.pipeline.budget.timetable import Timetable
from autoseg.pipeline.training.failure import Failure
from autoseg.plan.schema import ConfigurationName
from autoseg.train.record import TrainingRecord, note_spent

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


def _timetable(workspace: Workspace, clock: Clock, budget_s: float = 1000.0, num_places: int = 1) -> Timetable:
    """Two folds of 3d_fullres of 200 s, two of 2d of 100 s, 50 s each for predictions, 100 s for what comes after."""
    if not workspace.allocation.exists():
        shares = (_share("3d_fullres", 200.0, 50.0), _share("2d", 100.0, 50.0))
        Allocation(shares=shares, mirror=False, after_s=100.0).save(workspace.allocation)
    contents = Contents(("3d_fullres", "2d"), frozenset(), FOLDS, FOLDS)
    return Timetable(workspace, contents, budget_s, clock, 50, num_places, (contents.configurations, ()))


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

    again = _timetable(workspace, clock)
    clock.now_s = 600.0
    assert again.given_s("3d_fullres", 1) == again.begin("3d_fullres", 0) == again.begin("3d_fullres", 1) == 200.0
    clock.now_s = 630.0
    assert again.begin("2d", 0) == pytest.approx((1000 - 630 - 200) / 2)


def test_what_goes_on_takes_its_place_for_the_rest_of_its_length(tmp_path: Path) -> None:
    """In two places, one goes on for 20 s of 200 s: beside it and after it 70 s are left for 100 s each."""
    workspace = Workspace(tmp_path)
    timetable = _timetable(workspace, clock := Clock(), num_places=2)
    for fold in FOLDS:
        timetable.begin("3d_fullres", fold)
    _finish(workspace.fold("3d_fullres", 0).record, 200.0)
    _note_spent(workspace.fold("3d_fullres", 1), 180.0)

    again = _timetable(workspace, clock, num_places=2)
    clock.now_s = 730.0
    again.begin("3d_fullres", 1)
    assert again.begin("2d", 0) == pytest.approx(50.0)
    assert again._ends_s == {
        workspace.fold("3d_fullres", 1): 750.0,
        workspace.fold("2d", 0): pytest.approx(780.0),
    }


def test_beside_each_other_trainings_take_the_time_of_the_fullest_place(tmp_path: Path) -> None:
    """In two places 200 s and 100 s after each other fit 300 s; what is left beyond is not given away."""
    workspace, clock = Workspace(tmp_path), Clock()
    timetable = _timetable(workspace, clock, num_places=2)
    clock.now_s = 500.0
    assert [timetable.begin("3d_fullres", fold) for fold in FOLDS] == [200.0, 200.0]
    clock.now_s = 700.0
    assert [timetable.begin("2d", fold) for fold in FOLDS] == [100.0, 100.0]


def test_beside_each_other_they_are_cut_for_what_still_runs(tmp_path: Path) -> None:
    """At 600 s, 200 s are left for 300 s; at 740 s the first place is free and 60 s are left, the other takes 30 s."""
    workspace, clock = Workspace(tmp_path), Clock()
    timetable = _timetable(workspace, clock, num_places=2)
    clock.now_s = 600.0
    lengths_s = [timetable.begin("3d_fullres", fold) for fold in FOLDS]
    assert lengths_s == pytest.approx([200.0 * 2 / 3] * 2)
    _finish(workspace.fold("3d_fullres", 0).record, 140.0)
    timetable._ends_s[workspace.fold("3d_fullres", 1)] = 770.0
    clock.now_s = 740.0
    assert timetable.begin("2d", 0) == pytest.approx(50.0)  # the least: the other has 30 s after what runs
    assert timetable.given_s("2d", 1) == 100.0


def test_one_that_has_failed_takes_no_place(tmp_path: Path) -> None:
    workspace, clock = Workspace(tmp_path), Clock()
    timetable = _timetable(workspace, clock, num_places=2)
    for fold in FOLDS:
        timetable.begin("3d_fullres", fold)
    Failure(error="loss: must be finite, got nan.").save(workspace.fold("3d_fullres", 1).failure)
    clock.now_s = 690.0
    timetable._ends_s[workspace.fold("3d_fullres", 0)] = 690.0
    assert timetable.begin("2d", 0) == 100.0


def test_a_cascade_waits_for_all_places(tmp_path: Path) -> None:
    """Of 500 s, two of the first stage beside each other take 100 s and two cascades 100 s, or less together."""
    workspace = Workspace(tmp_path)
    shares = (_share("3d_lowres", 100.0, 0.0), _share(CASCADE, 100.0, 0.0))
    Allocation(shares=shares, mirror=False, after_s=0.0).save(workspace.allocation)
    contents = Contents(("3d_lowres", CASCADE), frozenset({"3d_lowres"}), FOLDS, FOLDS)
    timetable = Timetable(workspace, contents, 500.0, clock := Clock(), 1, 2, (("3d_lowres",), (CASCADE,)))
    clock.now_s = 350.0
    assert timetable.begin("3d_lowres", 0) == pytest.approx(75.0)
    assert timetable.begin("3d_lowres", 1) == pytest.approx(75.0)
    clock.now_s = 450.0
    assert [timetable.begin(CASCADE, fold) for fold in FOLDS] == pytest.approx([50.0, 50.0])


def test_what_a_cascade_begins_with_is_set_aside_until_it_has_begun(tmp_path: Path) -> None:
    """The stage predicts for 80 s before the first training of the cascade begins, at 320 s."""
    workspace = Workspace(tmp_path)
    shares = (_share("3d_lowres", 100.0, 0.0), _share(CASCADE, 100.0, 0.0, stage_s=100.0))
    Allocation(shares=shares, mirror=False, after_s=0.0).save(workspace.allocation)
    contents = Contents(("3d_lowres", CASCADE), frozenset({"3d_lowres"}), FOLDS, FOLDS)
    timetable = Timetable(workspace, contents, 500.0, clock := Clock(), 1, 1, (("3d_lowres",), (CASCADE,)))
    assert timetable.begin("3d_lowres", 0) == 100.0
    clock.now_s = 140.0
    assert timetable.begin("3d_lowres", 1) == pytest.approx(260.0 / 3)
    clock.now_s = 320.0
    assert timetable.begin(CASCADE, 0) == pytest.approx(90.0)
    clock.now_s = 410.0
    assert timetable.begin(CASCADE, 1) == pytest.approx(90.0)


def _note_spent(folder: FoldFolder, seconds: float) -> None:
    folder.root.mkdir(parents=True)
    note_spent("identity", seconds, folder)


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
