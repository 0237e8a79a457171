"""Intensities of a channel become input of the network."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.plan.schema import ChannelNormalization

SMALLEST_DIVISOR = 1e-8
"""Keeps a constant channel finite: its deviation or range is taken to be at least this."""


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
    return np.stack(
        [normalize_channel(values, mask, entry) for values, entry in zip(image, channels, strict=True)],
        dtype=np.float32,
    )


def normalize_channel(
    values: NDArray[np.float32], mask: NDArray[np.bool_], entry: ChannelNormalization
) -> NDArray[np.float32]:
    """Return one channel, (Z, Y, X), normalised; a scheme that looks at the mask sets voxels outside it to 0."""
    match entry.scheme:
        case "ct":
            clipped = np.clip(values, np.float32(entry.lower), np.float32(entry.upper))
            return _shift_and_scale(clipped, entry.mean, entry.std)
        case "zscore" if entry.within_mask:
            inside = values[mask]
            scaled = _shift_and_scale(values, _mean(inside), _std(inside)) if inside.size else values
            return np.where(mask, scaled, np.float32(0))
        case "zscore":
            return _shift_and_scale(values, _mean(values), _std(values))
        case "rescale_to_0_1":
            lowest = float(values.min())
            return _shift_and_scale(values, lowest, float(values.max()) - lowest)
        case "rgb_to_0_1":
            return _shift_and_scale(values, 0, 255)
        case "none":
            return values


def _mean(values: NDArray[np.float32]) -> float:
    return float(values.mean(dtype=np.float64))


def _std(values: NDArray[np.float32]) -> float:
    return float(values.std(dtype=np.float64))


def _shift_and_scale(values: NDArray[np.float32], shift: float, divisor: float) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = (values - np.float32(shift)) / np.float32(max(divisor, SMALLEST_DIVISOR))
    return scaled
