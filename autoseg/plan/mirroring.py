"""Along which axes a scan may be mirrored: those that the user sets, else all but those that confuse left and right."""

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from autoseg.core.labels import Labels
from autoseg.fingerprint.schema import Fingerprint

_SIDES = ("left", "right")
_SEPARATORS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Sides:
    """Classes that are told apart by side alone, and where left and right are.

    Attributes:
        pairs: Names of the classes, left first.
        axis: Transposed axis that is closest to left-right; None if the cases disagree or do not say.
    """

    pairs: tuple[tuple[str, str], ...]
    axis: int | None


def find_sides(labels: Labels, fingerprint: Fingerprint, transpose: tuple[int, int, int]) -> Sides:
    """Return the pairs of classes that mirroring would confuse, and the axis along which it would.

    Args:
        labels: Classes.
        fingerprint: Of the dataset; its cases say which of their axes is left-right.
        transpose: Axes as read in the order in which the network sees them.
    """
    axes = {case.left_right_axis for case in fingerprint.cases}
    axis = axes.pop() if len(axes) == 1 else None
    return Sides(side_pairs(labels), None if axis is None else transpose.index(axis))


def side_pairs(labels: Labels) -> tuple[tuple[str, str], ...]:
    """Return the pairs of class names that are equal but for the words left and right, whatever joins the words."""
    by_rest: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for label in labels.foreground:
        words = [word for word in _SEPARATORS.split(label.name.casefold()) if word]
        sides = [word for word in words if word in _SIDES]
        if len(sides) == 1:
            rest = tuple("" if word in _SIDES else word for word in words)
            by_rest[rest][sides[0]] = label.name
    return tuple((found["left"], found["right"]) for found in by_rest.values() if len(found) == len(_SIDES))


def mirror_axes(num_axes: int, sides: Sides) -> tuple[int, ...]:
    """Return the axes of a patch along which it may be mirrored.

    All, unless pairs of classes are told apart by side: then all but the left-right axis, which slices may not have;
    none if it is not known.

    Args:
        num_axes: Of the patch: 2 for slices across the first transposed axis, or 3.
        sides: Pairs and left-right axis.
    """
    if not sides.pairs:
        return tuple(range(num_axes))
    if sides.axis is None:
        return ()
    left_right = sides.axis - (3 - num_axes)
    return tuple(axis for axis in range(num_axes) if axis != left_right)


def axes_in_patch(num_axes: int, axes: Collection[int], transpose: tuple[int, int, int]) -> tuple[int, ...]:
    """Return where axes of the images lie in a patch; slices lack the first transposed one.

    Args:
        num_axes: Of the patch: 2 for slices across the first transposed axis, or 3.
        axes: Of the images as read.
        transpose: Axes as read in the order in which the network sees them.
    """
    return tuple(place for place, axis in enumerate(transpose[3 - num_axes :]) if axis in axes)
