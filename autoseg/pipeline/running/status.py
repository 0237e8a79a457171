"""What is done in a workspace, what runs, what is out of date or missing, and what failed and why."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

from autoseg.core.artefact import Record
from autoseg.core.workspace import FoldFolder, FoldName, Workspace
from autoseg.data.check import CheckReport
from autoseg.data.dataset import Dataset
from autoseg.data.splits import Splits
from autoseg.fingerprint import Fingerprint
from autoseg.pipeline.planning.prepare import load_plan
from autoseg.pipeline.running.request import RunResult
from autoseg.pipeline.training.failure import Failure, is_held, noting
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.select.choose import Selection
from autoseg.train.record import WEIGHTS, TrainingRecord

StageState: TypeAlias = Literal["done", "out of date", "failed", "missing"]

TrainingState: TypeAlias = Literal["done", "of another plan", "running", "failed", "broken off", "missing"]


class TrainingStatus(Record):
    """How far a training is.

    Attributes:
        configuration, fold: Which one.
        state: `of another plan` is done, but not as the plan says now; `broken off` goes on with the same command.
        num_epochs: That are done.
        error: Why it failed last, even if an earlier training is there; None if it did not.
    """

    configuration: ConfigurationName
    fold: FoldName
    state: TrainingState
    num_epochs: int
    error: str | None = None


class Status(Record):
    """How far a workspace is.

    Attributes:
        dataset: Its name; None before one was opened.
        stages: How check, fingerprint, splits, plan, selection and run are; `out of date` was made from other data,
            another plan or other networks than are there now.
        trainings: Of every configuration of the plan, by fold.
        held_out: How many folds have held-out predictions, by configuration or ensemble.
        error: Why the last run failed; None if it did not.
    """

    dataset: str | None
    stages: dict[str, StageState]
    trainings: tuple[TrainingStatus, ...]
    held_out: dict[str, int]
    error: str | None = None


@contextmanager
def noting_failure_of_run(workspace: Workspace) -> Iterator[None]:
    """Keep why a run has failed in the workspace."""
    with noting(workspace.failure, workspace.root.is_dir):
        yield


def status_of(workspace: Workspace) -> Status:
    """Return how far a workspace is; nothing is changed.

    Raises:
        PlanError: If nothing was checked, planned or run there.
    """
    if not workspace.check.exists() and not workspace.failure.exists():
        load_plan(workspace)
    planned = Plan.load(workspace.plan) if workspace.plan.exists() else None
    dataset = Dataset.load(workspace.dataset) if workspace.dataset.exists() else None
    num_folds = len(Splits.load(workspace.splits).folds) if workspace.splits.exists() else 0
    known = planned.dataset if planned is not None else None
    return Status(
        dataset=dataset.name if dataset is not None else known,
        stages={**_prepared(workspace, dataset), **_chosen(workspace, planned)},
        trainings=() if planned is None else tuple(_trainings(workspace, planned, num_folds)),
        held_out=_held_out(workspace, num_folds),
        error=Failure.load(workspace.failure).error if workspace.failure.exists() else None,
    )


def _prepared(workspace: Workspace, dataset: Dataset | None) -> dict[str, StageState]:
    """Return how the stages are that look at the dataset alone, and the plan."""
    states: dict[str, StageState] = dict.fromkeys(("check", "fingerprint", "splits", "plan"), "missing")
    made_from = None if dataset is None else {"dataset": dataset.digest()}
    if workspace.check.exists():
        report = CheckReport.load(workspace.check)
        states["check"] = "failed" if report.errors else _state(is_current=report.made_from == made_from)
    if workspace.fingerprint.exists():
        found = Fingerprint.load(workspace.fingerprint)
        states["fingerprint"] = _state(is_current=made_from in (None, found.made_from))
    if workspace.splits.exists():
        states["splits"] = _state(is_current=made_from in (None, Splits.load(workspace.splits).made_from))
    if workspace.plan.exists():
        planned_from = Plan.load(workspace.plan).made_from.get("fingerprint")
        digest = Fingerprint.load(workspace.fingerprint).digest() if workspace.fingerprint.exists() else None
        states["plan"] = _state(is_current=planned_from in (None, digest))
    return states


def _chosen(workspace: Workspace, planned: Plan | None) -> dict[str, StageState]:
    """Return whether selection and run are of the plan and the networks that are there."""
    states: dict[str, StageState] = {"selection": "missing", "run": "missing"}
    selection = Selection.load(workspace.selection) if workspace.selection.exists() else None
    if selection is not None:
        is_current = planned is not None and selection.made_from.get("plan") in (None, planned.digest())
        states["selection"] = _state(is_current=is_current and _is_of_networks(workspace, selection))
    if workspace.run.exists():
        result = RunResult.load(workspace.run)
        is_current = result.selection is None or result.selection == selection
        states["run"] = "failed" if result.failed else _state(is_current=is_current)
    return states


def _is_of_networks(workspace: Workspace, selection: Selection) -> bool:
    """Return whether the networks are there that a selection was made from."""
    for name in selection.configurations:
        trained = workspace.folds(name)
        for fold in selection.folds:
            digest = selection.made_from.get(f"{name} fold {fold}")
            if fold not in trained or TrainingRecord.load(trained[fold].record).made_from.get(WEIGHTS) != digest:
                return False
    return True


def _state(*, is_current: bool) -> StageState:
    return "done" if is_current else "out of date"


def _trainings(workspace: Workspace, planned: Plan, num_folds: int) -> Iterator[TrainingStatus]:
    """Give how far each training is: of every fold, and those that are there besides."""
    for name in planned.configurations:
        others = [fold for fold in workspace.trainings(name) if fold not in range(num_folds)]
        for fold in (*range(num_folds), *others):
            yield _training_status(workspace, planned, name, fold)


def _training_status(
    workspace: Workspace, planned: Plan, configuration: ConfigurationName, fold: FoldName
) -> TrainingStatus:
    folder = workspace.fold(configuration, fold)
    error = Failure.load(folder.failure).error if folder.failure.exists() else None
    state: TrainingState = "missing"
    if is_held(folder):
        state, error = "running", None
    elif folder.record.exists() and _is_of(planned, configuration, folder):
        state = "done"
    elif error is not None:
        state = "failed"
    elif folder.record.exists():
        state = "of another plan"
    elif folder.checkpoint.exists():
        state = "broken off"
    return TrainingStatus(
        configuration=configuration, fold=fold, state=state, num_epochs=_num_epochs(folder), error=error
    )


def _is_of(planned: Plan, configuration: ConfigurationName, folder: FoldFolder) -> bool:
    made_from = TrainingRecord.load(folder.record).made_from
    return made_from.get("recipe", planned.recipe_digest(configuration)) == planned.recipe_digest(configuration)


def _num_epochs(folder: FoldFolder) -> int:
    if not folder.history.exists():
        return 0
    return max(len(folder.history.read_text(encoding="utf-8").splitlines()) - 1, 0)


def _held_out(workspace: Workspace, num_folds: int) -> dict[str, int]:
    folder = workspace.root / "crossval"
    found = sorted(folder.iterdir()) if folder.exists() else []
    return {
        path.name: sum((path / f"fold_{fold}.json").exists() for fold in range(num_folds))
        for path in found
        if path.is_dir() and not path.name.startswith(".")
    }
