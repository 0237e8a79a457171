"""A dataset that a tiny network learns in seconds: bright blobs of two classes in small scans of odd spacing."""

import json
from pathlib import Path

import numpy as np

from autoseg.core.geometry import Geometry
from autoseg.core.seeding import generator
from autoseg.data.image import Image, LabelImage, write_image, write_label

SMALL, LARGE = 7, 3
"""Label values, neither consecutive nor in the order of the classes' sizes."""

TINY_RULES = """
[cpu.network.base_features]
value = 6
[cpu.budget.widths]
value = { 4 = 50, 6 = 200 }
[cpu.training.steps_per_epoch]
value = 12
[cpu.training.validation_steps]
value = 2
"""


def write_blobs(folder: Path, num_cases: int = 6, shape: tuple[int, int, int] = (9, 22, 19)) -> Path:
    """Write a dataset of plain folders with a `dataset.json` that names its classes; return the folder."""
    for number in range(num_cases):
        rng = generator(3, "blobs", number)
        label = np.zeros(shape, dtype=np.uint8)
        large = tuple(int(rng.integers(size // 4, size - size // 4)) for size in shape)
        position = np.indices(shape).astype(float)
        distance = np.sqrt(sum(((position[axis] - large[axis]) * (2.0, 1.0, 1.0)[axis]) ** 2 for axis in range(3)))
        label[distance < 6] = LARGE
        label[distance < 3] = SMALL
        image = rng.normal(0.0, 0.3, shape) + 2.0 * (label == LARGE) + 4.0 * (label == SMALL) + 10
        geometry = Geometry(spacing=(2.0 + 0.2 * (number % 2), 1.0, 1.1), origin=(5.0, -3.0, 10.0 * number))
        name = f"pat{number // 2}_scan{number}"
        write_image(folder / "images" / f"{name}.nii.gz", Image(image[None].astype(np.float32), geometry))
        write_label(folder / "labels" / f"{name}.nii.gz", LabelImage(label, geometry))
    description = {"labels": {"background": 0, "large": LARGE, "small": SMALL}, "channel_names": {"0": "MRI"}}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def write_tiny_rules(folder: Path) -> Path:
    """Write rules for `--rules` that make the preset `cpu` tiny; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "presets.toml").write_text(TINY_RULES)
    return folder
