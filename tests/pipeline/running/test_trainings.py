"""The trainings of a run: one that fails keeps neither the others from going on, nor the run from a result."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.core.errors import InterruptionError, PredictionError, TrainingError
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.pipeline.budget.schedule import Allocation, Contents, Share
from autoseg.pipeline.jobs.job import Begin
from autoseg.pipeline.jobs.side_by_side import SideBySide
from autoseg.pipeline.running import trainings
from autoseg.pipeline.running.trainings import Trained, train_contents
from autoseg.pipeline.training.failure import Failure
from autoseg.plan.schema import ConfigurationName
from autoseg.train.hooks import NO_HOOKS
from autoseg.train.loop import TrainingRequest
from autoseg.train.record import TrainingRecord
from tests.pipeline.models import record
from tests.preprocess import plans

CASCADE: ConfigurationName = "3d_cascade_fullres"
FOLDS = (0, 1)
CONTENTS = Contents(("3d_fullres", "2d", "3d_lowres", CASCADE), frozenset({"3d_lowres"}), FOLDS, FOLDS)


class Trainer:
    """Stands for what trains; some trainings fail, all together where they run beside each other."""

    def __init__(self, *failing: tuple[str, int], error: Exception | None = None) -> None:
        self.failing, self.error = failing, error or TrainingError("loss: must be finite, got nan.")
        self.begun: list[tuple[str, int | str]] = []
        self.lengths: list[float | None] = []

    def __call__(
        self, workspace: Workspace, requests: Sequence[TrainingRequest], begin: Begin, **_: object
    ) -> list[TrainingRecord]:
        planned, records = pipeline.load_plan(workspace), []
        for request in map(begin, requests):
            self.begun.append((request.configuration, request.fold))
            self.lengths.append(request.budget_s)
            folder = workspace.fold(request.configuration, request.fold)
            if (request.configuration, request.fold) in self.failing:
                Failure(error=str(self.error)).save(folder.failure)
            else:
                assert isinstance(request.fold, int)
                records.append(record(planned, request.fold, "", request.configuration))
                records[-1].save(folder.record)
        if len(records) < len(requests):
            raise self.error
        return records


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A plan of all four configurations, by name alone."""
    workspace = Workspace(tmp_path)
    full = plans.configuration()
    later = full.model_copy(update={"previous_stage": "3d_lowres"})
    plans.plan(configurations={"2d": full, "3d_fullres": full, "3d_lowres": full, CASCADE: later}).save(workspace.plan)
    return workspace


def _train(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    trainer: Callable[..., list[TrainingRecord]],
    num_jobs: int = 1,
    **changed: object,
) -> Trained:
    monkeypatch.setattr(trainings, "train_all", trainer)
    request = pipeline.RunRequest(
        source=workspace.root,
        data=pipeline.DataOptions(None, None, 0),
        planning=pipeline.PlanOptions("cpu", None),
        num_epochs=1,
        device="cpu",
        seed=1,
        side_by_side=SideBySide(num_jobs),
    )
    shares = [
        Share(configuration=name, num_trainings=2, training_s=100.0, num_steps=500, prediction_s=0.0)
        for name in CONTENTS.configurations
    ]
    allocation = Allocation(shares=tuple(shares), mirror=True)
    allocation.save(workspace.allocation)
    wanted = CONTENTS, allocation, pipeline.TrainingLength(1, None)
    asked = replace(request, **changed)  # type: ignore[arg-type]
    return train_contents(workspace, asked, wanted, lambda: 0.0, Silent(), NO_HOOKS)


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_all_are_trained_in_their_order(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, num_jobs: int) -> None:
    trained = _train(workspace, monkeypatch, trainer := Trainer(), num_jobs)
    assert trainer.begun == [(name, fold) for name in CONTENTS.configurations for fold in FOLDS]
    assert (trained.contents, trained.failed) == (CONTENTS, {})
    assert trained.seconds == 8.0 / num_jobs


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_a_configuration_that_fails_is_left_out(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, num_jobs: int
) -> None:
    trained = _train(workspace, monkeypatch, trainer := Trainer(("3d_fullres", 1)), num_jobs)
    assert len(trainer.begun) == 8
    assert trained.contents.configurations == ("2d", "3d_lowres", CASCADE)
    assert trained.failed == {"3d_fullres fold 1": "loss: must be finite, got nan."}


