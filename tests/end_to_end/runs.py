"""Runs of one fold in a few seconds."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg import pipeline
from autoseg.core.geometry import Geometry
from autoseg.core.progress import Silent
from autoseg.core.seeding import generator
from autoseg.core.workspace import Workspace
from autoseg.data.image import Image, LabelImage, write_image, write_label
from tests.end_to_end.blobs import write_tiny_rules

ImageAndLabel = tuple[NDArray[np.floating], NDArray[np.uint8]]


def write_cases(
    folder: Path,
    make_case: Callable[[np.random.Generator], ImageAndLabel],
    description: dict[str, object],
    geometry: Geometry,
) -> Path:
    """Write a dataset of six cases, image and label (Z, Y, X), with a `dataset.json`; return the folder."""
    for number in range(6):
        image, label = make_case(generator(4, "cases", number))
        name = f"case_{number}.nii.gz"
        write_image(folder / "images" / name, Image(image[None].astype(np.float32), geometry))
        write_label(folder / "labels" / name, LabelImage(label, geometry))
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MRI"}, **description}))
    return folder


def tiny_run(folder: Path, source: Path, num_epochs: int) -> tuple[Workspace, pipeline.RunResult]:
    """Train and score fold 0 of 3 with a tiny network."""
    workspace = Workspace(folder / "work")
    request = pipeline.RunRequest(
        source=source,
        data=pipeline.DataOptions(group_by=None, num_folds=3, num_workers=1),
        planning=pipeline.PlanOptions(preset="cpu", rules=write_tiny_rules(folder / "rules")),
        folds=(0,),
        num_epochs=num_epochs,
        device="cpu",
        seed=1,
    )
    return workspace, pipeline.run(workspace, request, Silent())


def dice_by_class(result: pipeline.RunResult) -> dict[str, float]:
    """Return the mean Dice of the held-out cases per class; -1 where it is not defined."""
    means = {name: summary.dice.mean for name, summary in result.evaluation.per_class.items()}
    return {name: -1.0 if mean is None else mean for name, mean in means.items()}
