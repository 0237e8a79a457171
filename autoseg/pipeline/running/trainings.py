"""The trainings of a run, one by one or side by side, within a timetable if there is a budget.

One that fails keeps neither the others from going on, nor the run from a result without its configuration.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from autoseg.core.errors import AutosegError, InterruptionError, TrainingError
from autoseg.core.progress import Progress
from autoseg.core.workspace import FoldFolder, Workspace
from autoseg.pipeline.budget.schedule import Allocation, Contents, Waves, training_name, waves
from autoseg.pipeline.budget.timetable import Timetable
from autoseg.pipeline.jobs.job import as_asked
from autoseg.pipeline.jobs.side_by_side import train_all
from autoseg.pipeline.planning.prepare import load_plan
from autoseg.pipeline.running.request import RunRequest
from autoseg.pipeline.training.failure import Failure
from autoseg.pipeline.training.fold import TrainingLength
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationName
from autoseg.train.hooks import Hooks
from autoseg.train.loop import TrainingRequest
from autoseg.train.record import TrainingRecord

log = logging.getLogger(__name__)

Place = tuple[ConfigurationName, int]
"""Configuration and fold of a training."""

TrainThese = Callable[[Sequence[TrainingRequest]], list[TrainingRecord]]
"""Trains, and returns the records in the order of the requests."""

Failures = dict[str, AutosegError]
"""Why trainings have failed, by name."""


@dataclass(frozen=True)
class Trained:
    """What became of the trainings of a run.

    Attributes:
        contents: What is trained in all folds that were asked for.
        seconds: That the trainings took, in all runs together.
        failed: Why others have failed, by name.
    """

    contents: Contents
    seconds: float
    failed: dict[str, str]


def train_contents(
    workspace: Workspace,
    request: RunRequest,
    wanted: tuple[Contents, Allocation, TrainingLength],
    elapsed_s: Callable[[], float],
    progress: Progress,
    hooks: Hooks,
) -> Trained:
    """Train all that is wanted, or go on with it.

    Within a budget, they are cut where what came before took longer than planned.

    Args:
        workspace: Of the plan, preprocessed.
        request: Of the run.
        wanted: What is trained, what it takes and, without a budget, how long each training lasts.
        elapsed_s: Returns the seconds of the run that are gone.
        progress: Shows the trainings.
        hooks: What ends them early, and what their epochs bring about.

    Raises:
        InterruptionError: If `hooks` ends them early.
        TrainingError: If no configuration is trained to its end, naming each training that has failed.
        AutosegError: Of the one training that has failed, if that is why none is.
    """
    contents, allocation, length = wanted
    how = request.side_by_side
    names = [share.configuration for share in allocation.shares]
    places: list[Place] = [(name, fold) for name in names for fold in contents.folds_of(name)]
    num_places = how.num_places(request.device, len(places))
    order = waves(contents, load_plan(workspace))
    lengths, begin = dict.fromkeys(places, length), as_asked
    if request.budget_s is not None:
        rules = load_rulebook(request.planning.rules).inferred.budget
        timetable = Timetable(
            workspace=workspace,
            contents=contents,
            budget_s=request.budget_s,
            elapsed_s=elapsed_s,
            least_steps=rules.least_steps,
            num_places=num_places,
            waves=order,
        )
        lengths = {place: TrainingLength(None, timetable.given_s(*place)) for place in places}
        begin = partial(_with_its_length, timetable)
    requests = {place: request.training(*place, lasts) for place, lasts in lengths.items()}
    train_these = partial(
        train_all,
        workspace,
        how=how,
        num_workers=request.data.num_workers,
        progress=progress,
        hooks=hooks,
        begin=begin,
    )
    if num_places == 1:
        records, failed = _one_by_one(requests, train_these)
    else:
        records, failed = _side_by_side(workspace, requests, order, train_these)
    seconds = how.wall_s([record.seconds for record in records], request.device)
    trained = _without(contents, failed, workspace)
    return Trained(trained, seconds, {name: str(error) for name, error in failed.items()})


def _with_its_length(timetable: Timetable, request: TrainingRequest) -> TrainingRequest:
    """Return what is trained as its turn has come in a run with a budget."""
    assert isinstance(request.fold, int)
    return replace(request, budget_s=timetable.begin(request.configuration, request.fold))


def _one_by_one(
    requests: Mapping[Place, TrainingRequest], train_these: TrainThese
) -> tuple[list[TrainingRecord], Failures]:
    """Train one after the other."""
    records, failed = [], Failures()
    for (name, fold), asked in requests.items():
        try:
            records += train_these([asked])
        except InterruptionError:
            raise
        except AutosegError as error:
            failed[training_name(name, fold)] = error
            if len(requests) > 1:
                log.error("%s has failed; the others go on. %s", training_name(name, fold), error)  # noqa: TRY400
    return records, failed


def _side_by_side(
    workspace: Workspace, requests: Mapping[Place, TrainingRequest], order: Waves, train_these: TrainThese
) -> tuple[list[TrainingRecord], Failures]:
    """Train beside each other; a cascade after the stage before it, if all folds of that are trained."""
    records, failed = [], Failures()
    configurations = load_plan(workspace).configurations
    stages = {place: configurations[place[0]].previous_stage for place in requests}
    for names in order:
        wave = [place for place in requests if place[0] in names]
        begun = [place for place in wave if not _has_failed(stages[place], failed)]
        for place in wave:
            workspace.fold(*place).failure.unlink(missing_ok=True)
            if place not in begun:
                failed[training_name(*place)] = TrainingError(
                    f"{place[0]}: all folds of {stages[place]}, which it refines, must be trained first, got failures."
                )
        try:
            if begun:
                records += train_these([requests[place] for place in begun])
        except InterruptionError:
            raise
        except AutosegError as error:
            found, lost = _ended(workspace, begun, error)
            if not (found or lost or stages[begun[0]]):
                raise
            records += found
            failed |= lost or {training_name(*place): error for place in begun}
    return records, failed


def _ended(workspace: Workspace, begun: Sequence[Place], error: AutosegError) -> tuple[list[TrainingRecord], Failures]:
    """Return the records of those that ended well of trainings of which some did not, and why others did not.

    Both are empty if none of them has failed, but what they were to begin with.
    """
    folders = {training_name(*place): workspace.fold(*place) for place in begun}
    if not any(folder.failure.exists() for folder in folders.values()):
        return [], {}
    records = [TrainingRecord.load(folder.record) for folder in folders.values() if _is_well(folder)]
    why = {name: folder.failure for name, folder in folders.items() if not _is_well(folder)}
    # What was ended from outside has said nothing.
    return records, {
        name: TrainingError(Failure.load(path).error) if path.exists() else error for name, path in why.items()
    }


def _is_well(folder: FoldFolder) -> bool:
    return folder.record.exists() and not folder.failure.exists()


def _has_failed(configuration: ConfigurationName | None, failed: Failures) -> bool:
    return configuration is not None and any(name.startswith(f"{configuration} ") for name in failed)


def _without(contents: Contents, failed: Failures, workspace: Workspace) -> Contents:
    """Return what is trained in all folds that were asked for.

    Raises:
        TrainingError: If nothing is.
    """
    if not failed:
        return contents
    names = [
        name
        for name in contents.configurations
        if not any(training_name(name, fold) in failed for fold in contents.folds_of(name))
    ]
    if names:
        return contents.only(names, load_plan(workspace))
    if len(failed) == 1:
        raise next(iter(failed.values()))
    listed = "\n".join(f"  {name}: {error}" for name, error in failed.items())
    raise TrainingError(
        f"{workspace.root}: a configuration must be trained in all its folds to be scored, got {len(failed)} trainings"
        f" that failed:\n{listed}\nMend the cause; the same command goes on with what is missing."
    )
