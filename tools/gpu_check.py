"""Proves on a CUDA device what cannot be proved without one, times training steps there, and writes docs/gpu.md.

    python -m tools.gpu_check                              # checks and times; about a quarter of an hour
    python -m tools.gpu_check --dataset Task04_Hippocampus.tar     # and ten minutes of training, scored
    python -m tools.gpu_check --device cpu --tiny          # the same code in seconds, tiny: does the script work?

Plans are made from the published fingerprints that the tests keep, scans of their median size are made up. What is on
by default (half precision, augmentation on the device, cuDNN's search) is proved and timed; what is not (compilation,
channels last, a fused optimiser, bfloat16) is timed beside it, so that a default can follow a measurement.
It ends with 1 if something does not hold, with 2 if there is no such device.
"""

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import autoseg
from autoseg.core.errors import AutosegError
from autoseg.network.device import best_precision, choose_device
from autoseg.network.probe import device_name
from tools.gpu_checks import Finding, run_checks
from tools.gpu_times import AIM, STEPS_PER_EPOCH, WAITING_SHARE, Timing, time_plans

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gpu.md"

TRAINING_BUDGET = "10m"
DICE_BAR = 0.892
"""Mean Dice of Hippocampus, fold 0, that nnU-Net v2 reaches in two hours on an H100."""

MOST_WORKERS = 16


def main() -> int:
    """Check, time, write the page; return 1 if something does not hold, 2 if there is no such device."""
    given = _parsed()
    try:
        device = choose_device(given.device)
    except AutosegError as error:
        print(f"gpu_check: {error} To see whether this script works: --device cpu --tiny.", file=sys.stderr)
        return 2
    if device.type != "cuda" and not given.tiny:
        print(
            f"gpu_check: --device must be a CUDA device, got {device}. Add --tiny to try the script.", file=sys.stderr
        )
        return 2
    findings = run_checks(device, is_tiny=given.tiny)
    timings = time_plans(device, given.workers if device.type == "cuda" else 0, is_tiny=given.tiny)
    if not given.tiny:
        findings += _findings_of_times(timings)
    if given.dataset is not None:
        findings.append(_ten_minutes(given.dataset, given.device))
    page = _page(device, findings, timings)
    target = given.page or (None if given.tiny else PAGE)
    if target is not None:
        target.write_text(page, encoding="utf-8")
    print(page)
    return 0 if all(finding.passed for finding in findings) else 1


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and patches, one plan, a few steps")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, MOST_WORKERS), help="that load patches")
    parser.add_argument("--dataset", type=Path, help="Hippocampus, a folder or an archive; trained for ten minutes")
    parser.add_argument("--page", type=Path, help="where the page goes. [default: docs/gpu.md; with --tiny nowhere]")
    return parser.parse_args()


def _findings_of_times(timings: list[Timing]) -> list[Finding]:
    """Return whether the default, timed first, waits for patches, and whether the fastest variant reaches the aim."""
    findings = []
    for task in dict.fromkeys(timing.task for timing in timings):
        of_task = [timing for timing in timings if timing.task == task]
        share = of_task[0].waiting_share
        name = f"{task}: under {WAITING_SHARE:.0%} of the time waiting for patches"
        findings.append(Finding(name, share < WAITING_SHARE, f"{share:.1%}"))
        best = min(of_task, key=lambda timing: timing.epoch_s)
        figures = f"{best.ratio:.2f} ({best.variant}), {of_task[0].ratio:.2f} ({of_task[0].variant})"
        findings.append(Finding(f"{task}: at most {AIM} of the published time", best.ratio <= AIM, figures))
    return findings


def _ten_minutes(dataset: Path, device: str) -> Finding:
    """Return the Dice of a fold that was trained for ten minutes in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "autoseg", "benchmark", "hippocampus", "--source", str(dataset.resolve())]
        command += ["--folds", "0", "--budget", TRAINING_BUDGET, "--device", device, "--workspace", folder, "--json"]
        began = time.monotonic()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    dice = json.loads(done.stdout)["comparison"][-1]["ours"] / 100
    figures = f"Dice {dice:.3f} after {time.monotonic() - began:.0f} s; nnU-Net in two hours: {DICE_BAR}"
    return Finding("Hippocampus, fold 0, in ten minutes", dice >= DICE_BAR, figures)


def _page(device: torch.device, findings: list[Finding], timings: list[Timing]) -> str:
    rows = [f"| {found.name} | {'yes' if found.passed else '**no**'} | {found.figures} |" for found in findings]
    times = [
        f"| {timing.task} | {timing.variant} | {timing.epoch_s:.1f} | {timing.ratio:.2f} | {timing.waiting_share:.1%}"
        f" | {1e3 * timing.slowest_s:.0f} ms | {timing.first_s:.1f} | {timing.peak_bytes / 1e9:.2f} GB |"
        for timing in timings
    ]
    return HEAD.format(
        date=dt.datetime.now(tz=dt.UTC).date().isoformat(),
        machine=f"{device_name(device)}, {os.cpu_count()} cores, {best_precision(device)}",
        versions=f"autoseg {autoseg.__version__}, torch {torch.__version__}, CUDA {torch.version.cuda},"
        f" Python {platform.python_version()}",
        steps=STEPS_PER_EPOCH,
        findings="\n".join(rows),
        times="\n".join(times),
    )


HEAD = """# On a GPU
Written by `make gpu-check` (`python -m tools.gpu_check`) on {date}: {machine}; {versions}.

Plans are those of published fingerprints for nnU-Net's classic network (`plain`, 8 GB); their scans are made up.

## What holds
| what | holds | figures |
|---|---|---|
{findings}

## Times
Seconds per {steps} training steps, loading and augmentation included, and their ratio to those that nnU-Net v2's
authors publish for an H100 (5.7, 26 and 53). The first step holds what is compiled or looked for. For what a variant
changes see `tools/gpu_times.py`.

| plan | variant | seconds | of the published | waiting for patches | slowest step | first step, s | peak of memory |
|---|---|---|---|---|---|---|---|
{times}
"""


if __name__ == "__main__":
    sys.exit(main())
