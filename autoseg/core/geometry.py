"""Voxel grids: spacing, shape, position in space. All tuples are in array order, (z, y, x)."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from autoseg.core.artefact import Record

Spacing: TypeAlias = tuple[float, ...]
"""Distance of neighbouring voxels per axis, (z, y, x) or (y, x), in mm."""

Shape: TypeAlias = tuple[int, ...]
"""Voxels per axis, (z, y, x) or (y, x)."""

Box: TypeAlias = tuple[tuple[int, int], ...]
"""First voxel and the one after the last, per axis."""


class Geometry(Record):
    """Where an array lies in space.

    Attributes:
        spacing: Per array axis (z, y, x), in mm.
        origin: World position of the first voxel, (x, y, z) as SimpleITK gives it, in mm.
        direction: The nine direction cosines, row by row, as SimpleITK gives them.
        dimensions: 2 for an image stored with two axes (its array has one slice), 3 otherwise.
    """

    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    dimensions: int = 3


def resampled_shape(shape: Shape, old_spacing: Spacing, new_spacing: Spacing) -> Shape:
    """Return the shape of an array after resampling: per axis round(old spacing / new spacing * voxels), 1 or more.

    Source:
        Isensee et al. 2021, Methods, resampling; ties round to the even number.
    """
    return tuple(
        max(round(old / new * size), 1) for size, old, new in zip(shape, old_spacing, new_spacing, strict=True)
    )


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box around the true voxels of a mask; the whole array where there are none."""
    if not mask.any():
        return tuple((0, size) for size in mask.shape)
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        box.append((int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)


def box_slices(box: Box) -> tuple[slice, ...]:
    """Return the slices that cut a box out of an array."""
    return tuple(slice(first, last) for first, last in box)


def num_voxels(shape: Sequence[float]) -> float:
    """Return the product of the sizes."""
    return math.prod(shape)
