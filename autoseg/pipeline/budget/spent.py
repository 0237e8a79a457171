"""What a run has spent of its budget so far, for when it is broken off."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from autoseg.core.artefact import Artefact
from autoseg.core.errors import AutosegError, InterruptionError
from autoseg.core.progress import Progress, Task
from autoseg.core.stopwatch import Stopwatch
from autoseg.core.workspace import Workspace
from autoseg.train.hooks import Hooks

BEFORE = "until it was broken off"
"""Name of the stage that stands for all that an earlier process has done of the run."""

SECONDS_BETWEEN_NOTES = 1.0
"""At most so much is not counted of a run that is killed."""


class Spent(Artefact):
    """Seconds of a budget that are gone; `made_from` names the request."""

    seconds: float


@dataclass
class Expenses:
    """Notes on disk what a run has spent, and shows its progress meanwhile.

    Attributes:
        workspace: Keeps the note.
        request: Digest of what was asked for: other runs in the workspace have spent their own time.
        watch: Of the run.
        shown: Shows its progress.
    """

    workspace: Workspace
    request: str
    watch: Stopwatch
    shown: Progress
    _noted_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._noted_s = time.monotonic()

    def take_up(self) -> None:
        """Let the watch begin as much earlier as the run had spent when it was broken off."""
        if not self.workspace.spent.exists():
            return
        known = Spent.load(self.workspace.spent)
        if known.made_from == {"request": self.request}:
            self.watch.seconds[BEFORE] = known.seconds
            self.watch.started -= known.seconds

    def note(self) -> None:
        """Write what is spent, if that was not done just now."""
        if time.monotonic() - self._noted_s >= SECONDS_BETWEEN_NOTES:
            self._write()

    def _write(self) -> None:
        self._noted_s = time.monotonic()
        Spent(made_from={"request": self.request}, seconds=self.watch.elapsed_s()).save(self.workspace.spent)

    def noting(self, hooks: Hooks) -> Hooks:
        """Return hooks which note what is spent whenever a training asks whether it is to end."""

        @contextmanager
        def stopping() -> Iterator[Callable[[], bool]]:
            with hooks.stopping() as should_stop:

                def noted() -> bool:
                    self.note()
                    return should_stop()

                yield noted

        return replace(hooks, stopping=stopping)

    @contextmanager
    def until_over(self) -> Iterator[None]:
        """Within the block, which is the run, a note stands for what was spent if it is broken off.

        A run that has failed begins anew.
        """
        try:
            yield
        except InterruptionError:
            self._write()
            raise
        except AutosegError:
            self.workspace.spent.unlink(missing_ok=True)
            raise
        self.workspace.spent.unlink(missing_ok=True)

    @contextmanager
    def task(self, name: str, total: float) -> Iterator[Task]:
        """Open a task whose steps are occasions to note what is spent."""
        with self.shown.task(name, total) as task:
            yield _Noting(task, self)
        self.note()


@dataclass(frozen=True)
class _Noting:
    """A task that passes on how far it is, and has it noted what is spent."""

    task: Task
    expenses: Expenses

    def advance(self, steps: float = 1, **shown: str) -> None:
        self.task.advance(steps, **shown)
        self.expenses.note()

    def position(self, done: float, **shown: str) -> None:
        self.task.position(done, **shown)
        self.expenses.note()
