"""A training that cannot write says so in one message, though its folder cannot take a note of the failure either."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.core.errors import AutosegError, TrainingError
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.pipeline.jobs.job import Job, nothing_else
from tests.pipeline.jobs.test_jobs import request_for, workspace

__all__ = ["workspace"]
"""The fixture."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs permissions as Unix has them")


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Within the block, nothing in a folder may be changed, nor may this process change what may be."""
    is_root = os.geteuid() == 0
    entries = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in entries}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    if is_root:  # Whom permissions do not bind.
        parents = [path for path in folder.parents if not path.stat().st_mode & 0o001]
        modes |= {path: path.stat().st_mode for path in parents}
        for path in parents:
            path.chmod(modes[path] | 0o011)
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


@contextmanager
def no_space() -> Iterator[None]:
    """Within the block, no file takes a byte: writes fail as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_workspace_that_may_only_be_read_is_named(workspace: Workspace) -> None:
    with (
        read_only(workspace.root),
        pytest.raises(
            TrainingError, match=r"work: must be writable, got: Permission denied\. Make the folder writable"
        ),
    ):
        pipeline.train(workspace, request_for(0), 0, Silent())
    assert not workspace.fold("2d", 0).root.exists()


def test_a_disk_without_a_byte_is_told(workspace: Workspace) -> None:
    """Preprocessing is the first to write."""
    with no_space(), pytest.raises(AutosegError, match=r"must be fit for preprocessing.*the space on the disk"):
        pipeline.train(workspace, request_for(0), 0, Silent())
    assert not workspace.fold("2d", 0).failure.exists()


def test_how_a_process_ended_is_told_where_it_cannot_be_kept(workspace: Workspace) -> None:
    job = Job(workspace, request_for(0), 0, nothing_else)
    with no_space():
        assert job.failure("its process must live") == "its process must live"
    assert job.failure("it was killed") == "it was killed"
    assert job.failure("what came later") == "it was killed"
