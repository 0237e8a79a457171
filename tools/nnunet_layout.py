"""A dataset under the names that nnU-Net wants, for the tools that run nnU-Net beside autoseg."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from autoseg.data.dataset import open_dataset

DATASET = "Dataset001_Compared"


def lay_out(source: Path, folder: Path, num_cases: int | None = None) -> dict[str, str]:
    """Copy a dataset into nnU-Net's folders; return the environment with the variables that nnU-Net wants.

    Args:
        source: Archive or folder of a dataset of NIfTI files, one file per case.
        folder: Gets the folders `raw`, `preprocessed` and `results`.
        num_cases: The first so many are copied; None for all.
    """
    dataset = open_dataset(source, folder / "unpacked")
    raw = folder / "raw" / DATASET
    for place in (raw / "imagesTr", raw / "labelsTr", folder / "preprocessed" / DATASET):
        place.mkdir(parents=True)
    cases = dataset.cases[:num_cases]
    for case in cases:
        shutil.copy(case.images[0], raw / "imagesTr" / f"{case.name}_0000.nii.gz")
        shutil.copy(str(case.label), raw / "labelsTr" / f"{case.name}.nii.gz")
    description = {
        "channel_names": dict(enumerate(dataset.channels)),
        "labels": {label.name: label.value for label in dataset.labels.classes},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    for place in (raw, folder / "preprocessed" / DATASET):
        (place / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    variables = {f"nnUNet_{part}": str(folder / part) for part in ("raw", "preprocessed", "results")}
    return {**os.environ, **variables}


def run(command: Sequence[object], environment: dict[str, str]) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        SystemExit: If it fails, with the end of what it printed.
    """
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{command[0]}: must succeed, got exit code {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout
