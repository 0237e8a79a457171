"""Plans random fingerprints with nnU-Net itself and with autoseg, and counts where they agree.

Not collected by pytest, as nnU-Net is no dependency. In an environment that has both packages:

    python -m tests.plan.nnunet_agreement --count 300

A fingerprint whose images are too small for a network of two stages is left out: nnU-Net's plan has one stage there,
which has no decoder and cannot be trained, while autoseg enlarges the patch.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.plan.planner import make_plan
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationPlan, Plan
from tests.plan.published_case import describe, fingerprint_of

KINDS = ("isotropic", "anisotropic", "2d", "tiny", "huge", "many channels", "mixed")
PLANNERS = {
    "plain": ("default_experiment_planner", "ExperimentPlanner"),
    "residual-m": ("residual_unets.residual_encoder_unet_planners", "nnUNetPlannerResEncM"),
    "residual-l": ("residual_unets.residual_encoder_unet_planners", "nnUNetPlannerResEncL"),
    "residual-xl": ("residual_unets.residual_encoder_unet_planners", "nnUNetPlannerResEncXL"),
}
DATASET = "Dataset001_Random"


def random_figures(kind: str, rng: np.random.Generator) -> tuple[list[list[float]], list[list[int]], list[str], int]:
    """Return spacings, shapes, channels and the number of foreground classes of a dataset of some kind."""
    cases = int(rng.integers(1, 60))
    base = rng.uniform(0.3, 3.0)
    spacing, shape = np.full(3, base), rng.integers(32, 400, 3).astype(float)
    channels = ["CT"] if rng.random() < 0.5 else ["MRI", "T2"][: int(rng.integers(1, 3))]
    match kind:
        case "anisotropic":
            axis = int(rng.integers(3))
            spacing[axis] *= rng.uniform(2, 12)
            shape[axis] = rng.integers(2, 80)
        case "2d":
            spacing[:], shape[0] = 1.0, 1
            shape[1:] = rng.integers(16, 3000, 2)
        case "tiny":
            shape = rng.integers(8, 40, 3).astype(float)
        case "huge":
            shape = rng.integers(400, 2000, 3).astype(float)
        case "many channels":
            channels = [f"c{index}" for index in range(int(rng.integers(5, 100)))]
        case "mixed":
            spacing = rng.uniform(0.3, 6.0, 3)
            shape = rng.integers(8, 900, 3).astype(float)
    jitter = 0.0 if kind == "2d" else 0.2
    spacings = (spacing * rng.uniform(1 - jitter, 1 + jitter, (cases, 3))).tolist()
    varied = np.maximum(1, np.round(shape * rng.uniform(0.7, 1.3, (cases, 3)))).astype(int)
    if kind == "2d":
        varied[:, 0] = 1
    return spacings, varied.tolist(), channels, int(rng.integers(1, 30))


def nnunet_plan(
    folder: Path, planner: Callable[[str], Any], figures: dict[str, Any], dataset: dict[str, Any]
) -> dict[str, Any]:
    """Return the plan that one of nnU-Net's planners makes of a fingerprint."""
    torch = importlib.import_module("torch")
    shutil.rmtree(folder / "preprocessed", ignore_errors=True)  # else it merges the plan that lies there
    for place, name, content in (("raw", "dataset", dataset), ("preprocessed", "dataset_fingerprint", figures)):
        (folder / place / DATASET).mkdir(parents=True, exist_ok=True)
        (folder / place / DATASET / f"{name}.json").write_text(json.dumps(content))
    with torch.device("meta"), contextlib.redirect_stdout(io.StringIO()):
        plan: dict[str, Any] = planner(DATASET).plan_experiment()
    return plan


