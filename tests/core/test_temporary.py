"""Files that a killed process leaves behind: its own are removed, all others stay."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from autoseg.core.artefact import replacing
from autoseg.core.temporary import remove_abandoned, remove_abandoned_below, scratch_folder, temporary_prefix

KILLED = """
import os, signal, sys, tempfile
from pathlib import Path
from autoseg.core.artefact import replacing
from autoseg.core.temporary import temporary_prefix

folder = Path(tempfile.mkdtemp(prefix=temporary_prefix(), dir=sys.argv[1]))
(folder / "part").touch()
with replacing(Path(sys.argv[1]) / "mask.nii.gz"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False)
    assert child.returncode < 0
    assert len(list(tmp_path.iterdir())) == 2
    remove_abandoned(tmp_path)
    assert not list(tmp_path.iterdir())


def test_everything_else_stays(tmp_path: Path) -> None:
    """What a running process writes, what another machine writes, and what only looks alike."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    machine = temporary_prefix().split("-")[1]
    other = f"{(int(machine, 16) + 1) % 2**32:08x}"
    names = {f".writing-{other}-{ended.pid}-x", f".writing-{machine}-x", "mask.nii.gz", ".writing-x.json"}
    for name in names:
        (tmp_path / name).touch()
    with replacing(tmp_path / "other.nii.gz") as own:
        remove_abandoned(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {*names, own.name}


def test_a_folder_that_is_not_there_has_nothing_to_remove(tmp_path: Path) -> None:
    remove_abandoned(tmp_path / "absent")


def test_a_scratch_folder_is_where_it_is_asked_for_and_gone_after_its_block(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as asked, scratch_folder() as usual:
        (asked / "part").touch()
        assert (asked.parent, usual.parent) == (tmp_path, Path(tempfile.gettempdir()))
    assert not asked.exists()
    assert not usual.exists()


def test_folders_below_are_tidied_too(tmp_path: Path) -> None:
    below = tmp_path / "models" / "fold_0"
    below.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", KILLED, str(below)], env=environment, check=False)
    assert len(list(below.iterdir())) == 2
    (below / "weights").touch()
    remove_abandoned_below(tmp_path)
    assert [path.name for path in below.iterdir()] == ["weights"]
