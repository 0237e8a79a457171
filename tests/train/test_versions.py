import shutil
import subprocess
from pathlib import Path

import pytest

import autoseg
from autoseg.train.versions import versions


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_checkout_has_a_commit_and_says_what_has_changed_since(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init")
    (tmp_path / "code.py").write_text("first")
    git("add", "code.py")
    git("commit", "-m", "Begin")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    assert versions(tmp_path)["commit"] == commit
    (tmp_path / "code.py").write_text("second")
    assert versions(tmp_path)["commit"] == f"{commit}-dirty"


def test_an_installed_package_has_none(tmp_path: Path) -> None:
    found = versions(tmp_path)
    assert "commit" not in found
    assert found["autoseg"] == autoseg.__version__
    assert {"python", "numpy", "torch"} <= found.keys()
