"""Which way the axes of an array run in the patient, and how to turn one way into another without touching a value."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from autoseg.core.geometry import Geometry

Orientation: TypeAlias = str
"""Per array axis, (z, y, x), the side of the patient to which its index grows: L or R, P or A, S or I."""

_Scalar = TypeVar("_Scalar", bound=np.generic)

_SIDES = ("LR", "PA", "SI")
"""Along the world's axes, (x, y, z) as SimpleITK has them: the positive side, the negative one."""


@dataclass(frozen=True)
class Turn:
    """How an array is laid out anew: axes in another order, then some of them backwards.

    Attributes:
        axes: Old axis of each new axis, (z, y, x) = (0, 1, 2).
        flipped: New axes that run backwards.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[int, ...] = ()

    def transposed(self, order: Sequence[int]) -> "Turn":
        """Return this turn followed by a change of the order of its new axes."""
        first, second, third = (self.axes[axis] for axis in order)
        return Turn((first, second, third), tuple(new for new, axis in enumerate(order) if axis in self.flipped))

    def apply(self, array: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Return a view of an array, (..., Z, Y, X), turned."""
        others = array.ndim - len(self.axes)
        turned = array.transpose(*range(others), *(others + axis for axis in self.axes))
        flipped: NDArray[_Scalar] = np.flip(turned, tuple(others + axis for axis in self.flipped))
        return flipped

    def undo(self, array: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Return a view of a turned array, (Z, Y, X), as it was."""
        return np.flip(array, self.flipped).transpose(np.argsort(self.axes))


def orientation_of(geometry: Geometry) -> Orientation | None:
    """Return which way the axes of a scan run, each taken for the closest side; None for a 2D image, which has none.

    Of oblique scans the assignment with the largest sum of cosines counts, so that each side is given once.
    """
    if geometry.dimensions < len(_SIDES):
        return None
    cosines = np.reshape(geometry.direction, (3, 3))[:, ::-1].T  # array axes, then world axes
    closest = max(permutations(range(3)), key=lambda worlds: sum(abs(cosines[range(3), worlds])))
    return "".join(_SIDES[world][int(cosines[axis, world] < 0)] for axis, world in enumerate(closest))


def turn_between(own: Orientation | None, wanted: Orientation | None) -> Turn:
    """Return the turn that gives an array of one orientation another; none where either is unknown."""
    if own is None or wanted is None:
        return Turn()
    axes = [next(axis for axis, side in enumerate(own) if _pair(side) == _pair(goal)) for goal in wanted]
    flipped = tuple(new for new, (axis, goal) in enumerate(zip(axes, wanted, strict=True)) if own[axis] != goal)
    return Turn((axes[0], axes[1], axes[2]), flipped)


def _pair(side: str) -> str:
    """Return the pair of sides that a side belongs to."""
    return next(pair for pair in _SIDES if side in pair)
