"""Times training steps on a CPU that keep freed memory beside steps that give it back, and prints a table.

Plans are those of `tools.measure_costs`, on made-up scans. Each measurement runs in a process of its own, the two in
turn, so that both see the same moment. It takes some minutes and most of a machine:

    python -m tools.speed_memory
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from autoseg.core.heap import freed_memory_kept
from tools.measure_costs import SHAPES, Shape, peak_bytes, planned, store_cases, training_step

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5
MOST_S = 8.0
"""Of each measurement, after two steps that do not count; three steps in any case."""

NUM_SHAPES = 3
"""The first so many, of the preset for CPUs; steps of the others take long."""

WAYS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "given back": nullcontext,
    "kept": freed_memory_kept,
}


def main() -> None:
    """Print the table, or measure one plan in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        number, way = given.measure
        print(json.dumps(measure(SHAPES[int(number)], way)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {time.ctime()}, {ROUNDS} rounds\n")
    print("| plan | memory | seconds, median | pages cleared per step | peak | time, pair by pair: median (each) |")
    print("|---|---|---|---|---|---|", flush=True)
    for number, shape in enumerate(SHAPES[:NUM_SHAPES]):
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, measured in found.items():
                measured.append(_measured_apart(number, way))
        for way in WAYS:
            print(_row(shape, way, found), flush=True)


def measure(shape: Shape, way: str) -> dict[str, float]:
    """Return what a training step takes: seconds, pages that the system clears; and the peak of memory of all."""
    made, fingerprint = planned(shape)
    with tempfile.TemporaryDirectory() as folder, WAYS[way]():
        names = store_cases(Path(folder), made, made.configurations[shape.configuration], fingerprint)
        take = training_step(made, shape.configuration, Path(folder), names)
        take(0)
        take(1)
        seconds: list[float] = []
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        while len(seconds) < 3 or sum(seconds) < MOST_S:
            began = time.perf_counter()
            take(len(seconds) + 2)
            seconds.append(time.perf_counter() - began)
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return {"seconds": statistics.median(seconds), "pages": pages / len(seconds), "bytes": peak_bytes()}


def _measured_apart(number: int, way: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tools.speed_memory", "--measure", str(number), way]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _row(shape: Shape, way: str, found: dict[str, list[dict[str, float]]]) -> str:
    first, measured = found["given back"], found[way]
    ratios = [one["seconds"] / other["seconds"] for one, other in zip(measured, first, strict=True)]
    seconds, pages, most = (
        statistics.median(entry[key] for entry in measured) for key in ("seconds", "pages", "bytes")
    )
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    compared = "1" if way == "given back" else f"**{statistics.median(ratios):.2f}** ({each})"
    name = f"{shape.name}: {shape.task}, {shape.preset}, {shape.configuration}"
    return f"| {name} | {way} | {seconds:.3f} | {pages:.0f} | {most / 1e6:.0f} MB | {compared} |"


if __name__ == "__main__":
    main()
