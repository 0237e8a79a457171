"""Compares the metrics with independent implementations, and writes the table of docs/metrics.md.

Those that are installed beside autoseg take part: SciPy and scikit-image always are, MONAI, surface-distance (DeepMind)
and MedPy are where they were put.

    pip install monai surface-distance medpy
    python -m tools.compare_metrics
"""

import argparse
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from autoseg.core.geometry import Spacing
from autoseg.core.labels import declare_labels
from autoseg.evaluate.case import score_case
from autoseg.evaluate.run import evaluation_rules
from autoseg.evaluate.surface import surface_distances
from tools.pages import put_table

Mask: TypeAlias = NDArray[np.bool_]
PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
SHAPE = (12, 26, 30)
SPACINGS: tuple[Spacing, ...] = ((1.0, 1.0, 1.0), (3.0, 0.7, 1.1), (8.0, 1.0, 1.3), (0.5, 2.5, 2.0))
NUM_RANDOM = 12
TOLERANCE_MM = 1.75
LABELS = declare_labels({1: "shape"})


@dataclass(frozen=True)
class Shapes:
    """A prediction and its reference.

    Attributes:
        kind: What they are.
        prediction, reference: Masks, (Z, Y, X).
        spacing: (z, y, x), in mm.
    """

    kind: str
    prediction: Mask
    reference: Mask
    spacing: Spacing


def ball(centre: tuple[float, float, float], radius: float) -> Mask:
    """Return a ball in voxels, cut off where the array ends."""
    apart = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
    mask: Mask = (apart**2).sum(axis=0) <= radius**2
    return mask


def box(*bounds: tuple[int, int]) -> Mask:
    """Return a box by its bounds along each axis."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[tuple(slice(*pair) for pair in bounds)] = True
    return mask


def all_shapes() -> Iterator[Shapes]:
    """Give known and random shapes, each with every spacing."""
    rng = np.random.default_rng(0)
    known = {
        "ball and shifted ball": (ball((6, 12, 14), 5), ball((6, 14, 13), 4.5)),
        "ball at the edge": (ball((1, 2, 15), 6), ball((0, 3, 14), 5)),
        "box in a box": (box((3, 9), (5, 20), (6, 24)), box((2, 10), (4, 21), (5, 25))),
        "one slice": (box((5, 6), (5, 15), (5, 15)), box((5, 6), (7, 17), (4, 12))),
        "two voxels": (box((2, 3), (3, 4), (4, 5)), box((9, 10), (20, 21), (25, 26))),
        "the whole array": (np.ones(SHAPE, dtype=bool), box((0, 12), (0, 26), (0, 15))),
        "the same twice": (ball((6, 12, 14), 5), ball((6, 12, 14), 5)),
    }
    noise = {
        f"noise {number}": (rng.random(SHAPE) < rng.uniform(0.002, 0.6), rng.random(SHAPE) < rng.uniform(0.002, 0.6))
        for number in range(NUM_RANDOM)
    }
    blobs = {
        f"blobs {number}": tuple(ndimage.gaussian_filter(rng.normal(size=SHAPE), 2) > 0.03 for _ in range(2))
        for number in range(NUM_RANDOM)
    }
    for kind, (prediction, reference) in {**known, **noise, **blobs}.items():
        for spacing in SPACINGS:
            yield Shapes(kind, prediction, reference, spacing)


def ours(shapes: Shapes) -> dict[str, float]:
    """Return all scores as autoseg has them."""
    rules = evaluation_rules(TOLERANCE_MM)
    maps = shapes.prediction.astype(np.uint8), shapes.reference.astype(np.uint8)
    found = score_case(*maps, shapes.spacing, LABELS, rules)["shape"].model_dump()
    apart = surface_distances(shapes.prediction, shapes.reference, shapes.spacing)
    directed = {
        "largest distance": max(apart.from_prediction_mm.max(), apart.from_reference_mm.max()),
        "mean distance, one way": apart.from_prediction_mm.mean(),
    }
    return {**found, **directed}


def brute_force(shapes: Shapes) -> dict[str, float]:
    """Return scores by counting, and by the nearest of all points of the other surface (SciPy's k-d tree)."""
    hit = (shapes.prediction & shapes.reference).sum()
    sizes = shapes.prediction.sum() + shapes.reference.sum()
    surfaces = [_surface(mask) * np.array(shapes.spacing) for mask in (shapes.prediction, shapes.reference)]
    there, back = (np.asarray(cKDTree(surfaces[1 - side]).query(surfaces[side])[0]) for side in (0, 1))
    every = np.concatenate([there, back])
    return {
        "dice": 2 * hit / sizes,
        "iou": hit / (sizes - hit),
        "hd95_mm": max(np.percentile(there, 95), np.percentile(back, 95)),
        "average_surface_distance_mm": every.mean(),
        "surface_dice": (every <= TOLERANCE_MM + 1e-9).mean(),
        "prediction_ml": shapes.prediction.sum() * np.prod(shapes.spacing) / 1000,
        "largest distance": every.max(),
        "mean distance, one way": there.mean(),
    }


def _surface(mask: Mask) -> NDArray[np.intp]:
    """Return the voxels of a mask that have a face without it, one by one."""
    inside = {tuple(voxel) for voxel in np.argwhere(mask)}
    steps = [tuple(step) for step in np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])]
    border = [voxel for voxel in inside if any(tuple(np.add(voxel, step).tolist()) not in inside for step in steps)]
    return np.array(sorted(border))