def differences(ours: Plan, theirs: dict[str, Any]) -> list[str]:
    """Return what differs, in words."""
    found = []
    if list(ours.transpose) != theirs["transpose_forward"]:
        found.append(f"transpose {ours.transpose} {theirs['transpose_forward']}")
    if set(ours.configurations) != set(theirs["configurations"]):
        return [*found, f"configurations {set(ours.configurations)} {set(theirs['configurations'])}"]
    for name, expected in theirs["configurations"].items():
        if "inherits_from" not in expected:
            pairs = _pairs(ours.configurations[name], expected).items()
            found += [f"{name} {key}: {mine} {other}" for key, (mine, other) in pairs if _plain(mine) != _plain(other)]
    return found


def _pairs(mine: ConfigurationPlan, other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    network = other["architecture"]["arch_kwargs"]
    blocks = "n_blocks_per_stage" if "n_blocks_per_stage" in network else "n_conv_per_stage"
    return {
        "spacing": (mine.spacing, other["spacing"]),
        "median shape": (mine.median_shape, other["median_image_size_in_voxels"]),
        "patch": (mine.patch_size, other["patch_size"]),
        "batch": (mine.batch_size, other["batch_size"]),
        "batch Dice": (mine.batch_dice, other["batch_dice"]),
        "mask": ([entry.within_mask for entry in mine.normalization], other["use_mask_for_norm"]),
        "strides": (mine.network.strides, network["strides"]),
        "kernels": (mine.network.kernels, network["kernel_sizes"]),
        "features": (mine.network.features, network["features_per_stage"]),
        "encoder": (mine.network.encoder_blocks, network[blocks]),
        "decoder": (mine.network.decoder_convs, network["n_conv_per_stage_decoder"]),
    }


def _plain(value: object) -> object:
    return np.asarray(value).tolist() if not isinstance(value, bool) else value


def compare(seed: int, folder: Path) -> tuple[str, str, list[str] | None]:
    """Return kind, preset and differences of one random dataset; None for one that nnU-Net gives a single stage."""
    rng = np.random.default_rng(seed)
    kind, preset = KINDS[seed % len(KINDS)], list(PLANNERS)[seed % len(PLANNERS)]
    spacings, shapes, channels, num_classes = random_figures(kind, rng)
    relative_size = float(rng.uniform(0.5, 1.0))
    names = ["background", *(f"class {index}" for index in range(1, num_classes + 1))]
    ours = fingerprint_of(spacings, shapes, channels, relative_size=relative_size)
    figures = {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "median_relative_size_after_cropping": relative_size,
        "foreground_intensity_properties_per_channel": {
            str(index): entry.model_dump() for index, entry in enumerate(ours.intensities)
        },
    }
    dataset = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": {name: value for value, name in enumerate(names)},
        "numTraining": len(shapes),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"a": {"images": ["a_0000.nii.gz"], "label": "a.nii.gz"}},
    }
    module, name = PLANNERS[preset]
    planner = getattr(importlib.import_module(f"nnunetv2.experiment_planning.experiment_planners.{module}"), name)
    theirs = nnunet_plan(folder, planner, figures, dataset)
    stages = [
        entry["architecture"]["arch_kwargs"]["n_stages"]
        for entry in theirs["configurations"].values()
        if "architecture" in entry
    ]
    if min(stages) == 1:
        return kind, preset, None
    plan = make_plan(ours, describe("random", channels, names), load_rulebook(), preset)
    return kind, preset, differences(plan, theirs)


def main() -> int:
    """Compare, print a table, and return 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    outcomes: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(nnUNet_raw=f"{name}/raw", nnUNet_preprocessed=f"{name}/preprocessed", nnUNet_results=name)
        for seed in range(arguments.first, arguments.first + arguments.count):
            kind, preset, found = compare(seed, folder)
            outcome = "left out" if found is None else "differs" if found else "equal"
            outcomes[kind, outcome] += 1
            if found:
                sys.stdout.write(f"seed {seed}, {kind}, {preset}: {'; '.join(found)}\n")
    for kind in KINDS:
        counts = {outcome: outcomes[kind, outcome] for outcome in ("equal", "differs", "left out")}
        sys.stdout.write(
            f"{kind:<14} " + "  ".join(f"{outcome} {count:>4}" for outcome, count in counts.items()) + "\n"
        )
    return int(any(outcome == "differs" for _, outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
