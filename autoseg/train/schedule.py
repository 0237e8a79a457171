"""How long a training lasts and what the learning rate is on the way."""

import time
from dataclasses import dataclass, field

from autoseg.core.errors import TrainingError


def learning_rate(progress: float, *, peak: float, exponent: float, warmup_fraction: float) -> float:
    """Return the learning rate at a share of the training.

    It rises linearly for the warm-up and then falls as (1 - share) ** exponent.

    Args:
        progress: Share of the training that is done, 0 to 1.
        peak: Highest learning rate.
        exponent: Of the polynomial.
        warmup_fraction: Share of the training that the warm-up takes; 0 for none.

    Source:
        Isensee et al. 2021, Methods, learning rate; rules/blueprint.toml [training].
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup_fraction:
        return peak * progress / warmup_fraction
    return float(peak * (1 - (progress - warmup_fraction) / (1 - warmup_fraction)) ** exponent)


@dataclass
class Clock:
    """What is left of a training, in epochs or in seconds.

    Attributes:
        num_epochs: Length in epochs; None where the budget decides.
        budget_s: Length in seconds; None where the epochs decide.
        spent_s: Seconds that earlier runs of the same training spent.
        started: Reading of `time.monotonic` when this run began.
        noted_s: Of the seconds spent, those that are on disk.
    """

    num_epochs: int | None
    budget_s: float | None
    spent_s: float = 0.0
    started: float = field(default_factory=time.monotonic)
    noted_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.noted_s = self.spent_s
        if (self.num_epochs is None) == (self.budget_s is None):
            raise ValueError("a training must last a number of epochs or a budget, not both and not neither")
        if (self.num_epochs or self.budget_s or 0) <= 0:
            raise TrainingError("training: epochs and budget must be above zero. Give --epochs or --budget a length.")

    def elapsed_s(self) -> float:
        """Return the seconds that this training took so far, all its runs together."""
        return self.spent_s + time.monotonic() - self.started

    def progress(self, epochs_done: float) -> float:
        """Return the share of the training that is done, 0 to 1."""
        if self.num_epochs is not None:
            return min(epochs_done / self.num_epochs, 1.0)
        assert self.budget_s is not None
        return min(self.elapsed_s() / self.budget_s, 1.0)

    def is_over(self, epochs_done: int, reserve_s: float = 0.0) -> bool:
        """Return whether the training has reached its end, `reserve_s` before the budget."""
        if self.num_epochs is not None:
            return epochs_done >= self.num_epochs
        assert self.budget_s is not None
        return self.elapsed_s() >= self.budget_s - reserve_s