def test_a_cascade_does_not_begin_beside_others_without_the_stage_before(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = _train(workspace, monkeypatch, trainer := Trainer(("3d_lowres", 0)), 2)
    assert CASCADE not in [name for name, _ in trainer.begun]
    assert trained.contents.configurations == ("3d_fullres", "2d")
    assert list(trained.failed) == ["3d_lowres fold 0", *(f"{CASCADE} fold {fold}" for fold in FOLDS)]
    assert "all folds of 3d_lowres" in trained.failed[f"{CASCADE} fold 0"]


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_if_all_fail_there_is_no_result(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, num_jobs: int) -> None:
    failing = Trainer(*((name, 1) for name in CONTENTS.configurations))
    with pytest.raises(
        TrainingError, match=r"got \d trainings that failed:\n  3d_fullres fold 1: loss: must be finite"
    ):
        _train(workspace, monkeypatch, failing, num_jobs)


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_a_run_that_is_asked_to_leave_leaves(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, num_jobs: int
) -> None:
    leaving = Trainer(("2d", 0), error=InterruptionError("training left in epoch 3"))
    with pytest.raises(InterruptionError):
        _train(workspace, monkeypatch, leaving, num_jobs)
    assert (CASCADE, 0) not in leaving.begun


def test_what_a_cascade_begins_with_may_fail(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage before it cannot predict: no training of the cascade begins, and the others have their result."""
    train = Trainer()

    def trainer(
        place: Workspace, requests: Sequence[TrainingRequest], begin: Begin, **_: object
    ) -> list[TrainingRecord]:
        if requests[0].configuration == CASCADE:
            raise PredictionError("case_3: a network's output must be finite, got nan.")
        return train(place, requests, begin)

    trained = _train(workspace, monkeypatch, trainer, 2)
    assert trained.contents.configurations == ("3d_fullres", "2d", "3d_lowres")
    assert trained.failed == {
        f"{CASCADE} fold {fold}": "case_3: a network's output must be finite, got nan." for fold in FOLDS
    }


def test_what_was_ended_from_outside_does_not_keep_the_others_from_their_result(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves neither a record nor why it has failed."""
    failing = Trainer(("2d", 0))

    def trainer(
        place: Workspace, requests: Sequence[TrainingRequest], begin: Begin, **_: object
    ) -> list[TrainingRecord]:
        try:
            return failing(place, requests, begin)
        finally:
            place.fold("3d_fullres", 0).record.unlink(missing_ok=True)

    trained = _train(workspace, monkeypatch, trainer, 2)
    assert trained.contents.configurations == ("3d_lowres", CASCADE)
    assert set(trained.failed) == {"2d fold 0", "3d_fullres fold 0"}


def test_what_fails_for_none_in_particular_is_raised(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object, **__: object) -> None:
        raise TrainingError("--jobs: must be at most one per device.")

    with pytest.raises(TrainingError, match="--jobs: must be at most one"):
        _train(workspace, monkeypatch, refusing, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(("num_jobs", "length_s"), [(1, 75.0), (2, 100.0)])
def test_a_budget_gives_each_its_length_as_it_begins(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, num_jobs: int, length_s: float
) -> None:
    """Eight trainings of 100 s, for 600 s: one after the other they are cut."""
    _train(workspace, monkeypatch, trainer := Trainer(), num_jobs, num_epochs=None, budget_s=600.0)
    assert trainer.lengths[0] == pytest.approx(length_s)
    assert len(Allocation.load(workspace.allocation).begun) == 8


def test_a_training_goes_on_to_the_length_that_it_began_with(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(workspace, monkeypatch, first := Trainer(), 2, num_epochs=None, budget_s=300.0)
    kept = workspace.allocation.read_bytes()
    monkeypatch.setattr(Allocation, "save", lambda *_: None)  # `_train` would write it anew
    _train(workspace, monkeypatch, again := Trainer(), 1, num_epochs=None, budget_s=300.0)
    assert again.lengths == first.lengths
    assert first.lengths[0] != 100.0
    assert workspace.allocation.read_bytes() == kept
