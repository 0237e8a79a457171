"""Seconds of training steps on a GPU, as autoseg takes them and with one thing changed, beside published times."""

import inspect
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.network.unet import lay_channels_last
from autoseg.train.sampling import load_batches
from autoseg.train.trainer import Trainer
from tools.gpu_bench import Bench, make_bench

PUBLISHED_H100_S = {"hippocampus": 5.7, "heart": 26.0, "braintumour": 53.0}
"""Seconds per epoch of 250 steps of nnU-Net v2, plain plans for 8 GB, on an H100, as its authors publish them."""

STEPS_PER_EPOCH = 250

AIM = 0.5
"""Of the published time."""

WAITING_SHARE = 0.05
"""Of the time of the steps, what may pass until patches are there."""

NUM_STEPS, WARM_UP = 100, 20
NUM_TINY_STEPS, TINY_WARM_UP = 2, 1


@dataclass(frozen=True)
class Timing:
    """Training steps of a plan, with loading and augmentation.

    Attributes:
        task: Whose plan it is.
        variant: What was changed.
        first_s: Seconds of the first step: what is compiled or looked for takes its time there.
        epoch_s: Seconds of as many steps as an epoch has, by the mean of many.
        slowest_s: Seconds of the slowest of the steps.
        waiting_share: Of the time, what passed until patches were there.
        peak_bytes: Most memory that tensors took; 0 where no allocator tells.
    """

    task: str
    variant: str
    first_s: float
    epoch_s: float
    slowest_s: float
    waiting_share: float
    peak_bytes: int

    @property
    def ratio(self) -> float:
        """Of the published time."""
        return self.epoch_s / PUBLISHED_H100_S[self.task]


def heuristic_convolutions(_trainer: Trainer) -> None:
    """Have cuDNN choose its algorithms by rules of thumb; the trainer had it try all."""
    torch.backends.cudnn.benchmark = False


def channels_last(trainer: Trainer) -> None:
    """Lay the channels of weights, and so of maps, last."""
    lay_channels_last(trainer.network)


def fused_optimizer(trainer: Trainer) -> None:
    """Have the optimiser take its step in one kernel, which asks on the device whether gradients are finite."""
    kind = type(trainer.optimizer)
    known = inspect.signature(kind).parameters
    settings = {name: value for name, value in trainer.optimizer.defaults.items() if name in known}
    trainer.optimizer = kind(trainer.network.parameters(), **{**settings, "fused": True, "foreach": False})


def brain_floats(trainer: Trainer) -> None:
    """Compute in bfloat16, whose gradients need no scaling."""
    trainer.precision = "bfloat16"
    trainer.scaler = torch.amp.GradScaler(trainer.device.type, enabled=False)


def compiled(trainer: Trainer) -> None:
    """Compile what training calls: for a GPU; elsewhere it is only traced, as there may be no compiler."""
    backend = "inductor" if trainer.device.type == "cuda" else "eager"
    trainer.network.forward_all = torch.compile(trainer.network.forward_all, backend=backend)  # type: ignore[method-assign]


Change = Callable[[Trainer], None]

VARIANTS: dict[str, tuple[Change, ...]] = {
    "as it is": (),
    "cuDNN by rules of thumb": (heuristic_convolutions,),
    "channels last": (channels_last,),
    "fused optimiser": (fused_optimizer,),
    "bfloat16": (brain_floats,),
    "compiled": (compiled,),
    "compiled, channels last": (channels_last, compiled),
    "compiled, fused optimiser": (fused_optimizer, compiled),
}


def time_plans(device: torch.device, num_workers: int, *, is_tiny: bool) -> list[Timing]:
    """Return the timings of all plans, tiny: of one, and variants.

    Args:
        device: That trains.
        num_workers: Processes that load patches; 0 loads between the steps.
        is_tiny: See `make_bench`.
    """
    tasks = list(PUBLISHED_H100_S)
    return [
        timing
        for task in (tasks[:1] if is_tiny else tasks)
        for timing in _timings(task, device, num_workers, is_tiny=is_tiny)
    ]


def _timings(task: str, device: torch.device, num_workers: int, *, is_tiny: bool) -> Iterator[Timing]:
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(task, device, Path(folder), is_tiny=is_tiny)
        for variant, changes in VARIANTS.items():
            with _global_settings_kept():
                trainer = bench.trainer()
                for change in changes:
                    change(trainer)
                yield _timed(bench, trainer, (task, variant), num_workers)
            del trainer
            torch.cuda.empty_cache()


@contextmanager
def _global_settings_kept() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
        torch.compiler.reset()


def _timed(bench: Bench, trainer: Trainer, names: tuple[str, str], num_workers: int) -> Timing:
    """Return the time of steps; the device is waited for at the end alone, as in training."""
    num_steps, warm_up = (NUM_TINY_STEPS, TINY_WARM_UP) if bench.is_tiny else (NUM_STEPS, WARM_UP)
    rate = bench.made.training.learning_rate
    took: list[float] = []
    waited_s = 0.0
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    with closing(load_batches(bench.source, 0, num_workers)) as batches:
        first_s = _seconds(bench, lambda: trainer.step(next(batches), rate, 0))
        for step in range(1, warm_up):
            trainer.step(next(batches), rate, step)
        synchronize(bench.device)
        for step in range(warm_up, warm_up + num_steps):
            began = time.perf_counter()
            batch = next(batches)
            waited_s += time.perf_counter() - began
            trainer.step(batch, rate, step)
            took.append(time.perf_counter() - began)
        took[-1] += _seconds(bench, lambda: None)
    peak_bytes = torch.cuda.max_memory_allocated(bench.device) if bench.device.type == "cuda" else 0
    epoch_s = STEPS_PER_EPOCH * statistics.mean(took)
    return Timing(*names, first_s, epoch_s, max(took), waited_s / sum(took), peak_bytes)


def _seconds(bench: Bench, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    synchronize(bench.device)
    return time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
