"""Augmentation in two steps: draw the parameters of every sample, then apply them to the whole batch on its device.

The draw is a small record of plain numbers, so that one draw keeps image and label in step, can be written down, and
says beforehand how much of a scan must be read. Applying it takes few tensor operations for the whole batch: blur and
low resolution are matrices along each axis. What is drawn decides what is done: but for the classes that occur, no
number is read from the device, which would wait for all that it computes.

Shape letters: B batch, C channels, D spatial axes (2 or 3), ... the spatial axes.

Source:
    Isensee et al. 2021, Supplementary Note 2, data augmentation; rules/blueprint.toml [augmentation].
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.network.device import send
from autoseg.plan.schema import AugmentationPlan
from autoseg.train.cascade import AS_PREDICTED, EarlierDraw

OUTSIDE = -1
"""Label of voxels outside the scan or its non-zero mask."""


@dataclass(frozen=True)
class AugmentationDraw:
    """Parameters of the augmentation of one sample; the defaults change nothing.

    Attributes:
        matrix: Maps centred voxel positions of the output to those of the input, D rows of D numbers.
        mirrored: Per axis.
        noise_std: Standard deviation of the added Gaussian noise.
        blur_sigmas: Per channel and axis, in voxels; 0 for none.
        brightness: Factor per channel.
        contrast: Factor per channel.
        resolution: Per channel: the share of voxels kept per axis, 1 for all.
        keep_coarse_axis: Whether lower resolution leaves the first axis alone.
        gamma_inverted: Exponent on the negated image, per channel; 1 for none.
        gamma: Exponent per channel; 1 for none.
        noise_seed: Seed of the noise.
        earlier: What happens to the prediction of a cascade's earlier stage.
    """

    matrix: tuple[tuple[float, ...], ...]
    mirrored: tuple[bool, ...]
    noise_std: float
    blur_sigmas: tuple[tuple[float, ...], ...]
    brightness: tuple[float, ...]
    contrast: tuple[float, ...]
    resolution: tuple[float, ...]
    keep_coarse_axis: bool
    gamma_inverted: tuple[float, ...]
    gamma: tuple[float, ...]
    noise_seed: int
    earlier: EarlierDraw = AS_PREDICTED

    @property
    def is_rigid(self) -> bool:
        """Whether positions stay what they are, but for mirroring."""
        return np.array_equal(self.matrix, np.eye(len(self.matrix)))


def is_slicewise(patch_size: tuple[int, ...], ratio: float) -> bool:
    """Return whether a 3D patch is so flat that it is rotated and scaled slice by slice."""
    return len(patch_size) == 3 and max(patch_size) / patch_size[0] > ratio


def draw_augmentation(
    rng: np.random.Generator,
    plan: AugmentationPlan,
    patch_size: tuple[int, ...],
    num_channels: int,
    mirror_axes: tuple[int, ...] | None = None,
) -> AugmentationDraw:
    """Draw the parameters for one sample.

    Args:
        rng: Source of all randomness.
        plan: Probabilities and ranges.
        patch_size: Of the output, in voxels.
        num_channels: Of the image.
        mirror_axes: Along which the patch may be mirrored; None for all.
    """
    axes = len(patch_size)
    may_mirror = range(axes) if mirror_axes is None else mirror_axes
    slicewise = is_slicewise(patch_size, plan.slicewise_ratio)

    def hit(probability: float) -> bool:
        return bool(rng.random() < probability)

    def around_one(bounds: tuple[float, float]) -> float:
        low, high = bounds
        return float(rng.uniform(low, 1.0) if hit(0.5) else rng.uniform(1.0, high))

    def per_channel(probability: float, bounds: tuple[float, float]) -> tuple[float, ...]:
        factors = tuple(around_one(bounds) for _ in range(num_channels))
        return factors if hit(probability) else (1.0,) * num_channels

    may_turn = all(axis in may_mirror for axis in range(axes - 2, axes))
    matrix = _draw_matrix(rng, plan, patch_size, largest_angle(plan, patch_size, may_turn=may_turn))
    noise = float(rng.uniform(*plan.noise_std_range)) if hit(plan.noise_probability) else 0.0
    blurred = hit(plan.blur_probability)
    blur = tuple(
        tuple(float(rng.uniform(*plan.blur_sigma_range)) for _ in range(axes))
        if blurred and hit(plan.blur_channel_probability)
        else (0.0,) * axes
        for _ in range(num_channels)
    )
    brightness = per_channel(plan.brightness_probability, plan.brightness_range)
    contrast = per_channel(plan.contrast_probability, plan.contrast_range)
    lowered = hit(plan.low_resolution_probability)
    resolution = tuple(
        float(rng.uniform(*plan.low_resolution_range))
        if lowered and hit(plan.low_resolution_channel_probability)
        else 1.0
        for _ in range(num_channels)
    )
    return AugmentationDraw(
        matrix=matrix,
        noise_std=noise,
        blur_sigmas=blur,
        brightness=brightness,
        contrast=contrast,
        resolution=resolution,
        keep_coarse_axis=slicewise,
        gamma_inverted=per_channel(plan.gamma_inverted_probability, plan.gamma_range),
        gamma=per_channel(plan.gamma_probability, plan.gamma_range),
        mirrored=tuple(hit(plan.mirror_probability) and axis in may_mirror for axis in range(axes)),
        noise_seed=int(rng.integers(2**62)),
    )


def largest_angle(plan: AugmentationPlan, patch_size: tuple[int, ...], *, may_turn: bool) -> float:
    """Return how far a patch may be rotated either way, in radians.

    Slices may be turned freely, unless they are elongated (2D patches), or half a turn would confuse left and right.

    Args:
        plan: Angles.
        patch_size: In voxels.
        may_turn: Whether half a turn in the plane, which is the same as mirroring both its axes, changes no class.

    Source:
        nnU-Net 2.8.1, trainer; that classes told apart by side limit the angle is autoseg's.
    """
    if len(patch_size) == 3 and not is_slicewise(patch_size, plan.slicewise_ratio):
        return plan.rotation_angle_3d
    is_elongated = len(patch_size) == 2 and max(patch_size) / min(patch_size) > plan.elongation_ratio
    return plan.rotation_angle_2d_elongated if is_elongated or not may_turn else plan.rotation_angle_2d


def _draw_matrix(
    rng: np.random.Generator, plan: AugmentationPlan, patch_size: tuple[int, ...], largest: float
) -> tuple[tuple[float, ...], ...]:
    axes = len(patch_size)
    slicewise = is_slicewise(patch_size, plan.slicewise_ratio)
    matrix = np.eye(axes)
    planes = [(axes - 2, axes - 1)] if axes == 2 or slicewise else [(1, 2), (0, 2), (0, 1)]
    if rng.random() < plan.rotation_probability:
        for first, second in planes:
            angle = rng.uniform(-largest, largest)
            turn = np.eye(axes)
            turn[[first, second], [first, second]] = math.cos(angle)
            turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ turn
    if rng.random() < plan.scaling_probability:
        factors = np.full(axes, rng.uniform(*plan.scaling_range))
        if slicewise:
            factors[0] = 1.0
        matrix = matrix * factors[:, None]
    return tuple(tuple(float(entry) for entry in row) for row in matrix)


def source_shape(draws: list[AugmentationDraw], patch_size: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many voxels per axis must be read so that every sample of a batch finds its surroundings."""
    needed = [patch_size]
    for draw in draws:
        if not draw.is_rigid:
            extent = np.abs(np.asarray(draw.matrix)) @ (np.asarray(patch_size) - 1)
            needed.append(tuple(math.ceil(size) + 1 for size in extent))
    return tuple(int(size) for size in np.max(needed, axis=0))


