"""Whether two files of a case lie on the same voxel grid."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from autoseg.core.geometry import Geometry, Shape
from autoseg.data.problem import Severity

SPACING_TOLERANCE = 1e-3
"""Relative difference of spacings that is taken for rounding."""

SILENT_SHIFT_VOXELS = 0.1
"""Displacement below which grids are equal: headers round origins and cosines."""

MISPLACED_SHIFT_VOXELS = 0.5
"""Displacement from which on a voxel covers more of its neighbour than of its partner."""

Difference = tuple[Severity, str, str]
"""Severity, rule, and what must hold and what was got."""


def grid_differences(shape: Shape, geometry: Geometry, other_shape: Shape, other: Geometry) -> Iterator[Difference]:
    """Yield how the grid of another file of a case differs from that of its first file.

    Shape and spacing must agree, as voxels cannot be matched otherwise. Origin and direction are judged by what they
    do: the farthest that a voxel of one grid lies from the same voxel of the other. Rounding (below a tenth of a voxel)
    is nothing; up to half a voxel is worth a warning. Beyond, the header says that the other file shows another place,
    or is flipped, which is an error. The exception is a file whose origin and direction were never stored, which is
    common after a detour through arrays: its voxels are taken to match, with a warning.

    Args:
        shape: Voxels of the first file, (z, y, x).
        geometry: Where the first file lies.
        other_shape: Voxels of the other file, (z, y, x).
        other: Where the other file lies.
    """
    if shape != other_shape:
        yield "error", "shape", f"shape (z, y, x) must be {shape} voxels, got {other_shape}"
        return
    relevant = [axis for axis in range(3) if shape[axis] > 1]
    ratios = [other.spacing[axis] / geometry.spacing[axis] for axis in relevant]
    if any(abs(ratio - 1) > SPACING_TOLERANCE for ratio in ratios):
        yield "error", "spacing", f"spacing (z, y, x) must be {_mm(geometry.spacing)}, got {_mm(other.spacing)}"
    shift_voxels = _largest_shift_mm(shape, geometry, other) / min(geometry.spacing[axis] for axis in relevant or [0])
    if shift_voxels <= SILENT_SHIFT_VOXELS or geometry.dimensions != other.dimensions:
        return
    rule = "origin" if np.allclose(geometry.direction, other.direction, atol=1e-3) else "direction"
    stated, got = (geometry.origin, other.origin) if rule == "origin" else (geometry.direction, other.direction)
    is_lost = _is_default(geometry) or _is_default(other)
    severity: Severity = "warning" if is_lost or shift_voxels <= MISPLACED_SHIFT_VOXELS else "error"
    consequence = "; voxels are matched by their indices" if severity == "warning" else ""
    message = f"{rule} must be {_mm(stated)}, got {_mm(got)}, which moves voxels by up to {shift_voxels:.3g} voxels"
    yield severity, rule, message + consequence


def _largest_shift_mm(shape: Shape, first: Geometry, second: Geometry) -> float:
    """Return the greatest distance of the same corner voxel in two grids of the first one's spacing."""
    steps = np.asarray(first.spacing[::-1])
    corners = np.asarray(list(product(*((0, size - 1) for size in reversed(shape))))) * steps
    first_corners = corners @ np.reshape(first.direction, (3, 3)).T + first.origin
    second_corners = corners @ np.reshape(second.direction, (3, 3)).T + second.origin
    return float(np.linalg.norm(first_corners - second_corners, axis=1).max())


def _is_default(geometry: Geometry) -> bool:
    return geometry.origin == (0.0, 0.0, 0.0) and np.array_equal(np.abs(geometry.direction), np.eye(3).ravel())


def _mm(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
