"""Where time and memory go, stage by stage."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass
class Stopwatch:
    """Adds up the seconds of stages, by name; stages may not overlap."""

    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def elapsed_s(self) -> float:
        """Return the seconds since it was made."""
        return time.monotonic() - self.started

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the block to a stage, however it ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - began

    def timed(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Give the items on, and count the time until each is there to a stage."""
        source = iter(items)
        while True:
            with self.measure(stage):
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item


def restart_peak_memory() -> None:
    """Make `peak_memory_bytes` look from now on; only Linux can, elsewhere it looks at the whole process.

    So it does where a container forbids it.
    """
    with suppress(OSError):
        _CLEAR_REFS.write_text("5")


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held (resident set) since `restart_peak_memory`.

    Source:
        proc(5): writing 5 to clear_refs sets VmHWM back to VmRSS.
    """
    if _STATUS.exists():
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
