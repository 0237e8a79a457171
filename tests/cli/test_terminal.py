import threading
import time
from io import StringIO

import pytest
from rich.console import Console

from autoseg.cli import terminal
from autoseg.cli.terminal import TerminalProgress, quiet_threads


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_a_log_tells_how_far_a_task_is_and_what_is_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress().task("train", 10) as task:
        clock.now += 40
        task.advance(1, lr="0.01")
        clock.now += 80
        task.advance(2, dice="0.8")
    assert capsys.readouterr().err.splitlines() == [
        "train: 10%, 6 min 00 s left lr 0.01",
        "train: 30%, 4 min 40 s left lr 0.01  dice 0.8",
    ]


def test_what_an_earlier_run_did_says_nothing_of_the_pace(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress().task("train", 10) as task:
        task.position(8)
        clock.now += 50
        task.position(9)
    assert capsys.readouterr().err == "train: 90%, 50 s left\n"


def test_a_bar_shows_time_left_and_fields(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    shown = StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=shown, force_terminal=True, width=140, soft_wrap=True))
    with TerminalProgress().task("train", 20) as task:
        task.position(10.0)
        clock.now += 30
        task.position(15.0, lr="0.01", dice="0.871 (organ 0.87)")
    assert "30 s left" in shown.getvalue()
    assert "lr 0.01  dice 0.871 (organ 0.87)" in shown.getvalue()


def test_tasks_that_are_open_at_a_time_have_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=shown, force_terminal=True, width=140, soft_wrap=True))
    progress = TerminalProgress()
    with progress.task("2d, fold 0", 20) as first, progress.task("2d, fold 1", 12.5) as second:
        first.position(10.0, dice="0.871", waits_for="")
        second.position(5.0, loss="0.5/0.6")
    lines = [line for line in shown.getvalue().splitlines() if "2d, fold" in line][-2:]
    assert "10/20" in lines[0]
    assert lines[0].rstrip().endswith("dice 0.871")
    assert "40 %" in lines[1]
    with progress.task("evaluate", 3) as last:
        last.advance(3)
    assert "evaluate" in shown.getvalue()


def test_nothing_is_left_of_what_is_done(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress().task("check", 2) as task:
        clock.now += 5
        task.advance(2)
    assert capsys.readouterr().err == "check: 100%\n"


def test_a_thread_that_fails_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    before = threading.excepthook

    def fail() -> None:
        raise RuntimeError("a worker is gone")

    with quiet_threads():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert threading.excepthook is before
    assert capfd.readouterr() == ("", "")


def test_names_with_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_table("Dice of [left]", ("", "lesion [ml]"), [("T1[/T2]", "[bold]0.5")])
    terminal.out.print("Wrote [a]/b")
    with terminal.TerminalProgress().task("[x] fold 0", 1) as task:
        task.advance(case="[/c]")
    shown = capsys.readouterr()
    for text in ("Dice of [left]", "lesion [ml]", "T1[/T2]", "[bold]0.5", "Wrote [a]/b"):
        assert text in shown.out
    assert "[x] fold 0: 100% case [/c]" in shown.err
