"""What is done in a workspace, what runs, what is missing, and what failed and why."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal, TypeAlias

import filelock

from autoseg.core.artefact import Artefact, Record
from autoseg.core.errors import AutosegError, InterruptionError
from autoseg.core.workspace import FoldFolder, FoldName, Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.splits import Splits
from autoseg.pipeline.planning.prepare import load_plan
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.train.record import TrainingRecord

TrainingState: TypeAlias = Literal["done", "of another plan", "running", "failed", "broken off", "missing"]


class Failure(Artefact):
    """The last error of a training.

    Attributes:
        error: Its message.
    """

    error: str


class TrainingStatus(Record):
    """How far a training is.

    Attributes:
        configuration, fold: Which one.
        state: `of another plan` is done, but not as the plan says now; `broken off` goes on with the same command.
        num_epochs: That are done.
        error: Why it failed; None if it did not.
    """

    configuration: ConfigurationName
    fold: FoldName
    state: TrainingState
    num_epochs: int
    error: str | None = None


class Status(Record):
    """How far a workspace is.

    Attributes:
        dataset: Its name.
        stages: Whether check, fingerprint, splits, plan, selection and run have left their artefact.
        trainings: Of every configuration of the plan, by fold.
        held_out: How many folds have held-out predictions, by configuration or ensemble.
    """

    dataset: str
    stages: dict[str, bool]
    trainings: tuple[TrainingStatus, ...]
    held_out: dict[str, int]


@contextmanager
def noting_failure(folder: FoldFolder) -> Iterator[None]:
    """Keep the message of an expected error within the block beside the training; a block that ends well removes it."""
    try:
        yield
    except InterruptionError:
        raise
    except AutosegError as error:
        with suppress(OSError):  # That nothing can be written here may be why.
            # A lock that is held elsewhere says nothing about the training that holds it.
            if not is_held(folder):
                Failure(error=str(error)).save(folder.failure)
        raise
    folder.failure.unlink(missing_ok=True)


def status_of(workspace: Workspace) -> Status:
    """Return how far a workspace is; nothing is changed.

    Raises:
        PlanError: If nothing was planned there.
    """
    planned = load_plan(workspace)
    folds = range(len(Splits.load(workspace.splits).folds)) if workspace.splits.exists() else range(0)
    trainings = []
    for name in planned.configurations:
        others = [fold for fold in workspace.trainings(name) if fold not in folds]
        trainings += [_training_status(workspace, planned, name, fold) for fold in (*folds, *others)]
    stages = {
        "check": workspace.check,
        "fingerprint": workspace.fingerprint,
        "splits": workspace.splits,
        "plan": workspace.plan,
        "selection": workspace.selection,
        "run": workspace.run,
    }
    return Status(
        dataset=Dataset.load(workspace.dataset).name if workspace.dataset.exists() else planned.dataset,
        stages={stage: path.exists() for stage, path in stages.items()},
        trainings=tuple(trainings),
        held_out=_held_out(workspace),
    )


def _training_status(
    workspace: Workspace, planned: Plan, configuration: ConfigurationName, fold: FoldName
) -> TrainingStatus:
    folder = workspace.fold(configuration, fold)
    error = Failure.load(folder.failure).error if folder.failure.exists() else None
    state: TrainingState = "missing"
    if is_held(folder):
        state, error = "running", None
    elif error is not None:
        state = "failed"
    elif folder.record.exists():
        state = "done" if _is_of(planned, configuration, folder) else "of another plan"
    elif folder.checkpoint.exists():
        state = "broken off"
    return TrainingStatus(
        configuration=configuration, fold=fold, state=state, num_epochs=_num_epochs(folder), error=error
    )


def _is_of(planned: Plan, configuration: ConfigurationName, folder: FoldFolder) -> bool:
    made_from = TrainingRecord.load(folder.record).made_from
    return made_from.get("recipe", planned.recipe_digest(configuration)) == planned.recipe_digest(configuration)


def is_held(folder: FoldFolder) -> bool:
    """Return whether a process trains in a folder: whether its lock cannot be taken for a moment."""
    if not folder.lock.exists():
        return False
    lock = filelock.FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False


def _num_epochs(folder: FoldFolder) -> int:
    if not folder.history.exists():
        return 0
    return max(len(folder.history.read_text(encoding="utf-8").splitlines()) - 1, 0)


def _held_out(workspace: Workspace) -> dict[str, int]:
    folder = workspace.root / "crossval"
    found = sorted(folder.iterdir()) if folder.exists() else []
    return {path.name: len(list(path.glob("fold_*.json"))) for path in found if path.is_dir()}
