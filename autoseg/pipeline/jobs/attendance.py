"""What a process does that others train for: starts them, shows how far they are, passes on that they are to leave."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from autoseg.core.progress import Progress, Task
from autoseg.pipeline.jobs.job import Begin, Job, Running, Slot, Start, as_asked
from autoseg.train.record import latest_row

POLL_S = 0.25
"""How often processes and histories are looked at."""


@dataclass(frozen=True)
class Outcome:
    """How jobs have ended, but for those that went well.

    Attributes:
        left: Names of those that were asked to leave.
        not_begun: Names of those that had to wait until then.
        troubles: Why others have failed, by name.
    """

    left: tuple[str, ...]
    not_begun: tuple[str, ...]
    troubles: dict[str, str]


def attend(
    jobs: Sequence[Job],
    slots: Sequence[Slot],
    start: Start,
    progress: Progress,
    should_stop: Callable[[], bool],
    begin: Begin = as_asked,
) -> Outcome:
    """Run jobs, one at a time in each slot; those that fail do not keep others from going on.

    Args:
        jobs: In the order in which they begin.
        slots: Where they run.
        start: Starts the process of a job.
        progress: Shows a line per job.
        should_stop: Whether all are to write their checkpoints and to leave.
        begin: Returns what is trained, as its turn has come.
    """
    waiting, free, is_leaving = deque(jobs), deque(slots), False
    left: list[str] = []
    troubles: dict[str, str] = {}
    with _Attendance(start, progress) as attendance:
        while attendance.attended or (waiting and not is_leaving):
            while waiting and free and not is_leaving:
                job = waiting.popleft()
                attendance.begin(replace(job, request=begin(job.request)), free.popleft())
            for one in attendance.ended():
                free.append(one.slot)
                if is_leaving and not one.job.folder.record.exists():
                    left.append(one.job.name)
                elif (trouble := one.running.trouble()) is not None:
                    troubles[one.job.name] = trouble
            if should_stop() and not is_leaving:
                is_leaving = True
                attendance.leave()
            time.sleep(POLL_S)
    return Outcome(tuple(left), tuple(job.name for job in waiting), troubles)


@dataclass
class _Attended:
    """A job that runs.

    Attributes:
        job, slot: Which one, and where.
        running: Its process.
        task: The line that shows it.
        closing: Closes that.
        seen: When its history had changed last, when it was read last.
        waited_for: What the line says that it waits for.
    """

    job: Job
    slot: Slot
    running: Running
    task: Task
    closing: ExitStack = field(repr=False)
    seen: float = 0.0
    waited_for: str | None = None

    def show(self) -> None:
        """Show how far it is, if that is news."""
        waits_for = self.running.waits_for()
        if waits_for != self.waited_for:
            self.waited_for = waits_for
            self.task.advance(0, waits_for=waits_for or "")
        path = self.job.folder.history
        changed = path.stat().st_mtime if path.exists() else 0.0
        row = latest_row(self.job.folder) if changed != self.seen else None
        self.seen = changed
        if row is not None:
            done = row["seconds" if self.job.request.num_epochs is None else "epoch"]
            self.task.position(float(done), **_texts(row))


class _Attendance:
    """The jobs that run; at the end of the block, whatever ends it, none is left alone."""

    def __init__(self, start: Start, progress: Progress) -> None:
        self._start, self._progress = start, progress
        self.attended: list[_Attended] = []

    def __enter__(self) -> "_Attendance":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.attended:
            one.running.leave()
        for one in self.attended:
            one.running.end()
            one.closing.close()

    def begin(self, job: Job, slot: Slot) -> None:
        job.forget_failure()
        running = self._start(job.on(slot))
        closing = ExitStack()
        total = float(job.request.budget_s or job.request.num_epochs or 0)
        task = closing.enter_context(self._progress.task(job.name, total))
        self.attended.append(_Attended(job, slot, running, task, closing))

    def ended(self) -> list[_Attended]:
        """Show how far all are; return those that have ended, no longer attended to."""
        found = [one for one in self.attended if one.running.has_ended()]
        for one in self.attended:
            one.show()
        for one in found:
            self.attended.remove(one)
            one.closing.close()
        return found

    def leave(self) -> None:
        for one in self.attended:
            one.running.leave()


def _texts(row: dict[str, str]) -> dict[str, str]:
    """Return what stands beside a line: losses, learning and held out, and mean Dice."""
    losses = "/".join(f"{float(row[name] or 'nan'):.3f}" for name in ("training_loss", "validation_loss"))
    return {"loss": losses, "dice": f"{float(row['dice'] or 'nan'):.3f}"}
