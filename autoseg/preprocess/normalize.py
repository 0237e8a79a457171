"""Intensities of a channel become input of the network."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.plan.schema import ChannelNormalization

SMALLEST_DIVISOR = 1e-8
"""Keeps a constant channel finite: its deviation or range is taken to be at least this."""

_VOXELS_AT_ONCE = 2**20
"""Converted to double precision."""


def normalize(
    image: NDArray[np.float32], mask: NDArray[np.bool_], channels: Sequence[ChannelNormalization]
) -> NDArray[np.float32]:
    """Return the image with every channel normalised as its entry of the plan says.

    Args:
        image: (C, Z, Y, X), cropped, in the units of the file.
        mask: (Z, Y, X), true where the case is not empty.
        channels: One entry per channel.

    Raises:
        ValueError: If the number of channels differs from the number of entries.

    Source:
        Isensee et al. 2021, Methods, intensity normalisation.
    """
    normalized = [normalize_channel(values, mask, entry) for values, entry in zip(image, channels, strict=True)]
    return normalized[0][None] if len(normalized) == 1 else np.stack(normalized)


def normalize_channel(
    values: NDArray[np.float32], mask: NDArray[np.bool_], entry: ChannelNormalization
) -> NDArray[np.float32]:
    """Return one channel, (Z, Y, X), normalised; a scheme that looks at the mask sets voxels outside it to 0."""
    # One array of its own, in order, changed in place: scans are large, and sums depend on the order of their terms.
    own = np.array(values, dtype=np.float32, order="C")
    match entry.scheme:
        case "ct":
            np.clip(own, np.float32(entry.lower), np.float32(entry.upper), out=own)
            _shift_and_scale(own, entry.mean, entry.std)
        case "zscore" if entry.within_mask:
            inside = own[mask]
            if inside.size:
                _shift_and_scale(own, _mean(inside), _std(inside))
            own[~mask] = 0
        case "zscore":
            _shift_and_scale(own, _mean(own), _std(own))
        case "rescale_to_0_1":
            lowest = float(own.min())
            _shift_and_scale(own, lowest, float(own.max()) - lowest)
        case "rgb_to_0_1":
            _shift_and_scale(own, 0, 255)
        case "none":
            pass
    return own


def _mean(values: NDArray[np.float32]) -> float:
    return float(values.mean(dtype=np.float64))


def _std(values: NDArray[np.float32]) -> float:
    """Return the standard deviation, summed in double precision part by part."""
    mean, flat = _mean(values), values.reshape(-1)
    parts = (flat[first : first + _VOXELS_AT_ONCE] for first in range(0, flat.size, _VOXELS_AT_ONCE))
    return math.sqrt(math.fsum(float(np.square(part.astype(np.float64) - mean).sum()) for part in parts) / flat.size)


def _shift_and_scale(values: NDArray[np.float32], shift: float, divisor: float) -> None:
    """Turn values into (values - shift) / divisor, in place."""
    values -= np.float32(shift)
    values /= np.float32(max(divisor, SMALLEST_DIVISOR))
