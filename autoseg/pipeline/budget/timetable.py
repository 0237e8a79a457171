"""How long each training of a run may take: as it was allocated, or less where the work before it took longer."""

import heapq
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from autoseg.core.workspace import FoldFolder, Workspace
from autoseg.pipeline.budget.schedule import Allocation, Contents, Share, Waves, training_name
from autoseg.pipeline.budget.together import wall_s
from autoseg.plan.schema import ConfigurationName
from autoseg.train.record import seconds_taken

log = logging.getLogger(__name__)

NOTEWORTHY = 0.01
"""Share of its time by which a training must be cut for that to be said."""

HALVINGS = 40
"""Of the range in which the share of their time is looked for that trainings get."""


@dataclass
class Timetable:
    """The lengths of a run's trainings, each decided when it begins and kept from then on.

    A training that was broken off goes on to the length that it began with.

    Attributes:
        workspace: Keeps the allocation.
        contents: What is trained.
        budget_s: Seconds for everything.
        elapsed_s: Returns the seconds that the run has spent, before it was broken off too.
        least_steps: That a training takes even where nothing is left.
        num_places: How many trainings run at a time.
        waves: In which configurations follow each other where trainings run beside each other.
    """

    workspace: Workspace
    contents: Contents
    budget_s: float
    elapsed_s: Callable[[], float]
    least_steps: int
    num_places: int
    waves: Waves
    allocation: Allocation = field(init=False)
    _announced: float = field(init=False, default=1.0)
    _ends_s: dict[FoldFolder, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.allocation = Allocation.load(self.workspace.allocation)

    def given_s(self, configuration: ConfigurationName, fold: int) -> float:
        """Return the seconds that a training began with; those that were allocated, if it has not begun."""
        return self.allocation.begun.get(training_name(configuration, fold), self._share(configuration).training_s)

    def begin(self, configuration: ConfigurationName, fold: int) -> float:
        """Return the seconds of a training that is about to begin, or to go on; a cut is logged in one line."""
        name, folder, so_far_s = training_name(configuration, fold), self.workspace.fold(configuration, fold), 0.0
        if name in self.allocation.begun:
            so_far_s = seconds_taken(folder)
        else:
            self._decide(configuration, name)
        length_s = self.allocation.begun[name]
        self._ends_s[folder] = self.elapsed_s() + length_s - so_far_s
        return length_s

    def _decide(self, configuration: ConfigurationName, name: str) -> None:
        """Keep the seconds of a training that begins."""
        share = self._share(configuration)
        least_s = min(self.least_steps * share.training_s / max(share.num_steps, 1), share.training_s)
        length_s = max(self._part(configuration) * share.training_s, least_s)
        self._announce(name, share, length_s)
        begun = {**self.allocation.begun, name: length_s}
        self.allocation = self.allocation.model_copy(update={"begun": begun})
        self.allocation.save(self.workspace.allocation)

    def _share(self, configuration: ConfigurationName) -> Share:
        return next(share for share in self.allocation.shares if share.configuration == configuration)

    def _left_s(self, beginning: ConfigurationName) -> float:
        """Return the seconds that are left for trainings."""
        return max(self.budget_s - self.elapsed_s() - self._reserved_s(beginning), 0.0)

    def _reserved_s(self, beginning: ConfigurationName) -> float:
        """Return what is set aside for what follows the trainings, and for what cascades begin with.

        Of a cascade that begins now, the stage before it has predicted already.
        """
        shares = [share for share in self.allocation.shares if share.configuration != beginning]
        stages_s = sum(share.stage_s for share in shares if not self._has_begun(share))
        predictions_s = sum(share.prediction_s for share in self.allocation.shares)
        return stages_s + predictions_s + (self.allocation.after_s or 0.0)

    def _has_begun(self, share: Share) -> bool:
        name = share.configuration
        return any(training_name(name, fold) in self.allocation.begun for fold in self.contents.folds_of(name))

    def _part(self, beginning: ConfigurationName) -> float:
        """Return the part of their time for which all that have not begun end in time, at most 1."""
        left_s, busy_s = self._left_s(beginning), self._busy_s()

        def ends_in_time(part: float) -> bool:
            taken_s = 0.0
            for wave in self.waves:
                lengths_s = [part * length_s for length_s in self._waiting_s(wave)]
                taken_s += wall_s(lengths_s, self.num_places, busy_s if beginning in wave else ())
            return taken_s <= left_s

        if ends_in_time(1.0):
            return 1.0
        least, most = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (least + most) / 2
            least, most = (middle, most) if ends_in_time(middle) else (least, middle)
        return least

    def _waiting_s(self, names: tuple[ConfigurationName, ...]) -> list[float]:
        """Return the allocated seconds of the trainings of configurations that have not begun, in their order."""
        return [
            self._share(name).training_s
            for name in names
            for fold in self.contents.folds_of(name)
            if training_name(name, fold) not in self.allocation.begun
        ]

    def _busy_s(self) -> list[float]:
        """Return the seconds that trainings still take which run beside one that begins."""
        now_s = self.elapsed_s()
        left_s = [max(end_s - now_s, 0.0) for folder, end_s in self._ends_s.items() if not _is_over(folder)]
        return heapq.nlargest(self.num_places - 1, left_s)

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


def _is_over(folder: FoldFolder) -> bool:
    """Return whether a training has ended or failed."""
    return folder.record.exists() or folder.failure.exists()
