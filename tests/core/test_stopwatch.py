import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autoseg.core import stopwatch
from autoseg.core.stopwatch import Stopwatch, peak_memory_bytes, restart_peak_memory


def test_stages_add_up_even_when_they_fail() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch.measure("read"):
            time.sleep(0.02)
    with pytest.raises(OSError, match="gone"), watch.measure("write"):
        raise OSError("gone")
    assert watch.seconds["read"] >= 0.04
    assert set(watch.seconds) == {"read", "write"}


def test_waiting_for_items_is_told_from_working_on_them() -> None:
    def slow_source() -> "list[int]":
        return [1, 2]

    watch = Stopwatch()
    seen = []
    for item in watch.timed("network", slow_source()):
        with watch.measure("export"):
            time.sleep(0.02)
        seen.append(item)
    assert seen == [1, 2]
    assert watch.seconds["export"] >= 0.04
    assert watch.seconds["network"] < 0.02


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can look at a part of the time")
def test_the_peak_is_that_since_the_restart() -> None:
    first = np.ones(2**25)
    before = peak_memory_bytes()
    del first
    restart_peak_memory()
    lowered = peak_memory_bytes()
    second = np.ones(2**23)
    assert lowered < before - 2**27
    assert peak_memory_bytes() >= lowered + second.nbytes * 0.9


def test_a_container_that_forbids_it_costs_the_figure_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopwatch, "_CLEAR_REFS", tmp_path)  # a folder cannot be written to
    restart_peak_memory()
    assert peak_memory_bytes() > 0
