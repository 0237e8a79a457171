"""Commands are imported when they are asked for; plans are made without torch, which takes seconds to import."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.cli.commands import COMMANDS
from tests.end_to_end.blobs import write_blobs

RUN = """
import sys
import autoseg.cli
sys.argv = ["autoseg", *sys.argv[1:]]
try:
    autoseg.cli.main()
except SystemExit as ended:
    code = ended.code
print("imported:", *sorted({"torch", "matplotlib"} & sys.modules.keys()))
sys.exit(code)
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_of_a_command_is_the_first_line_of_its_docstring(name: str) -> None:
    assert COMMANDS[name].summary == str(inspect.getdoc(COMMANDS[name].load())).partition("\n")[0]


def imported_by(*arguments: str | Path) -> str:
    """Return which slow libraries a command has imported when it ends."""
    done = subprocess.run([sys.executable, "-c", RUN, *map(str, arguments)], capture_output=True, text=True, check=True)
    return done.stdout.rpartition("imported:")[2].strip()


def test_help_is_shown_without_torch() -> None:
    assert imported_by("--help") == ""


def test_a_plan_is_made_without_torch(tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    plan = ("plan", write_blobs(tmp_path / "data"), "--workspace", workspace, "--workers", "1")
    assert imported_by(*plan, "--explain") == ""
    assert (workspace / "plan.json").exists()
    assert imported_by("plan", "--workspace", workspace) == "torch"  # costs are predicted


def test_each_name_of_the_pipeline_is_found() -> None:
    assert all(getattr(pipeline, name) is not None for name in pipeline.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getattr(pipeline, "nothing")  # noqa: B009
