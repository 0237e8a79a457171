"""What a training that is killed leaves running: nothing, or its workers would hold the lock of its folder."""

import os
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from autoseg.core.workspace import FoldFolder
from tests.train.plans import store_cube

SCRIPT = """
import sys
from pathlib import Path
import filelock
from autoseg.core.workspace import FoldFolder
from autoseg.train.sampling import PatchSource, SamplingPlan, load_batches
cases, folder = (Path(text) for text in sys.argv[1:])
plan = SamplingPlan((8, 8, 8), 2, 0.5, None, 1, ("train", 0))
with filelock.FileLock(FoldFolder(folder).lock):
    for batch in load_batches(PatchSource(cases, ("a", "b"), plan), 0, 2):
        print("ready", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_the_workers_of_a_killed_training_give_its_lock_free(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        store_cube(tmp_path / "cases", name, seed)
    folder = FoldFolder(tmp_path / "fold_0")
    folder.root.mkdir()
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "cases"), str(folder.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        workers = _children_of(child.pid)
        child.kill()
    with filelock.FileLock(folder.lock, timeout=10):
        pass
    deadline = time.monotonic() + 10
    while any(map(_is_running, workers)):
        assert time.monotonic() < deadline, "workers outlive the training that they read for"
        time.sleep(0.05)


def _children_of(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children")
    return [int(text) for text in found.read_text().split()] if found.exists() else []


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
