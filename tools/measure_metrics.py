"""Measures how long all metrics of a large case take, and writes the table of docs/metrics.md.

The case is made on the spot: a CT of 512 x 512 x 300 voxels with 20 organs of very different size, and a prediction of
it that is shifted, eroded in places and dotted with false lesions.

    python -m tools.measure_metrics [--shape 300 512 512] [--classes 20] [--workers 2]
"""

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.core.geometry import Geometry
from autoseg.core.labels import declare_labels
from autoseg.data.image import LabelImage, read_label, write_label
from autoseg.evaluate.case import score_case
from autoseg.evaluate.run import evaluate, evaluation_rules
from tools.pages import put_table

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
SPACING_MM = (1.5, 0.8, 0.8)
NUM_FALSE_LESIONS = 40


def organs(shape: tuple[int, ...], num_classes: int, shift: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return wavy ellipsoids, the first the largest, all moved by `shift` voxels; the draws do not depend on it."""
    array = np.zeros(shape, dtype=np.uint8)
    for number in range(1, num_classes + 1):
        share = 0.42 * (1 - (number - 1) / num_classes) ** 1.5 + 0.03
        radii = np.array([max(share * size * rng.uniform(0.5, 0.9), 4) for size in shape])
        centre = np.array([rng.uniform(0.25, 0.75) * size for size in shape]) + shift
        waves, phase = rng.uniform(3, 9), rng.uniform(0, 6)
        low = np.maximum(np.floor(centre - 1.3 * radii), 0).astype(int)
        high = np.minimum(np.ceil(centre + 1.3 * radii), shape).astype(int)
        box = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
        z, y, x = (
            (np.arange(first, last, dtype=np.float32) - middle) / radius
            for first, last, middle, radius in zip(low, high, centre, radii, strict=True)
        )
        wave = 1 + 0.15 * np.sin(waves * y + phase)[:, None] * np.cos(waves * x)
        array[box][(z**2)[:, None, None] + (y**2)[:, None] + x**2 < wave**2] = number
    return array


def add_false_lesions(array: NDArray[np.uint8], num_classes: int, rng: np.random.Generator) -> None:
    """Scatter cubes of every class over the whole array, so that the box of each class is the whole array."""
    for number in range(1, num_classes + 1):
        for _ in range(NUM_FALSE_LESIONS):
            start = [int(rng.integers(0, size - 6)) for size in array.shape]
            array[tuple(slice(first, first + int(rng.integers(1, 6))) for first in start)] = number


def measure(shape: tuple[int, ...], num_classes: int, num_workers: int, folder: Path) -> list[tuple[str, float]]:
    """Return what was measured, each with its seconds."""
    maps = [organs(shape, num_classes, shift, np.random.default_rng(1)) for shift in (0, 2)]
    labels = declare_labels({number: f"organ {number}" for number in range(1, num_classes + 1)})
    rows = []
    for name, scatter in (("organs", False), ("organs and false lesions all over the scan", True)):
        if scatter:
            add_false_lesions(maps[1], num_classes, np.random.default_rng(2))
        rules = evaluation_rules()
        for threads in dict.fromkeys((1, num_workers)):
            began = time.perf_counter()
            score_case(maps[1], maps[0], SPACING_MM, labels, rules, threads)
            rows.append((f"{name}: arrays, {threads} thread{'s' if threads > 1 else ''}", time.perf_counter() - began))
        files = [folder / f"{side}_{int(scatter)}.nii.gz" for side in ("prediction", "reference")]
        for file, array in zip(files, maps[::-1], strict=True):
            write_label(file, LabelImage(array, Geometry(spacing=SPACING_MM)))
        read_label(files[0])
        began = time.perf_counter()
        evaluate(files[0], files[1], labels, num_workers=num_workers)
        rows.append((f"{name}: `autoseg evaluate`, {num_workers} workers", time.perf_counter() - began))
    return rows


def main() -> None:
    """Measure, print, and put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512))
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="leave the page alone")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(tuple(chosen.shape), chosen.classes, chosen.workers, Path(folder))
    size = " x ".join(map(str, chosen.shape))
    lines = [f"| {size} voxels, {chosen.classes} classes, all metrics | seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds:.1f} |" for name, seconds in rows]
    table = "\n".join(lines)
    print(table)
    print(platform.processor() or platform.machine())
    if not chosen.dry:
        put_table(PAGE, "speed", table)


if __name__ == "__main__":
    main()
