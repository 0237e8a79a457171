"""Predicts with nnU-Net's own models in nnU-Net and in autoseg, in turn, and prints how they agree and what they take.

    python -m tools.compare_prediction FOLDER --nnunet-bin ENVIRONMENT/bin

FOLDER is what `tools/train_nnunet_models.py` has written: models in `results`, scans in `images`. Both are whole
commands, start-up included; memory is that of all their processes together, pages that they share counted once. autoseg
predicts twice: in float32, which is compared with nnU-Net voxel by voxel, and as it does without being asked.
"""

import argparse
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg import pipeline
from autoseg.core.geometry import box_slices
from autoseg.core.workspace import Workspace
from autoseg.data.image import read_image, read_label, write_label
from autoseg.infer.case import Onlooker
from autoseg.infer.predictor import Predictor
from autoseg.infer.tiles import tiles_along
from autoseg.interop.nnunet_models import import_nnunet
from autoseg.network.device import mixed_precision
from autoseg.pipeline.prediction import load_model
from autoseg.plan.schema import Plan

SAMPLING_S = 0.5
"""Time between two looks at the memory of a command."""


@dataclass(frozen=True)
class Run:
    """A command that was run: wall time, and the largest memory of its processes together."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Agreement:
    """How two folders of label maps agree.

    Attributes:
        lowest_dice: Of any class in any case; 1 where neither has it.
        num_different, num_voxels: Voxels, of all cases together.
    """

    lowest_dice: float
    num_different: int
    num_voxels: int


@dataclass(frozen=True)
class Subject:
    """A model of nnU-Net, and scans for it.

    Attributes:
        folder: Of the model.
        images: Folder of scans.
        place: Workspace that the model was imported into.
        configuration: Of the plan.
        earlier: Folder of the first stage's model, for a cascade.
    """

    folder: Path
    images: Path
    place: Workspace
    configuration: str
    earlier: Path | None

    @property
    def name(self) -> str:
        """What the table shows."""
        return f"{self.images.name.partition('_')[2]}, {self.folder.name.rpartition('_')[0].rpartition('__')[2]}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nnunet-bin", type=Path, required=True, help="folder of nnU-Net's commands")
    parser.add_argument("--models", default="", help="only those whose path contains this")
    parser.add_argument("--cases", type=int, help="scans per model; all if left out")
    parser.add_argument("--runs", type=int, default=1, help="pairs of timed runs")
    parser.add_argument("--forward", action="store_true", help="also time the bare forward passes")
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    print(
        "| model | cases | lowest Dice | voxels that differ | their lead | autoseg | nnU-Net | ratio | memory | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for number, (model, images) in enumerate(_models(given.folder)):
            if given.models in str(model):
                _compare(model, images, Path(scratch) / str(number), given)


def _models(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Give the model folders with their scans."""
    for images in sorted((folder / "images").iterdir()):
        for model in sorted((folder / "results" / images.name).iterdir()):
            if list(model.glob("fold_*/checkpoint_final.pth")):
                yield model, images


def _compare(model: Path, images: Path, scratch: Path, given: argparse.Namespace) -> None:
    scratch.mkdir()
    scans = scratch / "scans" / images.name
    scans.mkdir(parents=True)
    for path in sorted(images.iterdir())[: given.cases]:
        shutil.copy(path, scans)
    is_cascade = model.name.endswith("3d_cascade_fullres")
    earlier = model.with_name(model.name.replace("3d_cascade_fullres", "3d_lowres")) if is_cascade else None
    place = Workspace(scratch / "workspace")
    (*_, imported) = import_nnunet([*([earlier] if earlier else []), model], place)
    subject = Subject(model, scans, place, imported.configuration, earlier)
    pairs = [_timed_pair(subject, scratch, given.nnunet_bin) for _ in range(given.runs)]
    leads = _predict_float32(subject, scratch / "float32")
    exact = _agreement(scratch / "float32", scratch / "theirs")
    usual = _agreement(scratch / "ours", scratch / "theirs")
    ours, theirs = (
        Run(statistics.median(run.seconds for run in runs), max(run.peak_bytes for run in runs))
        for runs in zip(*pairs, strict=True)
    )
    cells = (
        subject.name,
        len(list(scans.iterdir())),
        f"{exact.lowest_dice:.4f} ({usual.lowest_dice:.4f})",
        f"{exact.num_different} ({usual.num_different}) of {exact.num_voxels}",
        f"{_largest_lead(leads, scratch / 'float32', scratch / 'theirs'):.4f}",
        f"{ours.seconds:.1f} s",
        f"{theirs.seconds:.1f} s",
        f"{ours.seconds / theirs.seconds:.2f}",
        f"{ours.peak_bytes / 2**30:.2f} / {theirs.peak_bytes / 2**30:.2f} GB",
        f"{ours.peak_bytes / theirs.peak_bytes:.2f}",
    )
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if given.forward:
        forward_s = _forward_passes_s(subject)
        print(f"\nBare forward passes: {forward_s:.1f} s; autoseg takes {ours.seconds / forward_s:.2f} times that.")


