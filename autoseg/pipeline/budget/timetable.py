"""How long each training of a run may take: as it was allocated, or less where the work before it took longer."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from autoseg.core.workspace import Workspace
from autoseg.pipeline.budget.schedule import Allocation, Contents, Share, training_name
from autoseg.plan.schema import ConfigurationName
from autoseg.train.record import TrainingRecord

log = logging.getLogger(__name__)

NOTEWORTHY = 0.01
"""Share of its time by which a training must be cut for that to be said."""


@dataclass
class Timetable:
    """The lengths of a run's trainings, each decided when it begins and kept from then on.

    A training that was broken off goes on to the length that it began with; the time of the run until then counts.

    Attributes:
        workspace: Keeps the allocation.
        contents: What is trained.
        budget_s: Seconds for everything.
        elapsed_s: Returns the seconds since this process took up the run.
        least_steps: That a training takes even where nothing is left.
    """

    workspace: Workspace
    contents: Contents
    budget_s: float
    elapsed_s: Callable[[], float]
    least_steps: int
    allocation: Allocation = field(init=False)
    _earlier_s: float = field(init=False)
    _announced: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        self.allocation = Allocation.load(self.workspace.allocation)
        self._earlier_s = self.allocation.spent_s + self._finished_since_s()

    def _finished_since_s(self) -> float:
        """Return what the training took that has begun last, if it is over: no other has said since what was spent."""
        last = next(reversed(self.allocation.begun), None)
        return sum(
            TrainingRecord.load(folder.record).seconds
            for name in self.contents.configurations
            for fold in self.contents.folds_of(name)
            if training_name(name, fold) == last and (folder := self.workspace.fold(name, fold)).record.exists()
        )

    def begin(self, configuration: ConfigurationName, fold: int) -> float:
        """Return the seconds of a training that is about to begin, or to go on; a cut is logged in one line."""
        name = training_name(configuration, fold)
        if name in self.allocation.begun:
            return self.allocation.begun[name]
        share = next(share for share in self.allocation.shares if share.configuration == configuration)
        part = min(self._left_s() / self._planned_s(), 1.0)
        least_s = min(self.least_steps * share.training_s / max(share.num_steps, 1), share.training_s)
        length_s = max(part * share.training_s, least_s)
        self._announce(name, share, length_s)
        begun = {**self.allocation.begun, name: length_s}
        self.allocation = self.allocation.model_copy(update={"begun": begun, "spent_s": self._spent_s()})
        self.allocation.save(self.workspace.allocation)
        return length_s

    @contextmanager
    def counting(self, configuration: ConfigurationName, fold: int) -> Iterator[None]:
        """Within the block, which trains a fold, count what the training took before it was broken off."""
        folder = self.workspace.fold(configuration, fold)
        is_done = folder.record.exists()
        began_s = time.monotonic()
        yield
        if not is_done:
            seconds = TrainingRecord.load(folder.record).seconds
            self._earlier_s += max(seconds - (time.monotonic() - began_s), 0.0)

    def _spent_s(self) -> float:
        return self._earlier_s + self.elapsed_s()

    def _left_s(self) -> float:
        """Return the seconds that are left for trainings."""
        return max(self.budget_s - self._spent_s() - self._reserved_s(), 0.0)

    def _reserved_s(self) -> float:
        """Return what is set aside for what follows the trainings, and for what a cascade's first one begins with."""
        stages_s = sum(share.stage_s for share in self.allocation.shares if not self._has_begun(share))
        predictions_s = sum(share.prediction_s for share in self.allocation.shares)
        return stages_s + predictions_s + (self.allocation.after_s or 0.0)

    def _has_begun(self, share: Share) -> bool:
        name = share.configuration
        return any(training_name(name, fold) in self.allocation.begun for fold in self.contents.folds_of(name))

    def _planned_s(self) -> float:
        """Return the allocated seconds of all trainings that have not begun."""
        return sum(
            share.training_s
            for share in self.allocation.shares
            for fold in self.contents.folds_of(share.configuration)
            if training_name(share.configuration, fold) not in self.allocation.begun
        )

    def _announce(self, name: str, share: Share, length_s: float) -> None:
        part = length_s / share.training_s
        if part > self._announced - NOTEWORTHY:
            return
        self._announced = part
        log.info(
            "Behind the plan: %s and what follows get %.0f %% of their time, %.0f s instead of %.0f s each, so that the"
            " budget of %.0f s holds.",
            name,
            100 * part,
            length_s,
            share.training_s,
            self.budget_s,
        )


def begin_together(workspace: Workspace, contents: Contents, spent_s: float) -> dict[str, float]:
    """Return the seconds of trainings that run beside each other, by name, and keep them.

    None is cut; those that began in an earlier run go on to the length that they had then, one by one or not.

    Args:
        workspace: Keeps the allocation.
        contents: What is trained.
        spent_s: Of the budget, as the first of them begins.
    """
    allocation = Allocation.load(workspace.allocation)
    shares = {share.configuration: share.training_s for share in allocation.shares}
    lengths = {
        training_name(name, fold): seconds for name, seconds in shares.items() for fold in contents.folds_of(name)
    }
    begun = {**lengths, **allocation.begun}
    if begun != allocation.begun:
        allocation.model_copy(update={"begun": begun, "spent_s": spent_s}).save(workspace.allocation)
    return begun
