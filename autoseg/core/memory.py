"""How much memory there is."""

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def available_memory_bytes(meminfo: Path = _MEMINFO, group: Path = _GROUP) -> int:
    """Return the memory that can be had without swapping: what the machine has free, and a container's share of it.

    Where the system does not say what is free, it is all that the machine has.

    Args:
        meminfo: Linux's file of figures.
        group: Folder of the control group (version 2) that this process is in.

    Source:
        proc(5), MemAvailable; Linux kernel documentation, Control Group v2, memory.max.
    """
    if not meminfo.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = meminfo.read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    limit, used = (_figure(group / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, max(limit - used, 0))


def _figure(path: Path) -> int | None:
    """Return the bytes that a file of a control group states; None if there is no such file or no limit."""
    if not path.exists():
        return None
    text = path.read_text().strip()
    return int(text) if text.isdigit() else None
