from pathlib import Path

import pytest

from autoseg.core.memory import available_memory_bytes

FREE = 3_000 * 1024
UNLIMITED = "9223372036854771712"
"""What version 1 states where there is no limit."""


def _available(folder: Path, limits: dict[str, str], own_groups: str = "") -> int:
    """Return what is available where files of control groups, by name, hold these texts."""
    meminfo, membership = folder / "meminfo", folder / "own"
    meminfo.write_text("MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable:   3000 kB\nHugePages_Total:       0\n")
    membership.write_text(own_groups)
    for name, text in limits.items():
        (folder / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groups" / name).write_text(text + "\n")
    return available_memory_bytes(meminfo, folder / "groups", membership)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, FREE),
        ({"memory.max": "max", "memory.current": "5"}, FREE),
        ({"memory.max": "2000000", "memory.current": "500000"}, 1_500_000),
        ({"memory.max": "900000000", "memory.current": "500000"}, FREE),
        ({"memory.max": "1000", "memory.current": "2000"}, 0),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts_where_it_is_lower(
    tmp_path: Path, limits: dict[str, str], expected: int, version: int
) -> None:
    if version == 1:
        names = {"memory.max": "memory/memory.limit_in_bytes", "memory.current": "memory/memory.usage_in_bytes"}
        limits = {names[name]: text.replace("max", UNLIMITED) for name, text in limits.items()}
    assert _available(tmp_path, limits) == expected


@pytest.mark.parametrize(
    ("folder", "limit", "used", "stat"),
    [
        ("", "memory.max", "memory.current", "anon 7\ninactive_file 400000"),
        ("memory/", "memory.limit_in_bytes", "memory.usage_in_bytes", "inactive_file 1\ntotal_inactive_file 400000"),
    ],
)
def test_copies_of_files_do_not_count_as_used(tmp_path: Path, folder: str, limit: str, used: str, stat: str) -> None:
    limits = {f"{folder}{limit}": "2000000", f"{folder}{used}": "500000", f"{folder}memory.stat": stat}
    assert _available(tmp_path, limits) == 1_900_000


@pytest.mark.parametrize(
    ("own_groups", "folder", "limit", "used"),
    [
        ("0::/slurm/job_7\n", "", "memory.max", "memory.current"),
        (
            "9:cpu,cpuacct:/\n7:memory:/slurm/job_7\n0::/\n",
            "memory/",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        ),
    ],
)
def test_the_lowest_limit_of_the_groups_above_counts(
    tmp_path: Path, own_groups: str, folder: str, limit: str, used: str
) -> None:
    """A job's own group, the one of all jobs, and one of another job."""
    limits: dict[str, str] = {}
    for group, left in (("slurm/job_7", 900_000), ("slurm", 700_000), ("slurm/job_8", 100)):
        limits |= {f"{folder}{group}/{limit}": str(left + 5), f"{folder}{group}/{used}": "5"}
    assert _available(tmp_path, limits, own_groups) == 700_000


def test_without_figures_it_is_all_that_the_machine_has(tmp_path: Path) -> None:
    assert available_memory_bytes(tmp_path / "missing") >= available_memory_bytes()
