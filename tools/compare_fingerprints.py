"""Takes the fingerprint of a dataset with autoseg and with nnU-Net, and prints how far their figures are apart.

nnU-Net draws foreground voxels at random and keeps them all; autoseg reads each voxel once and keeps a digest per case.
Spacings and shapes must be equal; differences of intensities are given as shares of their standard deviation:

    python -m tools.compare_fingerprints Task04_Hippocampus.tar ACDC.tar --nnunet-bin ENVIRONMENT/bin
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.core.progress import Silent
from autoseg.data.dataset import open_dataset
from autoseg.fingerprint import Fingerprint, extract_fingerprint
from tools.nnunet_layout import DATASET, lay_out, run

FIGURES = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")


def main() -> None:
    """Print a table per dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+", help="archives or folders of datasets of NIfTI files")
    parser.add_argument("--nnunet-bin", type=Path, required=True, help="folder of nnU-Net's commands")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    for source in given.sources:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = _fingerprints(source, Path(folder), given.nnunet_bin, given.workers)
        print("\n".join(_compared(ours, theirs)) + "\n", flush=True)


def _fingerprints(source: Path, folder: Path, nnunet_bin: Path, num_workers: int) -> tuple[Fingerprint, dict[str, Any]]:
    environment = lay_out(source, folder)
    ours = extract_fingerprint(open_dataset(source, folder / "unpacked"), Silent(), num_workers)
    run([nnunet_bin / "nnUNetv2_extract_fingerprint", "-d", "1", "-np", str(num_workers)], environment)
    written = folder / "preprocessed" / DATASET / "dataset_fingerprint.json"
    theirs: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    return ours, theirs


def _compared(ours: Fingerprint, theirs: dict[str, Any]) -> list[str]:
    """Return the lines of a table."""
    spacings = np.abs(np.subtract([case.spacing for case in ours.cases], theirs["spacings"])).max()
    shapes = np.sum([case.cropped_shape for case in ours.cases] != np.asarray(theirs["shapes_after_crop"]))
    apart = ours.median_relative_size_after_cropping - theirs["median_relative_size_after_cropping"]
    num_sizes = 3 * len(ours.cases)
    lines = [f"{ours.dataset}, {len(ours.cases)} cases: spacings differ by {spacings:.2g} mm at most, {shapes} of"]
    lines[0] += f" {num_sizes} sizes differ, the median relative size by {abs(apart):.2g}."
    lines += ["", "| channel | figure | autoseg | nnU-Net | difference / standard deviation |", "|---|---|---|---|---|"]
    for number, entry in enumerate(ours.intensities):
        other = theirs["foreground_intensity_properties_per_channel"][str(number)]
        for figure in FIGURES:
            mine, their = getattr(entry, figure), other[figure]
            share = abs(mine - their) / other["std"]
            lines.append(f"| {ours.channels[number]} | {figure} | {mine:.6g} | {their:.6g} | {share:.1e} |")
    return lines


if __name__ == "__main__":
    main()
