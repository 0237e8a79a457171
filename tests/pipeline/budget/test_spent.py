"""What a run has spent, though it was killed."""

from contextlib import suppress
from pathlib import Path

import pytest

from autoseg.core.errors import AutosegError, InterruptionError, PlanError
from autoseg.core.progress import Silent
from autoseg.core.stopwatch import Stopwatch
from autoseg.core.workspace import Workspace
from autoseg.pipeline.budget import spent
from autoseg.pipeline.budget.spent import Expenses


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(spent, "time", clock)
    monkeypatch.setattr(spent, "SECONDS_BETWEEN_NOTES", 5.0)
    monkeypatch.setattr("autoseg.core.stopwatch.time", clock)
    return clock


def _begin(workspace: Workspace, clock: Clock, request: str = "8h") -> Expenses:
    return Expenses(workspace, request, Stopwatch(started=clock.now_s), Silent())


def test_what_a_killed_run_spent_counts_when_it_goes_on(tmp_path: Path, clock: Clock) -> None:
    workspace = Workspace(tmp_path)
    first = _begin(workspace, clock)
    with first.task("preprocess", 3) as task:
        for seconds in (4.0, 3.0, 4.0):
            clock.now_s += seconds
            task.advance()
    assert not _begin(workspace, clock, "another").watch.seconds

    again = _begin(workspace, clock)
    again.take_up()
    clock.now_s += 10.0
    assert again.watch.elapsed_s() == pytest.approx(7.0 + 10.0)  # of the last 4 s nothing was noted yet
    assert again.watch.seconds == {"until it was broken off": pytest.approx(7.0)}


def test_another_run_has_spent_nothing(tmp_path: Path, clock: Clock) -> None:
    workspace = Workspace(tmp_path)
    clock.now_s += 60.0
    first = _begin(workspace, clock)
    clock.now_s += 60.0
    first.note()
    other = _begin(workspace, clock, "another")
    other.take_up()
    assert other.watch.elapsed_s() == 0.0


@pytest.mark.parametrize(
    ("error", "stays"),
    [(None, False), (PlanError("--budget: must buy more."), False), (InterruptionError("left"), True)],
)
def test_the_note_stays_for_what_is_broken_off(
    tmp_path: Path, clock: Clock, error: AutosegError | None, stays: bool
) -> None:
    workspace = Workspace(tmp_path)
    expenses = _begin(workspace, clock)
    with suppress(AutosegError), expenses.until_over():
        clock.now_s += 60.0
        expenses.note()
        assert workspace.spent.exists()
        if error is not None:
            raise error
    assert workspace.spent.exists() == stays
    again = _begin(workspace, clock)
    again.take_up()
    assert again.watch.elapsed_s() == (60.0 if stays else 0.0)