def _timed_pair(subject: Subject, scratch: Path, nnunet_bin: Path) -> tuple[Run, Run]:
    """Return what autoseg and nnU-Net take, after writing to `ours` and `theirs`."""
    ours = [sys.executable, "-m", "autoseg", "predict", subject.images, scratch / "ours"]
    ours += ["--workspace", subject.place.root, "--configuration", subject.configuration, "--device", "cpu"]
    mine = _run(ours, os.environ)
    print(f"{subject.name}: autoseg {mine.seconds:.1f} s", file=sys.stderr, flush=True)
    environment = {**os.environ, **{f"nnUNet_{part}": str(scratch) for part in ("raw", "preprocessed", "results")}}
    total = Run(0.0, 0)
    previous: list[object] = []
    if subject.earlier is not None:
        total = _run(_nnunet(nnunet_bin, subject.earlier, subject.images, scratch / "earlier", []), environment)
        previous = ["-prev_stage_predictions", scratch / "earlier"]
    their = _run(_nnunet(nnunet_bin, subject.folder, subject.images, scratch / "theirs", previous), environment)
    print(f"{subject.name}: nnU-Net {total.seconds + their.seconds:.1f} s", file=sys.stderr, flush=True)
    return mine, Run(total.seconds + their.seconds, max(total.peak_bytes, their.peak_bytes))


def _nnunet(nnunet_bin: Path, model: Path, images: Path, output: Path, more: Sequence[object]) -> list[object]:
    folds = [path.parent.name.removeprefix("fold_") for path in sorted(model.glob("fold_*/checkpoint_final.pth"))]
    command = [nnunet_bin / "nnUNetv2_predict_from_modelfolder", "-i", images, "-o", output, "-m", model]
    return [*command, "-f", *folds, "-device", "cpu", "--disable_progress_bar", *more]


def _run(command: Sequence[object], environment: Mapping[str, str]) -> Run:
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([str(part) for part in command], env=dict(environment), stdout=said, stderr=said)
        peak = _watched_peak(process)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{command}: failed\n{said.read().decode(errors='replace')}")
    return Run(time.monotonic() - began, peak)


def _watched_peak(process: "subprocess.Popen[bytes]") -> int:
    """Return the largest memory of a process and its descendants, in bytes, once it has ended."""
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(SAMPLING_S):
            peak = max(peak, sum(_memory_bytes(number) for number in _family(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    ended.set()
    watcher.join()
    return peak


def _family(number: int) -> list[int]:
    """Return a process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    family = [number]
    for member in family:
        family += parents.get(member, [])
    return family


def _memory_bytes(number: int) -> int:
    """Return the resident memory of a process, its part of what it shares; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _predictor(subject: Subject) -> Predictor:
    chosen = pipeline.choose_configuration(Plan.load(subject.place.plan), subject.configuration)
    return load_model(subject.place, pipeline.ModelChoice(chosen, None, "cpu", mirror=True))


def _predict_float32(subject: Subject, output: Path) -> dict[str, NDArray[np.float32]]:
    """Write label maps in float32; return how clear the decision was at every voxel, by file name.

    That is the lead of the highest logit over the second; where outputs are regions, the smallest distance from 0.
    """
    usual = _predictor(subject)
    predictor = replace(usual, settings=replace(usual.settings, precision="float32"))
    is_regions = bool(predictor.model.plan.labels.regions)
    leads = {}
    for path in sorted(subject.images.iterdir()):
        prepared = predictor.prepare(read_image((path,)), path.name)
        properties = prepared.properties
        lead = np.zeros(properties.cropped_shape, np.float32)

        def observe(place: tuple[slice, ...], logits: torch.Tensor, lead: NDArray[np.float32] = lead) -> None:
            highest = logits.abs().neg() if is_regions else logits.topk(2, dim=0).values
            lead[place] = highest.amax(0).neg() if is_regions else highest[0] - highest[1]

        name = path.name.replace("_0000", "")
        write_label(output / name, predictor.predict_prepared(prepared, onlooker=Onlooker(observe)))
        whole = np.full([properties.original_shape[axis] for axis in properties.transpose], np.inf, np.float32)
        whole[box_slices(properties.crop_box)] = lead
        leads[name] = whole.transpose(np.argsort(properties.transpose))
    return leads


def _agreement(ours: Path, theirs: Path) -> Agreement:
    lowest, different, voxels = 1.0, 0, 0
    for path in sorted(theirs.glob("*.nii.gz")):
        mine, their = read_label(ours / path.name).array, read_label(path).array
        different += int((mine != their).sum())
        voxels += mine.size
        for value in np.union1d(np.unique(mine), np.unique(their)):
            both = ((mine == value) & (their == value)).sum()
            lowest = min(lowest, float(2 * both / ((mine == value).sum() + (their == value).sum())))
    return Agreement(lowest, different, voxels)


def _largest_lead(leads: Mapping[str, NDArray[np.float32]], ours: Path, theirs: Path) -> float:
    """Return how clear the decision was, at most, where the label maps differ."""
    clear = [0.0]
    for name, lead in leads.items():
        differs = read_label(ours / name).array != read_label(theirs / name).array
        clear.extend(lead[differs].tolist())
    return max(clear)


def _forward_passes_s(subject: Subject) -> float:
    """Return the seconds of the network alone: every tile and mirror image of every scan, in the usual precision."""
    predictor = _predictor(subject)
    chosen, settings = predictor.model.configuration, predictor.settings
    tile = (1,) * (3 - len(chosen.patch_size)) + tuple(chosen.patch_size)
    num_tiles = 0
    for path in sorted(subject.images.iterdir()):
        shape = predictor.prepare(read_image((path,))).array.shape[1:]
        num_tiles += math.prod(map(len, tiles_along(shape, tile, predictor.model.plan.inference.tile_step)))
    num_passes = num_tiles * 2 ** len(chosen.mirror_axes) * len(predictor.model.networks)
    x = torch.randn(1, chosen.network.num_input_channels, *chosen.patch_size)
    network = predictor.model.networks[0]
    with torch.inference_mode(), mixed_precision(settings.device, settings.precision):
        network(x)
        began = time.monotonic()
        for _ in range(num_passes):
            network(x)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
