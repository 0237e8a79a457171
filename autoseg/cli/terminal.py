"""What a person at a terminal sees: progress on stderr, results on stdout, messages that say what to do."""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pydantic import BaseModel
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.table import Table
from rich.text import Text

from autoseg.core.progress import Task

log = logging.getLogger(__name__)

out = Console(highlight=False, soft_wrap=True, markup=False)
"""Results. Names of classes and cases may hold what looks like markup: nothing is taken for it."""

err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
"""Logs, progress, errors."""

SECONDS_BETWEEN_LINES = 30.0
"""How often a task reports where no terminal shows a bar."""


def show_logs(*, debug: bool) -> None:
    """Send the package's logs to stderr."""
    logger = logging.getLogger("autoseg")
    logger.handlers = [RichHandler(console=err, show_time=False, show_path=False, show_level=False)]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Within the block, log why a background thread ended: what it leads to gets a message of its own."""
    before = threading.excepthook
    threading.excepthook = lambda ended: log.debug("A background thread ended.", exc_info=ended.exc_value)
    try:
        yield
    finally:
        threading.excepthook = before


class _TimeLeft(ProgressColumn):
    """What is left, by the task's pace."""

    def render(self, task: RichTask) -> Text:
        left_s = task.fields["left_s"]
        return Text("" if left_s is None else f"{duration(left_s)} left", style="cyan")


class _Count(ProgressColumn):
    """What is done: in whole steps where there are not too many, else in percent."""

    def render(self, task: RichTask) -> Text:
        total = task.total or 0.0
        if total != int(total) or total > 10000:
            return Text(f"{task.percentage:>3.0f} %")
        return Text(f"{int(task.completed)}/{int(total)}", style="progress.download")


class _Pace:
    """How fast a task gets on, from where it stood when it was seen first."""

    def __init__(self, total: float) -> None:
        self._total = total
        self._first, self._began_s = 0.0, time.monotonic()
        self._has_begun = False

    def begin_at(self, done: float) -> None:
        """Count from `done`, the first time only: what an earlier run did says nothing of the pace of this one."""
        if not self._has_begun:
            self._has_begun = True
            self._first, self._began_s = done, time.monotonic()

    def left_s(self, done: float) -> float | None:
        """Return the seconds until the end; None at the end, and while nothing is known."""
        if not self._first < done < self._total:
            return None
        return (time.monotonic() - self._began_s) * (self._total - done) / (done - self._first)


class TerminalProgress:
    """Shows tasks as bars on a terminal, one below the other, and as a line now and then in a log."""

    def __init__(self) -> None:
        self._bars: RichProgress | None = None
        self._num_open = 0

    @contextmanager
    def task(self, name: str, total: float) -> Iterator[Task]:
        """Open a task that is seen until it closes; others may be open at the time."""
        if not err.is_terminal:
            yield _SeenTask(max(total, 1e-9), _Lines(name, max(total, 1e-9)))
            return
        with self._shared_bars() as bars:
            number = bars.add_task(name, total=max(total, 1e-9), shown="", left_s=None)

            def show(done: float, left_s: float | None, shown: str) -> None:
                bars.update(number, completed=done, left_s=left_s, shown=shown)

            yield _SeenTask(max(total, 1e-9), show)

    @contextmanager
    def _shared_bars(self) -> Iterator[RichProgress]:
        """Give the bars of all tasks that are open; a terminal has room for one display at a time."""
        if self._bars is None:
            self._bars = RichProgress(
                TextColumn("{task.description:<14}", markup=False),
                BarColumn(bar_width=28),
                _Count(),
                TimeElapsedColumn(),
                _TimeLeft(),
                TextColumn("{task.fields[shown]}", markup=False),
                console=err,
            )
            self._bars.start()
        self._num_open += 1
        try:
            yield self._bars
        finally:
            self._num_open -= 1
            if self._num_open == 0:
                self._bars.stop()
                self._bars = None


class _SeenTask:
    """Keeps what is done, its pace and the texts beside it, and has them shown at every move."""

    def __init__(self, total: float, show: Callable[[float, float | None, str], None]) -> None:
        self._show = show
        self._pace = _Pace(total)
        self._done = 0.0
        self._shown: dict[str, str] = {}

    def advance(self, steps: float = 1, **shown: str) -> None:
        self._move(self._done + steps, shown)

    def position(self, done: float, **shown: str) -> None:
        self._pace.begin_at(done)
        self._move(done, shown)

    def _move(self, done: float, shown: dict[str, str]) -> None:
        self._done = done
        self._shown |= shown
        self._show(done, self._pace.left_s(done), _fields(self._shown))


class _Lines:
    """Prints a line now and then, and one at the end."""

    def __init__(self, name: str, total: float) -> None:
        self._name, self._total = name, total
        self._is_over = False
        self._reported = time.monotonic()

    def __call__(self, done: float, left_s: float | None, shown: str) -> None:
        now = time.monotonic()
        finished = done >= self._total
        if self._is_over or not (finished or now - self._reported >= SECONDS_BETWEEN_LINES):
            return
        self._reported, self._is_over = now, finished
        rest = "" if left_s is None else f", {duration(left_s)} left"
        err.print(f"{self._name}: {min(done / self._total, 1.0):.0%}{rest} {shown}".rstrip())


def _fields(shown: dict[str, str]) -> str:
    return "  ".join(f"{name} {text}" for name, text in shown.items() if text)


def duration(seconds: float) -> str:
    """Return a length of time as people say it: 42 s, 3 min 20 s, 2 h 05 min, 4 days."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < 48 * 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds / 86400:.0f} days"


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout, numbers to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table, soft_wrap=False)


def print_json(document: BaseModel | object) -> None:
    """Print an artefact, or anything JSON-able, to stdout."""
    content = document.model_dump(mode="json") if isinstance(document, BaseModel) else document
    sys.stdout.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
