"""Scans and choices of networks for predictions with `tests.pipeline.models`."""

from pathlib import Path

import numpy as np

from autoseg.core.geometry import Geometry
from autoseg.data.image import Image, write_image
from autoseg.pipeline import ModelChoice
from tests.pipeline.models import SHAPE, SPACING

GEOMETRY = Geometry(spacing=SPACING, origin=(5.0, 6.0, 7.0))
CHOICE = ModelChoice("3d_fullres", None, "cpu", mirror=False)
OTHER = ModelChoice("3d_fullres", (1,), "cpu", mirror=False)


def write_scan(path: Path, seed: int = 0, num_channels: int = 1) -> Path:
    """Write a scan that differs from that of any other seed."""
    array = np.random.default_rng(seed).normal(1, 1, (num_channels, *SHAPE)).astype(np.float32)
    write_image(path, Image(array, GEOMETRY))
    return path
