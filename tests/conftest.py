"""What all tests share."""

import os

import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Compute on one thread: tests run side by side."""
    torch.set_num_threads(1)
