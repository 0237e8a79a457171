"""Arrays of stored cases, which training reads in parts."""

from typing import Any

from numpy.typing import NDArray

from autoseg.data.store import LazyArray


def whole(array: LazyArray) -> NDArray[Any]:
    """Return all of an array."""
    return array[(slice(None),) * len(array.shape)]
