"""What a run does before its trainings begin."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.core.errors import TrainingError
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.pipeline.jobs.side_by_side import Executor, SideBySide
from autoseg.train.loop import TrainingRequest
from tests.end_to_end.blobs import write_blobs, write_tiny_rules


def _begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, shrinks: bool, executor: Executor = "here") -> list[str]:
    """Return which configurations a run proves, and with `train` before it which it then trains.

    Args:
        tmp_path, monkeypatch: Of the test.
        shrinks: Whether the proof of the first one leaves a plan without slices.
        executor: Who starts the trainings.
    """
    workspace, done = Workspace(tmp_path / "work"), list[str]()

    def fit(place: Workspace, name: str, device: str) -> None:
        done.append(name)
        planned = pipeline.load_plan(place)
        kept = {known: entry for known, entry in planned.configurations.items() if known != "2d" or not shrinks}
        planned.model_copy(update={"configurations": kept}).save(place.plan)

    def train(place: Workspace, requests: Sequence[TrainingRequest], **_: object) -> None:
        done.extend(f"train {request.configuration}" for request in requests)
        raise TrainingError("enough")

    monkeypatch.setattr("autoseg.pipeline.full_run.fit_to_device", fit)
    monkeypatch.setattr("autoseg.pipeline.running.trainings.train_all", train)
    request = pipeline.RunRequest(
        source=write_blobs(tmp_path / "data", num_cases=2),
        data=pipeline.DataOptions(group_by=None, num_folds=2, num_workers=0),
        planning=pipeline.PlanOptions(preset="cpu", rules=write_tiny_rules(tmp_path / "rules")),
        num_epochs=1,
        device="cpu",
        seed=1,
        side_by_side=SideBySide(executor=executor),
    )
    with pytest.raises(TrainingError, match="enough"):
        pipeline.run(workspace, request, Silent())
    return done


def test_all_plans_are_proved_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = _begun(tmp_path, monkeypatch, shrinks=False)
    assert done == ["3d_fullres", "2d", *["train 3d_fullres"] * 2, *["train 2d"] * 2]


def test_what_is_trained_is_of_the_plan_that_was_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = _begun(tmp_path, monkeypatch, shrinks=True)
    assert done == ["3d_fullres", "3d_fullres", *["train 3d_fullres"] * 2]


def test_jobs_of_a_cluster_prove_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = _begun(tmp_path, monkeypatch, shrinks=False, executor="slurm")
    assert done == [*["train 3d_fullres"] * 2, *["train 2d"] * 2]
