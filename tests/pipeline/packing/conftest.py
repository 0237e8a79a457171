"""Workspaces from which an ensemble with postprocessing was selected."""

import shutil
from pathlib import Path

import pytest

from autoseg.core.workspace import Workspace
from tests.pipeline.packing.packable import packable


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One that stays as it is."""
    return packable(tmp_path_factory.mktemp("packing") / "work")


@pytest.fixture
def workspace(whole: Workspace, tmp_path: Path) -> Workspace:
    """The same, to be changed."""
    shutil.copytree(whole.root, tmp_path / "work")
    return Workspace(tmp_path / "work")