def apply_augmentation(
    images: Tensor, maps: Tensor, draws: list[AugmentationDraw], patch_size: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Return the augmented batch.

    Args:
        images: (B, C, ...) float32, of the shape that `source_shape` gives, centred on the patch.
        maps: (B, M, ...) int16, class indices, `OUTSIDE` where there is no scan: the label map, and in a cascade the
            prediction of the earlier stage, which move alike.
        draws: One per sample.
        patch_size: Of the output.

    Returns:
        Images (B, C, *patch_size) float32 and maps (B, M, *patch_size) int16.
    """
    images, maps = _move(images, maps, draws, patch_size)
    images = _add_noise(images, draws)
    axes = len(patch_size)
    for axis in range(axes):
        sigmas = np.array([[channel[axis] for channel in draw.blur_sigmas] for draw in draws])
        images = _along_axis(images, axis, _blur_matrices(sigmas, patch_size[axis]))
    images = _change_brightness(images, np.array([draw.brightness for draw in draws]))
    images = _change_contrast(images, np.array([draw.contrast for draw in draws]))
    shares = np.array([draw.resolution for draw in draws])
    for axis in range(1 if draws[0].keep_coarse_axis else 0, axes):
        images = _along_axis(images, axis, _low_resolution_matrices(shares, patch_size[axis]))
    images = -_change_gamma(-images, np.array([draw.gamma_inverted for draw in draws]))
    images = _change_gamma(images, np.array([draw.gamma for draw in draws]))
    for axis in range(axes):
        mirrored = np.array([draw.mirrored[axis] for draw in draws])
        images, maps = _mirror(images, axis, mirrored), _mirror(maps, axis, mirrored)
    return images.contiguous(), maps.contiguous()


def centre_crop(array: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the central part of the last axes."""
    for axis, length in enumerate(size, start=array.ndim - len(size)):
        array = array.narrow(axis, (array.shape[axis] - length) // 2, length)
    return array


def _move(
    images: Tensor, maps: Tensor, draws: list[AugmentationDraw], patch_size: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Rotate and scale: images linearly, maps class by class linearly, the strongest class wins."""
    moving = [index for index, draw in enumerate(draws) if not draw.is_rigid]
    moved_images, moved_maps = centre_crop(images, patch_size), centre_crop(maps, patch_size)
    if not moving:
        return moved_images, moved_maps
    source = images.shape[2:]
    grid = send(_sampling_grid([draws[index] for index in moving], tuple(source), patch_size), images.device)
    places = send(torch.tensor(moving), images.device)
    chosen_images, chosen = images.index_select(0, places), maps.index_select(0, places)
    sampled = torch.nn.functional.grid_sample(chosen_images, grid, padding_mode="zeros", align_corners=False)
    strongest = images.new_zeros((len(moving), *moved_maps.shape[1:]))
    winner = torch.full_like(strongest, OUTSIDE, dtype=maps.dtype)
    for label in torch.unique(chosen):
        indicator = (chosen == label).to(images.dtype)
        share = torch.nn.functional.grid_sample(indicator, grid, padding_mode="zeros", align_corners=False)
        better = share > strongest
        winner = torch.where(better, label, winner)
        strongest = torch.where(better, share, strongest)
    return moved_images.index_copy(0, places, sampled), moved_maps.index_copy(0, places, winner)


def _sampling_grid(draws: list[AugmentationDraw], source: tuple[int, ...], target: tuple[int, ...]) -> Tensor:
    """Return sampling positions for `grid_sample`, (B, *target, D), in its order of axes, x first."""
    ratio = np.asarray(target)[None, :] / np.asarray(source)[:, None]
    theta = np.stack([np.asarray(draw.matrix) * ratio for draw in draws])[:, ::-1, ::-1]
    padded = np.concatenate([theta, np.zeros((*theta.shape[:2], 1))], axis=2)
    affine = torch.from_numpy(padded.copy()).float()
    return torch.nn.functional.affine_grid(affine, [len(draws), 1, *target], align_corners=False)


def _factors(values: NDArray[np.float64], images: Tensor) -> Tensor:
    """Return one number per channel, (B, C), as a tensor that multiplies images."""
    factors = send(torch.from_numpy(values).to(images.dtype), images.device)
    return factors.view(*images.shape[:2], *(1,) * (images.ndim - 2))


def _add_noise(images: Tensor, draws: list[AugmentationDraw]) -> Tensor:
    if all(draw.noise_std == 0 for draw in draws):
        return images
    noise = torch.zeros_like(images)
    for sample, draw in zip(noise, draws, strict=True):
        if draw.noise_std > 0:
            sample.normal_(0.0, draw.noise_std, generator=torch.Generator(images.device).manual_seed(draw.noise_seed))
    return images + noise


def _along_axis(images: Tensor, axis: int, matrices: NDArray[np.float32] | None) -> Tensor:
    """Multiply every line of one spatial axis with its channel's matrix, (B, C, size, size); None changes nothing."""
    if matrices is None:
        return images
    lines = images.movedim(axis + 2, 2)
    product = torch.matmul(send(torch.from_numpy(matrices), images.device), lines.flatten(3))
    return product.view(lines.shape).movedim(2, axis + 2)


def _blur_matrices(sigmas: NDArray[np.float64], size: int) -> NDArray[np.float32] | None:
    """Return Gaussian weights between the voxels of an axis, each row summing to one; sigma 0 gives the identity."""
    if not sigmas.any():
        return None
    position = np.arange(size)
    squared = (position[:, None] - position[None, :]) ** 2.0
    sigma = np.maximum(sigmas, 1e-3)[..., None, None]
    weights = np.exp(-squared / (2 * sigma**2))
    normalized: NDArray[np.float32] = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
    return normalized


def _low_resolution_matrices(shares: NDArray[np.float64], size: int) -> NDArray[np.float32] | None:
    """Return nearest-neighbour downsampling followed by linear upsampling, as one matrix per sample and channel."""
    if (shares == 1).all():
        return None
    matrices = np.empty((*shares.shape, size, size), dtype=np.float32)
    for place in np.ndindex(*shares.shape):
        kept = max(1, round(float(shares[place]) * size))
        picked = np.minimum(((np.arange(kept) + 0.5) * size / kept).astype(int), size - 1)
        position = np.clip((np.arange(size) + 0.5) * kept / size - 0.5, 0, kept - 1)
        left = np.floor(position).astype(int)
        right = np.minimum(left + 1, kept - 1)
        matrix = np.zeros((size, size), dtype=np.float32)
        np.add.at(matrix, (np.arange(size), picked[left]), 1 - (position - left))
        np.add.at(matrix, (np.arange(size), picked[right]), position - left)
        matrices[place] = matrix
    return matrices


def _spatial(images: Tensor) -> tuple[int, ...]:
    return tuple(range(2, images.ndim))


def _change_brightness(images: Tensor, values: NDArray[np.float64]) -> Tensor:
    """Multiply the values of a channel."""
    return images if (values == 1).all() else images * _factors(values, images)


def _change_contrast(images: Tensor, values: NDArray[np.float64]) -> Tensor:
    """Stretch the values of a channel around its mean, within its former range."""
    if (values == 1).all():
        return images
    factors, axes = _factors(values, images), _spatial(images)
    mean = images.mean(axes, keepdim=True)
    stretched = (images - mean) * factors + mean
    stretched = stretched.clamp(images.amin(axes, keepdim=True), images.amax(axes, keepdim=True))
    return torch.where(factors == 1, images, stretched)


def _change_gamma(images: Tensor, values: NDArray[np.float64]) -> Tensor:
    """Raise the values of a channel, scaled to 0..1, to a power; mean and standard deviation stay as they were."""
    if (values == 1).all():
        return images
    exponents, axes = _factors(values, images), _spatial(images)
    low, high = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    curved = ((images - low) / (high - low).clamp(min=1e-7)).pow(exponents)
    mean, std = images.mean(axes, keepdim=True), images.std(axes, keepdim=True)
    curved_mean, curved_std = curved.mean(axes, keepdim=True), curved.std(axes, keepdim=True)
    curved = (curved - curved_mean) / curved_std.clamp(min=1e-7) * std + mean
    return torch.where(exponents == 1, images, curved)


def _mirror(arrays: Tensor, axis: int, mirrored: NDArray[np.bool_]) -> Tensor:
    """Reverse one spatial axis of those samples, (B,), that are mirrored along it."""
    if not mirrored.any():
        return arrays
    chosen = send(torch.from_numpy(mirrored), arrays.device).view(-1, *(1,) * (arrays.ndim - 1))
    return torch.where(chosen, arrays.flip(axis + 2), arrays)
