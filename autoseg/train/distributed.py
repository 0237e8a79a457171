"""Several processes that train one network: each learns from its part of every batch, and all take the same steps.

`torchrun` starts the processes. Gradients are added up after the backward pass, so that samples weigh alike however
they are shared out, and the network, its checkpoints and its weights are those of a training in one process. The first
process also does what must be done once: it validates, writes and decides.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed

from autoseg.core.errors import AutosegError, TrainingError
from autoseg.core.parallel import is_launched

Result = TypeVar("Result")

PATIENCE = timedelta(days=7)
"""How long a process waits for others: longer than any of them preprocesses or validates. torchrun ends what is left
when one of them dies."""


@dataclass(frozen=True)
class Team:
    """The processes that train one network together.

    Attributes:
        rank: Number of this process.
        size: Number of processes; 1 where a process trains alone, and nothing is exchanged.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process does what must be done once."""
        return self.rank == 0

    def part(self, num_samples: int) -> slice:
        """Return which samples of a batch are this process's own.

        Raises:
            TrainingError: If there are fewer samples than processes.
        """
        if num_samples < self.size:
            raise TrainingError(
                f"torchrun: a batch must have a sample for every process, got {num_samples} for {self.size}."
                f" Start at most {num_samples} processes, or plan with a larger --batch-size."
            )
        return slice(self.rank * num_samples // self.size, (self.rank + 1) * num_samples // self.size)

    def total(self, own: Tensor) -> Tensor:
        """Return a tensor added up over the processes; its gradient is that of this process's own."""
        if self.size == 1:
            return own
        total = own.detach().clone()
        with _others_alive():
            distributed.all_reduce(total)
        return total + (own - own.detach()) if own.requires_grad else total

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their totals over the processes, in one exchange."""
        if self.size == 1 or not tensors:
            return
        flat = self.total(torch.cat([tensor.flatten() for tensor in tensors]))
        for tensor, total in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Return whether the flag is up in any process."""
        return bool(self.total(torch.tensor(float(flag))) > 0)

    def decided(self, value: float) -> float:
        """Return the value of the first process, whose clock counts."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        with _others_alive():
            distributed.broadcast(shared, src=0)
        return shared.item()

    def by_first(self, work: Callable[[], Result]) -> Result:
        """Have the first process do some work; return its result in all.

        Raises:
            AutosegError: In all processes, what the work raises in the first.
        """
        if self.size == 1:
            return work()
        outcome: list[Result | AutosegError | None] = [None]
        if self.is_first:
            try:
                outcome = [work()]
            except AutosegError as error:
                outcome = [error]
        with _others_alive():
            distributed.broadcast_object_list(outcome, src=0)
        if isinstance(outcome[0], AutosegError):
            raise outcome[0]
        return cast(Result, outcome[0])


ALONE = Team()
"""A process that trains by itself."""


@contextmanager
def teamed() -> Iterator[Team]:
    """Within the block, work with the processes that `torchrun` has started; alone, if it has not.

    Their group must be gone after it, or its threads live on, and torch may abort the end of the process. Functions of
    `torch.distributed.nn` keep the group that is there when torch is made to import them, by the first step of an
    optimiser for example: they are imported before (torch 2.13).
    """
    size = int(os.environ["WORLD_SIZE"]) if is_launched() else 1
    if size == 1:
        yield ALONE
        return
    import_module("torch.distributed.nn")
    has_gpu = torch.cuda.is_available()
    if has_gpu and _local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(_local_rank())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout=PATIENCE)
    try:
        yield Team(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()


def own_device(name: str, team: Team) -> str:
    """Return the device of this process: of several GPUs the one that `torchrun` numbered, else what was asked for.

    Raises:
        TrainingError: If several processes are to share a GPU, named by its number or for want of others.
    """
    if team.size == 1 or name == "cpu" or not torch.cuda.is_available():
        return name
    if name not in ("auto", "cuda"):
        raise TrainingError(f"--device: must be auto, cuda or cpu under torchrun, got {name}. It numbers the GPUs.")
    num_gpus = torch.cuda.device_count()
    if _local_rank() >= num_gpus:
        raise TrainingError(
            f"torchrun: every process must have a GPU of its own, got {num_gpus} for more processes. Start it with"
            f" --nproc-per-node {num_gpus}, or train with --device cpu."
        )
    return f"cuda:{_local_rank()}"


def _local_rank() -> int:
    """Return the number of this process among those of its machine."""
    return int(os.environ["LOCAL_RANK"])


@contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"torchrun: all processes must live as long as the training, got the end of one ({reason})."
            " It says why; the last checkpoint is intact, and the same command goes on from it."
        ) from None
