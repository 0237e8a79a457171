"""A whole run that is killed at random moments, and a tool that says so if it ends otherwise."""

import random
import signal
import sys
from pathlib import Path

import pytest

from autoseg.core.workspace import Workspace
from tests.end_to_end.blobs import write_blobs
from tools.kill_run import whole_run, write_rules
from tools.killing import Command, CommandFailedError, KillTest

SHORT = """
[cpu.network.base_features]
value = 4
[cpu.training.steps_per_epoch]
value = 3
[cpu.training.validation_steps]
value = 1
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    command = whole_run(write_blobs(tmp_path / "data", 4), write_rules(tmp_path / "rules", SHORT), 2, num_jobs=1)
    differing = KillTest(tmp_path, command, signal.SIGKILL, random.Random(1)).run(2)
    assert differing
    assert not any(differing)


def test_a_budget_replaces_the_epochs(tmp_path: Path) -> None:
    command = whole_run(tmp_path, tmp_path, 2, num_jobs=1, budget_s=60)
    arguments = list(command.arguments(Workspace(tmp_path)))
    assert arguments[arguments.index("--budget") + 1] == "60s"
    assert "--epochs" not in arguments
    assert command.result(Workspace(tmp_path)) == {"trained": b"", "set aside": b"0", "scored": b"{}"}


def _standing_in(tmp_path: Path, script: str) -> Command:
    """Return a command that is no `autoseg` at all, but a script of its name in the working directory."""
    program = tmp_path / "autoseg.py"
    program.write_text(script)
    return Command(
        lambda workspace: [str(workspace.root)],
        lambda workspace: {"number": workspace.root.read_bytes()},
        lambda workspace: "begun" if workspace.root.exists() else "not begun",
        "where",
    )


COUNT = """
import pathlib, sys, time
path = pathlib.Path(sys.argv[1])
path.write_text(path.read_text() + "x" if path.exists() else "x")
time.sleep(0.6)
"""


def test_what_differs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = _standing_in(tmp_path, COUNT)
    differing = KillTest(tmp_path, command, signal.SIGKILL, random.Random(0)).run(4)
    assert ["number"] in differing
    assert "differs: number" in capfd.readouterr().out


def test_what_a_failing_command_said_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = _standing_in(tmp_path, "raise SystemExit('no room on the disk')")
    with pytest.raises(CommandFailedError, match=r"got 1\. where: not begun\. What it said:(\n|.)*no room on the disk"):
        KillTest(tmp_path, command, signal.SIGKILL, random.Random(0)).run(1)
