"""Trainings in processes of this machine.

Each has a session of its own, so that Ctrl-C reaches it through the process that started it, and once. If that one
is gone, however it ended, they write their checkpoints and leave.
"""

import logging
import multiprocessing
import os
import signal
import sys
from functools import partial

from autoseg.core.disk import not_usable
from autoseg.core.errors import AutosegError, InterruptionError
from autoseg.core.parallel import when_parent_ends
from autoseg.pipeline.jobs.job import LEFT, PATIENCE_S, Job
from autoseg.train.failure import writing

log = logging.getLogger(__name__)


class Process:
    """A job in a new process; see `Running`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        # Not by fork of this process, whose threads and GPU a child could not use.
        self._process = multiprocessing.get_context("spawn").Process(target=_work, args=(job,), name=job.name)
        self._process.start()

    def has_ended(self) -> bool:
        """Return whether it is over."""
        return self._process.exitcode is not None

    def waits_for(self) -> None:
        """Return None: it begins at once."""

    def leave(self) -> None:
        """Send it SIGTERM."""
        self._process.terminate()

    def end(self) -> None:
        """Wait for it; kill it if that takes too long."""
        self._process.join(PATIENCE_S)
        self._process.kill()
        self._process.join()

    def trouble(self) -> str | None:
        """Return why it has failed; None if it has not."""
        code = self._process.exitcode
        if not code:
            return None
        if code == LEFT:
            return "left with a checkpoint, as it was sent SIGTERM. The same command goes on from there."
        how = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
        cause = ", as when memory runs out" if code == -signal.SIGKILL else ""
        return self._job.failure(f"its process must live, got its end by {how}{cause}. See {self._job.folder.log}.")


def _work(job: Job) -> None:
    """Train, in a new process; what is said goes to a file."""
    if hasattr(os, "setsid"):
        os.setsid()
    when_parent_ends(partial(os.kill, os.getpid(), signal.SIGTERM))
    try:
        with writing(job.folder.log):
            job.folder.root.mkdir(parents=True, exist_ok=True)
            with job.folder.log.open("a", encoding="utf-8") as stream:
                for number in (1, 2):
                    os.dup2(stream.fileno(), number)
        job()
    except InterruptionError as error:
        log.info("%s", error)
        sys.exit(LEFT)
    except KeyboardInterrupt:
        sys.exit(LEFT)
    except AutosegError as error:
        log.error("%s", error)  # noqa: TRY400 - the message says what to do
        sys.exit(1)
    except OSError as error:  # Of the system, where no stage has expected it.
        told = job.failure(not_usable(error))
        log.exception("%s", told)
        sys.exit(1)
