"""Times `autoseg plan` beside nnU-Net's fingerprint and planning on the same data, in turn, and prints a table.

Both are whole commands, start-up included. autoseg reads the archive as it was downloaded, and checks it; nnU-Net reads
an unpacked folder that was renamed for it beforehand, and does not check it.

    python tools/compare_planning.py Task04_Hippocampus.tar --nnunet-bin ENVIRONMENT/bin --runs 3
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autoseg.data.dataset import open_dataset

DATASET = "Dataset001_Compared"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="archive or folder of a dataset of NIfTI files, one file per case")
    parser.add_argument("--nnunet-bin", type=Path, required=True, help="folder of nnU-Net's commands")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = _compare(given, Path(folder))
    ours, theirs = (statistics.median(seconds) for seconds in zip(*rows, strict=True))
    ratios = [mine / their for mine, their in rows]
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, {given.workers} workers, {time.ctime()}\n")
    print("| command | median of wall seconds | runs |")
    print("|---|---|---|")
    print(f"| autoseg plan | {ours:.1f} | {', '.join(f'{mine:.1f}' for mine, _ in rows)} |")
    print(f"| nnUNetv2_plan_and_preprocess --no_pp | {theirs:.1f} | {', '.join(f'{their:.1f}' for _, their in rows)} |")
    print(f"\nautoseg / nnU-Net, pair by pair: median {statistics.median(ratios):.3f}, at most {max(ratios):.3f}")


def _compare(given: argparse.Namespace, folder: Path) -> list[tuple[float, float]]:
    """Return the seconds of both commands, pair by pair."""
    environment = _lay_out_for_nnunet(given.source, folder)
    theirs = [given.nnunet_bin / "nnUNetv2_plan_and_preprocess", "-d", "1", "--no_pp", "--clean"]
    theirs += ["-npfp", str(given.workers)]
    rows = []
    for run in range(given.runs):
        ours = [sys.executable, "-m", "autoseg", "plan", given.source, "--workers", str(given.workers)]
        ours += ["--workspace", folder / f"workspace_{run}"]
        rows.append((_seconds(ours, dict(os.environ)), _seconds(theirs, environment)))
    return rows


def _lay_out_for_nnunet(source: Path, folder: Path) -> dict[str, str]:
    """Copy the dataset under the names that nnU-Net wants; return the environment with the variables that it wants."""
    dataset = open_dataset(source, folder / "unpacked")
    raw = folder / "raw" / DATASET
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    for case in dataset.cases:
        shutil.copy(case.images[0], raw / "imagesTr" / f"{case.name}_0000.nii.gz")
        shutil.copy(str(case.label), raw / "labelsTr" / f"{case.name}.nii.gz")
    description = {
        "channel_names": dict(enumerate(dataset.channels)),
        "labels": {label.name: label.value for label in dataset.labels.classes},
        "numTraining": len(dataset.cases),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    variables = {f"nnUNet_{part}": str(folder / part) for part in ("raw", "preprocessed", "results")}
    return {**os.environ, **variables}


def _seconds(command: list[object], environment: dict[str, str]) -> float:
    began = time.monotonic()
    subprocess.run([str(part) for part in command], env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
