"""Measures the peak memory of predicting a large scan with many classes on the CPU, stage by stage.

The network is small and untrained, as memory does not ask what was learned. Scan and prediction run in a process of
their own. It takes some minutes:

    python -m tools.measure_prediction_memory                    # 600 x 512 x 512 voxels, 100 classes
    python -m tools.measure_prediction_memory --merging-mb 500   # what is beyond waits on disk
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
import torch

from autoseg.core.labels import declare_labels
from autoseg.core.memory import available_memory_bytes
from autoseg.core.stopwatch import peak_memory_bytes, restart_peak_memory
from autoseg.data.image import read_image, write_label
from autoseg.infer.case import Model, default_settings
from autoseg.infer.predictor import Predictor
from autoseg.network.unet import UNet, place
from autoseg.plan.overrides import Overrides
from autoseg.plan.planner import make_plan
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import NetworkPlan
from tests.plan.published_case import Description, published

SPACING_MM, MODEL_SPACING_MM, PATCH = 0.8, 1.5, 128
"""Of the scan; of the model; edge of the model's patch."""

MEGABYTE = 1e6
Result = TypeVar("Result")


def main() -> None:
    """Measure in a process of its own, or be that process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(600, 512, 512), help="of the scan, (z, y, x)")
    parser.add_argument("--classes", type=int, default=100, help="outputs of the network")
    parser.add_argument("--merging-mb", type=int, help="largest memory for merging; without, as predictions choose it")
    parser.add_argument("--measure", type=Path, help="predict this scan in this process, print JSON")
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given.measure, given.classes, given.merging_mb)))
        return
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.nii.gz"
        write_scan(scan, tuple(given.shape))
        command = [sys.executable, "-m", "tools.measure_prediction_memory", "--measure", str(scan)]
        options = [] if given.merging_mb is None else ["--merging-mb", str(given.merging_mb)]
        run = subprocess.run(
            [*command, "--classes", str(given.classes), *options], check=True, stdout=subprocess.PIPE, text=True
        )
    print(_table(json.loads(run.stdout)))


def write_scan(path: Path, shape: tuple[int, ...]) -> None:
    """Write a made-up CT: a noisy body in air, int16."""
    rng = np.random.default_rng(0)
    z, y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    is_body = (y[:, None] / 0.7) ** 2 + (x / 0.85) ** 2 < 1
    array = np.full(shape, -1000, np.int16)
    for row in range(len(z)):
        array[row][is_body] = rng.normal(40, 60, int(is_body.sum())).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((SPACING_MM,) * 3)
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)


def measure(scan: Path, num_classes: int, merging_mb: int | None) -> dict[str, dict[str, float]]:
    """Return seconds and peak memory in MB of every stage of a prediction, in this process."""
    predictor = _predictor(num_classes)
    if merging_mb is not None:
        share = merging_mb * MEGABYTE / available_memory_bytes()
        limited = replace(predictor.settings, merging_share=share, scratch=scan.parent)
        predictor = Predictor(predictor.model, limited)
    found: dict[str, dict[str, float]] = {}
    _timed(found, "program, libraries and model", lambda: None)
    prepared = _timed(found, "reading and preparing", lambda: predictor.prepare(read_image([scan]), "scan"))
    label = _timed(found, "network, merging, resampling", lambda: predictor.predict_prepared(prepared))
    _timed(found, "writing", lambda: write_label(scan.with_name("mask.nii.gz"), label))
    return found


def _timed(found: dict[str, dict[str, float]], stage: str, work: Callable[[], Result]) -> Result:
    restart_peak_memory()
    began = time.perf_counter()
    result = work()
    found[stage] = {"s": time.perf_counter() - began, "MB": peak_memory_bytes() / MEGABYTE}
    return result


def _predictor(num_classes: int) -> Predictor:
    """Return a predictor with a small untrained network of many outputs."""
    fingerprint, dataset, _ = published("liver")
    labels = declare_labels({index: f"class {index}" for index in range(num_classes)})
    overrides = Overrides(spacing=(MODEL_SPACING_MM,) * 3, patch_size=(PATCH,) * 3)
    made = make_plan(
        fingerprint, Description(dataset.name, dataset.channels, labels), load_rulebook(), "plain", overrides
    )
    network = NetworkPlan(
        kind="plain",
        num_input_channels=1,
        num_outputs=num_classes,
        features=(4, 8, 16),
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
        kernels=((3, 3, 3),) * 3,
        encoder_blocks=(1, 1, 1),
        decoder_convs=(1, 1),
        norm_epsilon=1e-5,
        negative_slope=0.01,
    )
    configuration = made.configurations["3d_fullres"].model_copy(update={"network": network, "mirror_axes": ()})
    torch.manual_seed(0)
    model = Model(made, configuration, (place(UNet(network), torch.device("cpu")).eval(),))
    return Predictor(model, default_settings(torch.device("cpu"), configuration))


def _table(found: dict[str, dict[str, float]]) -> str:
    rows = [f"| {stage} | {figures['s']:.0f} s | {figures['MB']:,.0f} MB |" for stage, figures in found.items()]
    return "\n".join(["| stage | time | peak memory (resident set) |", "|---|---|---|", *rows])


if __name__ == "__main__":
    main()
