from pathlib import Path

import pytest

from autoseg.core.memory import available_memory_bytes


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 3_000 * 1024),
        ({"memory.max": "max", "memory.current": "5"}, 3_000 * 1024),
        ({"memory.max": "2000000", "memory.current": "500000"}, 1_500_000),
        ({"memory.max": "900000000", "memory.current": "500000"}, 3_000 * 1024),
        ({"memory.max": "1000", "memory.current": "2000"}, 0),
    ],
)
def test_a_containers_limit_counts_where_it_is_lower(tmp_path: Path, limits: dict[str, str], expected: int) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable:   3000 kB\n")
    for name, text in limits.items():
        (tmp_path / name).write_text(text + "\n")
    assert available_memory_bytes(meminfo, tmp_path) == expected


def test_without_figures_it_is_all_that_the_machine_has(tmp_path: Path) -> None:
    assert available_memory_bytes(tmp_path / "missing") >= available_memory_bytes()
