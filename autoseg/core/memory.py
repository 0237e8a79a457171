"""How much memory there is."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MEMINFO = Path("/proc/meminfo")
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


class _Layout(NamedTuple):
    """How a version of control groups names what it knows of memory.

    Attributes:
        controller: As `/proc/self/cgroup` has it, and the folder of its groups.
        limit, used: Files of bytes.
        idle: Entry of `memory.stat`: what is used to keep copies of files, and given up when there is need.
    """

    controller: str
    limit: str
    used: str
    idle: str


_LAYOUTS = (
    _Layout("", "memory.max", "memory.current", "inactive_file"),
    _Layout("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of versions 2 and 1."""


def available_memory_bytes(meminfo: Path = _MEMINFO, groups: Path = _GROUPS, own_groups: Path = _OWN_GROUPS) -> int:
    """Return the memory that can be had without swapping: what the machine has free, and a container's share of it.

    Where the system does not say what is free, it is all that the machine has.

    Args:
        meminfo: Linux's file of figures.
        groups: Folder of the control groups, of version 2 or 1.
        own_groups: Linux's file of the groups that this process is in.

    Source:
        proc(5), MemAvailable; cgroups(7); Linux kernel documentation, Control Group v2, memory.max, and Memory
        Resource Controller (version 1), memory.limit_in_bytes.
    """
    if not meminfo.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = _entries(meminfo)["MemAvailable:"] * 1024
    return min([free, *_left_in_groups(groups, own_groups)])


def _left_in_groups(groups: Path, own_groups: Path) -> Iterator[int]:
    """Give the bytes that each group with a limit has left, of those that this process is in."""
    lines = own_groups.read_text().splitlines() if own_groups.exists() else []
    memberships = [(names.split(","), path) for _, names, path in (line.split(":", 2) for line in lines)]
    for layout in _LAYOUTS:
        own = Path(next((path for names, path in memberships if layout.controller in names), "").lstrip("/"))
        for part in (own, *own.parents):  # In a container, the paths may be those outside: then the first is missing.
            group = groups / layout.controller / part
            limit, used = _figure(group / layout.limit), _figure(group / layout.used)
            if limit is not None and used is not None:
                yield max(limit - max(used - _entries(group / "memory.stat").get(layout.idle, 0), 0), 0)


def _figure(path: Path) -> int | None:
    """Return the bytes that a file of a control group states; None if there is no such file or no limit."""
    if not path.exists():
        return None
    text = path.read_text().strip()
    return int(text) if text.isdigit() else None


def _entries(path: Path) -> dict[str, int]:
    """Return the figures of a file that has a name and a number per line; none if there is no such file."""
    if not path.exists():
        return {}
    words = (line.split() for line in path.read_text().splitlines())
    return {found[0]: int(found[1]) for found in words if len(found) > 1}
