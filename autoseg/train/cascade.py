"""What a cascade's later stage learns from: the earlier stage's prediction, made worse at random.

The earlier stage errs on new scans; a network that saw nothing but its neat predictions would trust it too much. As in
`augment.py`, parameters are drawn first and applied second, on the device, after the map has moved with its image.

Letters: B samples, K foreground classes, ... the spatial axes (2 or 3).

Source:
    Isensee et al. 2021, Supplementary Note 4; rules/blueprint.toml [augmentation], entries that begin with `earlier_`.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from autoseg.network.cascade import foreground_channels
from autoseg.plan.schema import AugmentationPlan

Operation = Literal["dilate", "erode", "open", "close"]

BEYOND = 2**14
"""Squared distance, in voxels, of what is out of reach; far above any radius squared, and safe in int16."""


@dataclass(frozen=True)
class EarlierStage:
    """The stage before, whose prediction is an input.

    Attributes:
        name: Of its configuration.
        num_foreground: Its classes but for the background.
    """

    name: str
    num_foreground: int


@dataclass(frozen=True)
class Reshaping:
    """A morphological operation on a class; where it grows, other classes yield.

    Attributes:
        label: Class index.
        operation: With a ball.
        radius: Of the ball, in voxels.
    """

    label: int
    operation: Operation
    radius: float


@dataclass(frozen=True)
class Removal:
    """A connected component of a class becomes background.

    Attributes:
        label: Class index.
        choice: Which of the components that may go, as a share of their number, 0 to below 1.
        largest_share: Of the patch; larger components stay.
    """

    label: int
    choice: float
    largest_share: float


@dataclass(frozen=True)
class EarlierDraw:
    """How the earlier prediction of one sample is made worse; the defaults change nothing.

    Attributes:
        reshaped: In the order in which it happens.
        removed: After that.
    """

    reshaped: tuple[Reshaping, ...] = ()
    removed: tuple[Removal, ...] = ()


AS_PREDICTED = EarlierDraw()


def draw_earlier(rng: np.random.Generator, plan: AugmentationPlan, num_foreground: int) -> EarlierDraw:
    """Draw the parameters for one sample.

    Args:
        rng: Source of all randomness.
        plan: Probabilities and ranges.
        num_foreground: Classes but for the background.
    """
    reshaped: list[Reshaping] = []
    removed: list[Removal] = []
    if rng.random() < plan.earlier_reshaping_probability:
        for label in rng.permutation(num_foreground) + 1:
            if rng.random() < plan.earlier_reshaping_class_probability:
                operation: Operation = get_args(Operation)[rng.integers(len(get_args(Operation)))]
                radius = float(rng.uniform(*plan.earlier_reshaping_radius_range))
                reshaped.append(Reshaping(int(label), operation, radius))
    if rng.random() < plan.earlier_removal_probability:
        removed = [
            Removal(label, float(rng.random()), plan.earlier_removal_largest_share)
            for label in range(1, num_foreground + 1)
            if rng.random() < plan.earlier_removal_class_probability
        ]
    return EarlierDraw(tuple(reshaped), tuple(removed))


def earlier_channels(earlier: Tensor, draws: list[EarlierDraw], num_foreground: int) -> Tensor:
    """Return one channel per foreground class of an earlier prediction, (B, K, ...) bool, made worse as drawn.

    Args:
        earlier: (B, ...), class indices; 0 and below belong to no class.
        draws: One per sample; none for no change.
        num_foreground: K.
    """
    channels = foreground_channels(earlier, num_foreground)
    for sample, draw in zip(channels, draws, strict=False):
        for change in draw.reshaped:
            _reshape(sample, change)
        for removal in draw.removed:
            _remove_component(sample[removal.label - 1], removal)
    return channels


def _reshape(sample: Tensor, change: Reshaping) -> None:
    """Reshape a class of (K, ...) in place."""
    own = sample[change.label - 1]
    radius = change.radius
    match change.operation:
        case "dilate":
            reshaped = dilate(own, radius)
        case "erode":
            reshaped = erode(own, radius)
        case "open":
            reshaped = dilate(erode(own, radius), radius)
        case "close":
            reshaped = erode(dilate(own, radius), radius)
    sample &= ~(reshaped & ~own)
    sample[change.label - 1] = reshaped


def dilate(mask: Tensor, radius: float) -> Tensor:
    """Return the voxels of a mask, bool (...), and all within a distance of `radius` voxels from one of them."""
    squared = torch.where(mask, 0, BEYOND).to(torch.int16)
    for axis in range(mask.ndim):
        squared = _least_along(squared, axis, math.floor(radius))
    return squared <= radius**2


def erode(mask: Tensor, radius: float) -> Tensor:
    """Return the voxels of a mask, bool (...), but for those within `radius` voxels from one outside it.

    What lies beyond the patch is unknown and takes nothing away.
    """
    return ~dilate(~mask, radius)


def _least_along(squared: Tensor, axis: int, reach: int) -> Tensor:
    """Return squared distances to the nearest voxel, one more axis taken into account, up to `reach` along it.

    Source:
        Felzenszwalb and Huttenlocher 2012, Theory of Computing 8(19), distance transforms of sampled functions.
    """
    least = squared.clone()
    size = squared.shape[axis]
    for offset in range(1, min(reach, size - 1) + 1):
        shifted = squared + offset**2
        for here, there in ((0, offset), (offset, 0)):
            part = least.narrow(axis, here, size - offset)
            torch.minimum(part, shifted.narrow(axis, there, size - offset), out=part)
    return least


def _remove_component(mask: Tensor, removal: Removal) -> None:
    """Take a connected component out of a mask, bool (...), in place, if one is small enough.

    Components are counted on the CPU: torch knows none, and few samples need them.
    """
    numbered, num_components = ndimage.label(mask.cpu().numpy(), structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(numbered.ravel(), minlength=num_components + 1)[1:]
    small = np.flatnonzero(sizes < removal.largest_share * mask.numel())
    if small.size:
        chosen = small[int(removal.choice * small.size)] + 1
        mask &= torch.from_numpy(numbered != chosen).to(mask.device)
