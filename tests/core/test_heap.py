import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg.core.heap import freed_memory_kept

COUNT = """
import resource
import numpy as np
from contextlib import nullcontext
from autoseg.core.heap import freed_memory_kept

def step():
    maps = [np.ones(2**18) for _ in range(24)]  # 2 MiB each: of more, numpy asks for huge pages
    del maps

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

step()
print(faults(5))
with freed_memory_kept():
    step()
    print(faults(5))
    held = resident()
print(held - resident())
"""

PAGES = 24 * 512
"""Of 4 KiB each, that a step of the script writes to."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
@pytest.mark.skipif(resource.getpagesize() != 4096, reason="counts pages of 4 KiB")
def test_memory_is_kept_within_the_block_and_given_back_after_it(tmp_path: Path) -> None:
    script = tmp_path / "count.py"
    script.write_text(COUNT)
    done = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True)
    before, within, returned = (int(number) for number in done.stdout.split())
    assert before > 4 * PAGES
    assert within < PAGES / 10
    assert returned > 0.9 * PAGES


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("autoseg.core.heap.ctypes", None)
    with freed_memory_kept():
        pass
