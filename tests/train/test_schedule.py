import time

import pytest

from autoseg.core.errors import TrainingError
from autoseg.train.schedule import Clock, learning_rate


@pytest.mark.parametrize(
    ("progress", "exponent", "warmup_fraction", "expected"),
    [
        (0.0, 1.0, 0.0, 2.0),
        (0.25, 1.0, 0.0, 1.5),
        (0.5, 2.0, 0.0, 0.5),
        (1.0, 0.9, 0.0, 0.0),
        (0.0, 1.0, 0.2, 0.0),
        (0.1, 1.0, 0.2, 1.0),
        (0.1999999, 1.0, 0.2, 1.999999),
        (0.2, 1.0, 0.2, 2.0),
        (0.6, 1.0, 0.2, 1.0),
        (1.0, 1.0, 0.2, 0.0),
        (-0.1, 1.0, 0.0, 2.0),
        (1.1, 0.9, 0.2, 0.0),
    ],
)
def test_learning_rate(progress: float, exponent: float, warmup_fraction: float, expected: float) -> None:
    rate = learning_rate(progress, peak=2.0, exponent=exponent, warmup_fraction=warmup_fraction)
    assert rate == pytest.approx(expected)


class Time:
    """A clock that stands still until it is told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.mark.parametrize(
    ("epochs_done", "progress", "is_over"), [(0, 0.0, False), (3, 0.75, False), (4, 1.0, True), (5, 1.0, True)]
)
def test_a_length_in_epochs(fake_time: Time, epochs_done: int, progress: float, is_over: bool) -> None:
    clock = Clock(num_epochs=4, budget_s=None)
    fake_time.now += 1e6
    assert clock.progress(epochs_done) == progress
    assert clock.is_over(epochs_done) is is_over


def test_progress_within_an_epoch(fake_time: Time) -> None:
    assert Clock(num_epochs=4, budget_s=None).progress(0.5) == 0.125


@pytest.mark.parametrize(
    ("spent_s", "passed_s", "progress", "is_over"),
    [
        (0.0, 0.0, 0.0, False),
        (0.0, 30.0, 0.5, False),
        (40.0, 5.0, 0.75, False),
        (0.0, 49.5, 0.825, False),
        (0.0, 50.0, 5 / 6, True),
        (40.0, 10.0, 5 / 6, True),
        (0.0, 90.0, 1.0, True),
    ],
)
def test_a_budget_ends_before_its_reserve(
    fake_time: Time, spent_s: float, passed_s: float, progress: float, is_over: bool
) -> None:
    clock = Clock(num_epochs=None, budget_s=60.0, spent_s=spent_s, started=fake_time.now)
    fake_time.now += passed_s
    assert clock.elapsed_s() == spent_s + passed_s
    assert clock.progress(epochs_done=0) == pytest.approx(progress)
    assert clock.is_over(epochs_done=0, reserve_s=10.0) is is_over


@pytest.mark.parametrize(("num_epochs", "budget_s"), [(None, None), (1, 1.0)])
def test_a_training_has_one_length(num_epochs: int | None, budget_s: float | None) -> None:
    with pytest.raises(ValueError, match="a number of epochs or a budget"):
        Clock(num_epochs, budget_s)


@pytest.mark.parametrize(("num_epochs", "budget_s"), [(0, None), (-1, None), (None, 0.0), (None, -5.0)])
def test_no_length_is_refused(num_epochs: int | None, budget_s: float | None) -> None:
    with pytest.raises(TrainingError, match="must be above zero"):
        Clock(num_epochs, budget_s)