def monai(shapes: Shapes) -> dict[str, float]:
    """Return scores by MONAI."""
    import torch

    metrics = importlib.import_module("monai.metrics")
    maps = [torch.from_numpy(mask)[None, None] for mask in (shapes.prediction, shapes.reference)]
    spacing = list(shapes.spacing)
    found = {
        "dice": metrics.compute_dice(*maps),
        "iou": metrics.compute_iou(*maps),
        "hd95_mm": metrics.compute_hausdorff_distance(*maps, include_background=True, percentile=95, spacing=spacing),
        "largest distance": metrics.compute_hausdorff_distance(*maps, include_background=True, spacing=spacing),
        "average_surface_distance_mm": metrics.compute_average_surface_distance(
            *maps, include_background=True, symmetric=True, spacing=spacing
        ),
        "mean distance, one way": metrics.compute_average_surface_distance(
            *maps, include_background=True, spacing=spacing
        ),
        "surface_dice": metrics.compute_surface_dice(*maps, [TOLERANCE_MM], include_background=True, spacing=spacing),
    }
    return {name: float(value) for name, value in found.items()}


def medpy(shapes: Shapes) -> dict[str, float]:
    """Return the scores that MedPy defines as autoseg does."""
    binary = importlib.import_module("medpy.metric.binary")
    maps = shapes.prediction, shapes.reference
    return {
        "dice": binary.dc(*maps),
        "iou": binary.jc(*maps),
        "largest distance": binary.hd(*maps, voxelspacing=shapes.spacing),
        "mean distance, one way": binary.asd(*maps, voxelspacing=shapes.spacing),
    }


def surface_distance(shapes: Shapes) -> dict[str, float]:
    """Return the score that DeepMind's surface-distance defines as autoseg does; its surfaces have areas."""
    found = importlib.import_module("surface_distance").compute_dice_coefficient(shapes.reference, shapes.prediction)
    return {"dice": found}


def scikit_image(shapes: Shapes) -> dict[str, float]:
    """Return the largest distance by scikit-image, which knows voxels of one spacing only."""
    if len(set(shapes.spacing)) > 1:
        return {}
    points = [np.zeros(SHAPE, dtype=bool) for _ in range(2)]
    for array, mask in zip(points, (shapes.prediction, shapes.reference), strict=True):
        array[tuple(_surface(mask).T)] = True
    found = importlib.import_module("skimage.metrics").hausdorff_distance(*points)
    return {"largest distance": found * shapes.spacing[0]}


THEIRS: dict[str, tuple[str, Callable[[Shapes], dict[str, float]]]] = {
    "all pairs of surface voxels (SciPy)": ("scipy", brute_force),
    "scikit-image": ("scikit-image", scikit_image),
    "MONAI": ("monai", monai),
    "MedPy": ("medpy", medpy),
    "surface-distance": ("surface-distance", surface_distance),
}


def compare() -> list[tuple[str, str, int, float]]:
    """Return implementation, score, number of cases and largest difference, relative where values exceed 1."""
    cases = [(shapes, ours(shapes)) for shapes in all_shapes()]
    rows = []
    for name, (package, score) in THEIRS.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name}: not installed, left out")
            continue
        differences: dict[str, list[float]] = {}
        for shapes, own in cases:
            for key, value in score(shapes).items():
                differences.setdefault(key, []).append(abs(own[key] - value) / max(abs(value), 1.0))
        rows += [(f"{name} {version}", key, len(found), max(found)) for key, found in differences.items()]
    return rows


def main() -> None:
    """Compare, print, and put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="leave the page alone")
    chosen = parser.parse_args()
    lines = ["| implementation | score | cases | largest difference |", "|---|---|---|---|"]
    lines += [f"| {name} | {key} | {count} | {worst:.1e} |" for name, key, count, worst in compare()]
    table = "\n".join(lines)
    print(table)
    if not chosen.dry:
        put_table(PAGE, "agreement", table)


if __name__ == "__main__":
    main()
