"""How stages report progress without knowing who shows it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """A running piece of work."""

    def advance(self, steps: float = 1, **shown: str) -> None:
        """Count `steps` more as done and show the named texts beside the bar, for example `dice="0.871"`."""

    def position(self, done: float, **shown: str) -> None:
        """Set what is done to `done`, for work that is measured in seconds."""


class Progress(Protocol):
    """Something that shows tasks: a terminal, a log, nothing."""

    def task(self, name: str, total: float) -> AbstractContextManager[Task]:
        """Open a task of `total` steps; it closes with the block."""


class _SilentTask:
    def advance(self, steps: float = 1, **shown: str) -> None:
        pass

    def position(self, done: float, **shown: str) -> None:
        pass


class Silent:
    """Shows nothing."""

    @contextmanager
    def task(self, name: str, total: float) -> Iterator[Task]:  # noqa: ARG002 - the protocol's arguments
        """Open a task that nobody sees."""
        yield _SilentTask()
