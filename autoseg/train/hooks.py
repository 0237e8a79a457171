"""What accompanies a training, at the wish of whoever called for it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from autoseg.core.workspace import FoldName
from autoseg.plan.schema import ConfigurationName


@contextmanager
def _never() -> Iterator[Callable[[], bool]]:
    yield lambda: False


def _nothing(configuration: ConfigurationName, fold: FoldName) -> None:
    pass


@dataclass(frozen=True)
class Hooks:
    """What ends a training early and what its epochs bring about; the defaults do nothing.

    Attributes:
        stopping: Opens a block, and gives a function that the training asks between its steps within the block: if it
            returns True, the training writes a checkpoint and leaves.
        after_epoch: Called with configuration and fold whenever the history on disk has a new row.
    """

    stopping: Callable[[], AbstractContextManager[Callable[[], bool]]] = _never
    after_epoch: Callable[[ConfigurationName, FoldName], None] = _nothing


NO_HOOKS = Hooks()
