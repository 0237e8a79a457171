"""A training in a process of its own, wherever that runs."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Protocol

import filelock
import torch

from autoseg.core.progress import Silent
from autoseg.core.workspace import FoldFolder, Workspace
from autoseg.pipeline.training.failure import Failure
from autoseg.pipeline.training.fold import num_loaders, train
from autoseg.train.failure import writing
from autoseg.train.hooks import NO_HOOKS, Hooks
from autoseg.train.loop import TrainingRequest

LEFT = 128 + signal.SIGTERM
"""Exit code of a training that was asked to leave."""

PATIENCE_S = 20.0
"""How long a process may take to leave that is to."""

OpenHooks = Callable[[Workspace], AbstractContextManager[Hooks]]
"""Importable by name; opens in a training's own process what accompanies the training."""


Begin = Callable[[TrainingRequest], TrainingRequest]
"""Called as a training is about to begin; returns what is trained, which may be shorter than was asked for."""


def as_asked(request: TrainingRequest) -> TrainingRequest:
    """Return a request as it is."""
    return request


@contextmanager
def nothing_else(workspace: Workspace) -> Iterator[Hooks]:  # noqa: ARG001 - the signature of `OpenHooks`
    """Open nothing."""
    yield NO_HOOKS


@dataclass(frozen=True)
class Slot:
    """Where a training runs.

    Attributes:
        device: See `choose_device`.
        num_threads: Of the CPU; None leaves them as they are.
    """

    device: str
    num_threads: int | None


@dataclass(frozen=True)
class Job:
    """A training in a process of its own.

    Attributes:
        workspace: Of a planned dataset.
        request: What to train.
        num_workers: Processes that preprocess, where that has not been done, and that load patches.
        open_hooks: What accompanies it.
        num_threads: Of the CPU; None leaves them as they are.
    """

    workspace: Workspace
    request: TrainingRequest
    num_workers: int
    open_hooks: OpenHooks
    num_threads: int | None = None

    @property
    def name(self) -> str:
        """For people."""
        return self.request.name

    @property
    def folder(self) -> FoldFolder:
        """Where it trains."""
        return self.workspace.fold(self.request.configuration, self.request.fold)

    def on(self, slot: Slot) -> "Job":
        """Return the job for a place."""
        return replace(self, request=replace(self.request, device=slot.device), num_threads=slot.num_threads)

    def __call__(self) -> None:
        """Train.

        Raises:
            AutosegError: See `train`.
        """
        if self.num_threads is not None:
            torch.set_num_threads(self.num_threads)
        self._wait_for_the_one_before()
        request = replace(self.request, num_workers=num_loaders(self.request.device, self.num_workers))
        with self.open_hooks(self.workspace) as hooks:
            train(self.workspace, request, self.num_workers, Silent(), hooks)

    def _wait_for_the_one_before(self) -> None:
        """Give a training that was left alone here the time to write its checkpoint and to leave."""
        with writing(self.folder.root):
            self.folder.root.mkdir(parents=True, exist_ok=True)
            with suppress(filelock.Timeout), filelock.FileLock(self.folder.lock, timeout=PATIENCE_S):
                pass  # If it is still held, the training says so.

    def forget_failure(self) -> None:
        """Remove what an earlier process has said of its failure."""
        with writing(self.folder.failure):
            self.folder.failure.unlink(missing_ok=True)

    def failure(self, ending: str) -> str:
        """Return why its process has failed: what it has said itself, else how it has ended, which is then kept."""
        if self.folder.failure.exists():
            return Failure.load(self.folder.failure).error
        with suppress(OSError):  # That nothing can be written there may be why.
            Failure(error=ending).save(self.folder.failure)
        return ending


class Running(Protocol):
    """The process of a job."""

    def has_ended(self) -> bool:
        """Return whether it is over."""

    def waits_for(self) -> str | None:
        """Return what it waits for before it begins; None once it has."""

    def leave(self) -> None:
        """Ask it to write a checkpoint and to leave; asked again, to end at once."""

    def end(self) -> None:
        """See to its end, as the process that attends to it ends."""

    def trouble(self) -> str | None:
        """Return why it has failed; None if it has not. It must have ended."""


Start = Callable[[Job], Running]
