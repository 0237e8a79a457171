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
from autoseg.pipeline.running.current import Networks, Trained, is_result_of, is_selection_of
from autoseg.pipeline.running.request import RunResult
from autoseg.pipeline.training.failure import Failure, is_held, noting
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.select.choose import Selection

StageState: TypeAlias = Literal["done", "out of date", "failed", "missing"]

TrainingState: TypeAlias = Trained | Literal["running", "failed", "broken off", "missing"]


class TrainingStatus(Record):
    """How far a training is.

    Attributes:
        configuration, fold: Which one.
        state: `of another plan` is done, but not as the plan says now; `of other data` is done, but its cases, labels
            or folds have changed, or may have, as their files have; so is a cascade whose earlier stage has. `broken
            off` goes on with the same command.
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
            another plan or other networks than are there now, or from networks that would be trained again.
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
    prepared = _prepared(workspace, dataset)
    networks = None if planned is None else Networks(workspace, planned, dataset, num_folds)
    return Status(
        dataset=dataset.name if dataset is not None else known,
        stages={**prepared, **_chosen(workspace, networks, is_prepared="out of date" not in prepared.values())},
        trainings=() if networks is None else tuple(_trainings(networks)),
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


def _chosen(workspace: Workspace, networks: Networks | None, *, is_prepared: bool) -> dict[str, StageState]:
    """Return whether selection and run are of the plan and the networks that are there, and these up to date.

    Args:
        workspace: Of them.
        networks: That are there; None without a plan.
        is_prepared: Whether the stages before the trainings are up to date.
    """
    states: dict[str, StageState] = {"selection": "missing", "run": "missing"}
    selection = Selection.load(workspace.selection) if workspace.selection.exists() else None
    if selection is not None:
        is_current = is_prepared and networks is not None and is_selection_of(networks, selection)
        states["selection"] = _state(is_current=is_current)
    if workspace.run.exists():
        result = RunResult.load(workspace.run)
        if result.failed:
            states["run"] = "failed"
        elif result.selection is not None:
            is_current = result.selection == selection and states["selection"] == "done"
            states["run"] = _state(is_current=is_current)
        else:
            is_current = is_prepared and networks is not None and is_result_of(networks, result)
            states["run"] = _state(is_current=is_current)
    return states


def _state(*, is_current: bool) -> StageState:
    return "done" if is_current else "out of date"


def _trainings(networks: Networks) -> Iterator[TrainingStatus]:
    """Give how far each training is: of every fold, and those that are there besides."""
    for name in networks.plan.configurations:
        there = networks.workspace.trainings(name)
        others = [fold for fold in there if fold not in range(networks.num_folds)]
        for fold in (*range(networks.num_folds), *others):
            yield _training_status(networks, name, fold)


def _training_status(networks: Networks, configuration: ConfigurationName, fold: FoldName) -> TrainingStatus:
    folder = networks.workspace.fold(configuration, fold)
    error = Failure.load(folder.failure).error if folder.failure.exists() else None
    trained = networks.trained(configuration, fold)
    state: TrainingState = "missing"
    if is_held(folder):
        state, error = "running", None
    elif trained == "done":
        state = "done"
    elif error is not None:
        state = "failed"
    elif trained is not None:
        state = trained
    elif folder.checkpoint.exists():
        state = "broken off"
    return TrainingStatus(
        configuration=configuration, fold=fold, state=state, num_epochs=_num_epochs(folder), error=error
    )


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
