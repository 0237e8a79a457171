"""Predicts with nnU-Net's own models in nnU-Net and in autoseg, in turn, and prints how they agree and what they take.

    python -m tools.compare_prediction FOLDER --nnunet-bin ENVIRONMENT/bin

FOLDER is what `tools/train_nnunet_models.py` has written: models in `results`, scans in `images`. Both are whole
commands, start-up included; memory is that of all their processes together, pages that they share counted once. Where
label maps differ, and why: `tools/agree_prediction.py`.
"""

import argparse
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.data.image import read_image
from autoseg.infer.predictor import Predictor
from autoseg.infer.tiles import tiles_along
from autoseg.network.device import mixed_precision
from tools.nnunet_subjects import Subject, agreement, subjects_in

WAYS = {"default": [], "exact": ["--exact"], "fast": ["--fast"], "accurate": ["--accurate"]}
"""Options of `autoseg predict` that can be compared."""

SAMPLING_S = 0.5
"""Time between two looks at the memory of a command."""


@dataclass(frozen=True)
class Run:
    """A command that was run: wall time, and the largest memory of its processes together."""

    seconds: float
    peak_bytes: int


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nnunet-bin", type=Path, required=True, help="folder of nnU-Net's commands")
    parser.add_argument("--models", default="", help="only those whose path contains this")
    parser.add_argument("--cases", type=int, help="scans per model; all if left out")
    parser.add_argument("--runs", type=int, default=1, help="pairs of timed runs")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["default", "exact"], help="how autoseg predicts")
    parser.add_argument("--forward", action="store_true", help="also time the bare forward passes")
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    header = ["model", "cases", "autoseg", "voxels that differ", "lowest Dice of a class", "in one scan"]
    header += ["autoseg", "nnU-Net", "ratio", "memory", "ratio"]
    print(f"| {' | '.join(header)} |")
    print(f"|{'---|' * len(header)}")
    with tempfile.TemporaryDirectory() as scratch:
        for subject in subjects_in(given.folder, Path(scratch), given.models, given.cases):
            _compare(subject, given)


def _compare(subject: Subject, given: argparse.Namespace) -> None:
    scratch = subject.place.root.parent
    rounds = [_timed_round(subject, scratch, given.ways, given.nnunet_bin) for _ in range(given.runs)]
    *ours, theirs = (
        Run(statistics.median(run.seconds for run in runs), max(run.peak_bytes for run in runs))
        for runs in zip(*rounds, strict=True)
    )
    for way, run in zip(given.ways, ours, strict=True):
        _print_row(subject, way, run, theirs)
    if not given.forward:
        return
    for way, run in zip(given.ways, ours, strict=True):
        if way in ("default", "exact"):
            forward_s = _forward_passes_s(subject.predictor(exact=way == "exact"), subject.images)
            print(
                f"\nForward passes, {way}: {forward_s:.1f} s; autoseg takes {run.seconds / forward_s:.2f} times that."
            )


def _print_row(subject: Subject, way: str, ours: Run, theirs: Run) -> None:
    scratch = subject.place.root.parent
    found = agreement(scratch / way, scratch / "theirs")
    cells = (
        subject.name,
        len(list(subject.images.iterdir())),
        way,
        f"{found.num_different} of {found.num_voxels}",
        f"{min(found.dice.values()):.4f}",
        f"{found.lowest_dice:.4f}",
        f"{ours.seconds:.1f} s",
        f"{theirs.seconds:.1f} s",
        f"{ours.seconds / theirs.seconds:.2f}",
        f"{ours.peak_bytes / 2**30:.2f} / {theirs.peak_bytes / 2**30:.2f} GB",
        f"{ours.peak_bytes / theirs.peak_bytes:.2f}",
    )
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _timed_round(subject: Subject, scratch: Path, ways: Sequence[str], nnunet_bin: Path) -> list[Run]:
    """Return what autoseg takes in each of its ways, and nnU-Net, after writing to folders of their names."""
    mine = []
    for way in ways:
        ours = [sys.executable, "-m", "autoseg", "predict", subject.images, scratch / way, *WAYS[way]]
        ours += ["--workspace", subject.place.root, "--configuration", subject.configuration, "--device", "cpu"]
        mine.append(_run(ours, os.environ))
        print(f"{subject.name}: autoseg {way} {mine[-1].seconds:.1f} s", file=sys.stderr, flush=True)
    environment = {**os.environ, **{f"nnUNet_{part}": str(scratch) for part in ("raw", "preprocessed", "results")}}
    stages = [_run(command, environment) for command in _nnunet(subject, nnunet_bin, scratch / "theirs")]
    theirs = Run(sum(stage.seconds for stage in stages), max(stage.peak_bytes for stage in stages))
    print(f"{subject.name}: nnU-Net {theirs.seconds:.1f} s", file=sys.stderr, flush=True)
    return [*mine, theirs]


def _nnunet(subject: Subject, nnunet_bin: Path, output: Path) -> Iterator[list[object]]:
    """Give nnU-Net's commands, stage by stage."""
    previous: list[object] = []
    if subject.earlier is not None:
        earlier = output.with_name("earlier")
        yield [*_predict_command(nnunet_bin, subject.earlier, subject.images), "-o", earlier]
        previous = ["-prev_stage_predictions", earlier]
    yield [*_predict_command(nnunet_bin, subject.folder, subject.images), "-o", output, *previous]


def _predict_command(nnunet_bin: Path, model: Path, images: Path) -> list[object]:
    folds = [path.parent.name.removeprefix("fold_") for path in sorted(model.glob("fold_*/checkpoint_final.pth"))]
    program = nnunet_bin / "nnUNetv2_predict_from_modelfolder"
    return [program, "-i", images, "-m", model, "-f", *folds, "-device", "cpu", "--disable_progress_bar"]


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


def _forward_passes_s(predictor: Predictor, images: Path) -> float:
    """Return the seconds of the network alone: every tile and mirror image of every scan."""
    chosen, settings = predictor.model.configuration, predictor.settings
    tile = (1,) * (3 - len(chosen.patch_size)) + tuple(chosen.patch_size)
    num_tiles = 0
    for path in sorted(images.iterdir()):
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
