import dataclasses
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from autoseg.train import augment
from autoseg.train.augment import (
    OUTSIDE,
    AugmentationDraw,
    centre_crop,
    draw_augmentation,
    is_slicewise,
    largest_angle,
    source_shape,
)
from tests.train.plans import augmentation


def _draw(num_axes: int = 3, num_channels: int = 1, **changes: object) -> AugmentationDraw:
    """Return a draw that changes nothing, with changes."""
    ones = (1.0,) * num_channels
    nothing = AugmentationDraw(
        matrix=tuple(tuple(float(entry) for entry in row) for row in np.eye(num_axes)),
        mirrored=(False,) * num_axes,
        noise_std=0.0,
        blur_sigmas=((0.0,) * num_axes,) * num_channels,
        brightness=ones,
        contrast=ones,
        resolution=ones,
        keep_coarse_axis=False,
        gamma_inverted=ones,
        gamma=ones,
        noise_seed=0,
    )
    return dataclasses.replace(nothing, **changes)  # type: ignore[arg-type]


def apply_augmentation(
    images: Tensor, labels: Tensor, draws: list[AugmentationDraw], patch_size: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Augment images and one label map per sample, (B, ...)."""
    images, maps = augment.apply_augmentation(images, labels.unsqueeze(1), draws, patch_size)
    return images, maps.squeeze(1)


def _images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _labels(*shape: int, num_classes: int = 3) -> Tensor:
    return torch.randint(0, num_classes, shape, generator=torch.Generator().manual_seed(1)).to(torch.int16)


def _change_images(images: Tensor, **changes: object) -> Tensor:
    """Return (1, C, ...) images after one change."""
    patch = tuple(images.shape[2:])
    labels = torch.zeros((1, *patch), dtype=torch.int16)
    return apply_augmentation(images, labels, [_draw(len(patch), images.shape[1], **changes)], patch)[0]


def _rotation(num_axes: int, plane: tuple[int, int], angle: float) -> tuple[tuple[float, ...], ...]:
    matrix = np.eye(num_axes)
    matrix[np.ix_(plane, plane)] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return tuple(map(tuple, matrix.tolist()))


def _scaling(num_axes: int, factor: float) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, (factor * np.eye(num_axes)).tolist()))


@pytest.mark.parametrize("patch", [(6, 8), (4, 6, 8), (5, 7, 9)])
def test_a_draw_of_nothing_changes_no_bit(patch: tuple[int, ...]) -> None:
    images, labels = _images(2, 3, *patch), _labels(2, *patch)
    labels[:, 0] = OUTSIDE
    draws = [_draw(len(patch), 3)] * 2
    changed, changed_labels = apply_augmentation(images, labels, draws, patch)
    assert torch.equal(changed, images)
    assert torch.equal(changed_labels, labels)


@pytest.mark.parametrize("change", ["blur_sigmas", "brightness", "contrast", "resolution", "gamma", "gamma_inverted"])
def test_one_channel_changes_without_the_other_nor_the_other_sample(change: str) -> None:
    """The second channel of the first sample is changed; nothing else, not by a bit."""
    patch = (6, 7, 8)
    images, labels = _images(2, 2, *patch), _labels(2, *patch)
    value = ((0.0,) * 3, (0.7,) * 3) if change == "blur_sigmas" else (1.0, 0.7)
    draws = [_draw(3, 2, **{change: value}), _draw(3, 2)]
    changed, changed_labels = apply_augmentation(images, labels, draws, patch)
    assert torch.equal(changed[0, 0], images[0, 0])
    assert torch.equal(changed[1], images[1])
    assert not torch.allclose(changed[0, 1], images[0, 1])
    assert torch.equal(changed_labels, labels)


@pytest.mark.parametrize("quarters", [1, 2, -1])
@pytest.mark.parametrize(("num_axes", "plane"), [(2, (0, 1)), (3, (1, 2)), (3, (0, 2)), (3, (0, 1))])
def test_quarter_turns(num_axes: int, plane: tuple[int, int], quarters: int) -> None:
    """A matrix that maps output to input by an angle turns the content the other way."""
    patch = (7,) * num_axes
    images, labels = _images(1, 2, *patch), _labels(1, *patch)
    draw = _draw(num_axes, 2, matrix=_rotation(num_axes, plane, quarters * math.pi / 2))
    changed, changed_labels = apply_augmentation(images, labels, [draw], patch)
    expected = np.rot90(images[0].numpy(), -quarters, (plane[0] + 1, plane[1] + 1))
    assert_close(changed[0].numpy(), expected.copy(), atol=1e-4, rtol=1e-4)
    assert np.array_equal(changed_labels[0].numpy(), np.rot90(labels[0].numpy(), -quarters, plane))


@pytest.mark.parametrize(("factor", "radius"), [(1.0, 6.0), (1.5, 4.0), (0.75, 8.0)])
def test_scaling_divides_the_size_of_objects(factor: float, radius: float) -> None:
    patch = (33, 33)
    distance = np.hypot(*np.meshgrid(np.arange(49) - 24, np.arange(49) - 24))
    ball = torch.from_numpy(distance <= 6)
    draw = _draw(2, 1, matrix=_scaling(2, factor))
    source = source_shape([draw], patch)
    images, labels = centre_crop(ball[None, None].float(), source), centre_crop(ball[None].to(torch.int16), source)
    changed, changed_labels = apply_augmentation(images, labels, [draw], patch)
    assert float(changed_labels.sum()) == pytest.approx(math.pi * radius**2, rel=0.1)
    assert torch.equal(changed_labels[0] == 1, changed[0, 0] > 0.5)


def test_scaling_keeps_the_shape_of_unequal_patches() -> None:
    """Positions double along each axis, whatever the sizes of patch and source."""
    patch = (5, 9)
    draw = _draw(2, 1, matrix=_scaling(2, 2.0))
    source = source_shape([draw], patch)
    assert source == (9, 17)
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(17.0), indexing="ij")
    images = torch.stack([rows, columns])[None]
    changed, _ = apply_augmentation(images, _labels(1, *source), [_draw(2, 2, matrix=draw.matrix)], patch)
    assert_close(changed[0], images[0, :, ::2, ::2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("mirrored", [(True, False, False), (False, True, True), (True, True, True)])
def test_mirroring_keeps_image_and_label_in_step(mirrored: tuple[bool, ...]) -> None:
    patch = (4, 5, 6)
    images, labels = _images(2, 2, *patch), _labels(2, *patch)
    draws = [_draw(3, 2, mirrored=mirrored), _draw(3, 2)]
    changed, changed_labels = apply_augmentation(images, labels, draws, patch)
    axes = [axis for axis, flipped in enumerate(mirrored) if flipped]
    assert torch.equal(changed[0], images[0].flip([axis + 1 for axis in axes]))
    assert torch.equal(changed_labels[0], labels[0].flip(axes))
    assert torch.equal(changed[1], images[1])
    assert torch.equal(changed_labels[1], labels[1])


@pytest.mark.parametrize("mirror_axes", [(), (0,), (0, 2), (0, 1, 2), None])
def test_only_allowed_axes_are_mirrored(mirror_axes: tuple[int, ...] | None) -> None:
    """What is allowed changes nothing else of a draw."""
    recipe = augmentation(1.0)
    draw = draw_augmentation(np.random.default_rng(0), recipe, (8, 8, 8), 1, mirror_axes)
    free = draw_augmentation(np.random.default_rng(0), recipe, (8, 8, 8), 1)
    allowed = (0, 1, 2) if mirror_axes is None else mirror_axes
    assert draw == dataclasses.replace(free, mirrored=tuple(axis in allowed for axis in range(3)))


def test_the_prediction_of_an_earlier_stage_moves_with_the_label() -> None:
    """Two maps of one batch are moved as each would be on its own."""
    patch = (6, 7, 8)
    draws = [draw_augmentation(np.random.default_rng(seed), augmentation(0.7), patch, 1) for seed in range(6)]
    source = source_shape(draws, patch)
    images = _images(6, 1, *source)
    labels, earlier = _labels(6, *source), _labels(6, *source, num_classes=5)
    moved, maps = augment.apply_augmentation(images, torch.stack((labels, earlier), dim=1), draws, patch)
    for number, single in enumerate((labels, earlier)):
        alone, map_alone = apply_augmentation(images, single, draws, patch)
        assert torch.equal(moved, alone)
        assert torch.equal(maps[:, number], map_alone)
    assert any(not draw.is_rigid for draw in draws)


def test_noise_has_its_standard_deviation_and_its_seed() -> None:
    images = torch.ones(1, 2, 24, 24, 24)
    noise = _change_images(images, noise_std=0.1, noise_seed=5) - images
    assert float(noise.std()) == pytest.approx(0.1, rel=0.03)
    assert abs(float(noise.mean())) < 0.003
    assert not torch.equal(noise[:, 0], noise[:, 1])
    assert torch.equal(noise, _change_images(images, noise_std=0.1, noise_seed=5) - images)
    assert not torch.equal(noise, _change_images(images, noise_std=0.1, noise_seed=6) - images)


def test_blur_is_gaussian_in_the_interior() -> None:
    images = _images(1, 1, 20, 22, 24)
    sigmas = (0.5, 0.8, 1.0)
    blurred = _change_images(images, blur_sigmas=(sigmas,))[0, 0]
    expected = ndimage.gaussian_filter(images[0, 0].numpy(), sigmas, truncate=8)
    inside = (slice(6, -6),) * 3
    assert_close(blurred.numpy()[inside], expected[inside], atol=1e-4, rtol=1e-3)


def test_blur_keeps_a_constant_up_to_the_border() -> None:
    constant = torch.full((1, 1, 8, 8), 3.0)
    assert_close(_change_images(constant, blur_sigmas=((1.0, 1.0),)), constant)


def test_brightness_multiplies() -> None:
    images = _images(1, 2, 6, 8)
    changed = _change_images(images, brightness=(1.2, 0.8))
    assert_close(changed, images * torch.tensor([1.2, 0.8]).view(1, 2, 1, 1))


def test_contrast_stretches_around_the_mean() -> None:
    images = _images(1, 1, 8, 8)
    mean = images.mean()
    assert_close(_change_images(images, contrast=(0.8,)), (images - mean) * 0.8 + mean)


def test_contrast_stays_in_the_former_range() -> None:
    images = _images(1, 1, 16, 16)
    changed = _change_images(images, contrast=(1.25,))
    assert float(changed.min()) == float(images.min())
    assert float(changed.max()) == float(images.max())
    middle = (images - images.mean()).abs() < 0.5
    assert_close(changed[middle], ((images - images.mean()) * 1.25 + images.mean())[middle])


@pytest.mark.parametrize("share", [0.5, 0.61, 0.9])
def test_low_resolution_takes_the_nearest_and_goes_back_linearly(share: float) -> None:
    patch = (8, 11, 13)
    images = _images(1, 1, *patch)
    small = [round(share * size) for size in patch]
    lowered = torch.nn.functional.interpolate(images, size=small, mode="nearest-exact")
    expected = torch.nn.functional.interpolate(lowered, size=patch, mode="trilinear", align_corners=False)
    assert_close(_change_images(images, resolution=(share,)), expected)


def test_low_resolution_of_thick_slices_leaves_slices_apart() -> None:
    images = _images(1, 1, 4, 12, 12)
    changed = _change_images(images, resolution=(0.5,), keep_coarse_axis=True)
    slice_by_slice = [_change_images(images[:, :, z], resolution=(0.5,)) for z in range(4)]
    assert_close(changed, torch.stack(slice_by_slice, dim=2))


@pytest.mark.parametrize("name", ["gamma", "gamma_inverted"])
@pytest.mark.parametrize("exponent", [0.7, 1.5])
def test_gamma_keeps_mean_and_deviation(name: str, exponent: float) -> None:
    images = _images(1, 2, 8, 8, 8) * 5 + 3
    changed = _change_images(images, **{name: (exponent, exponent)})
    assert_close(changed.mean((2, 3, 4)), images.mean((2, 3, 4)), atol=1e-3, rtol=1e-4)
    assert_close(changed.std((2, 3, 4)), images.std((2, 3, 4)), atol=1e-3, rtol=1e-4)
    assert not torch.allclose(changed, images, atol=0.1)


@pytest.mark.parametrize(("name", "sign"), [("gamma", 1), ("gamma_inverted", -1)])
def test_gamma_bends_the_values(name: str, sign: int) -> None:
    """Up to scale and offset, 0, 1/2, 1 become 0, 1/4, 1; on the negated image 1/2 becomes 3/4."""
    ramp = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    low, middle, high = _change_images(ramp, **{name: (2.0,)}).flatten().tolist()
    assert (middle - low) / (high - low) == pytest.approx(0.5 - sign * 0.25, abs=1e-5)


def test_gamma_leaves_a_constant_image() -> None:
    constant = torch.full((1, 1, 4, 4), 2.0)
    assert_close(_change_images(constant, gamma=(0.7,), gamma_inverted=(1.5,)), constant)


@pytest.mark.parametrize(
    ("patch", "slicewise"), [((8, 24, 24), False), ((8, 25, 24), True), ((8, 8, 25), True), ((8, 64), False)]
)
def test_flat_patches_are_moved_slice_by_slice(patch: tuple[int, ...], slicewise: bool) -> None:
    assert is_slicewise(patch, 3.0) is slicewise


def test_slices_stay_in_their_place() -> None:
    """Each slice holds its own number and class; they never mix, whatever is drawn."""
    patch = (4, 16, 16)
    recipe = augmentation(0.0, rotation_probability=1.0, scaling_probability=1.0)
    draws = [draw_augmentation(np.random.default_rng(seed), recipe, patch, 1) for seed in range(8)]
    source = source_shape(draws, patch)
    assert source[0] == 4
    assert max(source[1:]) > 16
    number = torch.arange(4).view(1, 4, 1, 1).expand(8, *source)
    images, labels = apply_augmentation(number[:, None].float(), number.to(torch.int16), draws, patch)
    assert_close(images[:, 0], number[:, :, :16, :16].float(), atol=1e-3, rtol=0)
    assert torch.equal(labels, number[:, :, :16, :16].to(torch.int16))


PATCHES = [(8, 8, 8), (5, 9, 12), (4, 20, 16), (16, 12), (7, 31)]


@pytest.mark.parametrize("patch", PATCHES)
def test_what_is_read_is_enough(patch: tuple[int, ...]) -> None:
    recipe = augmentation(0.0, rotation_probability=1.0, scaling_probability=1.0)
    for seed in range(20):
        draw = draw_augmentation(np.random.default_rng(seed), recipe, patch, 1)
        source = source_shape([draw], patch)
        images, labels = torch.ones(1, 1, *source), torch.ones((1, *source), dtype=torch.int16)
        changed, changed_labels = apply_augmentation(images, labels, [draw], patch)
        assert_close(changed, torch.ones(1, 1, *patch), atol=1e-4, rtol=0)
        assert bool((changed_labels == 1).all())


def test_what_is_read_is_not_too_much() -> None:
    draw = _draw(2, 1, matrix=_rotation(2, (0, 1), math.pi / 4))
    source = source_shape([draw], (9, 9))
    assert source == (math.ceil(8 * math.sqrt(2)) + 1,) * 2
    images, labels = torch.ones(1, 1, 9, 9), torch.ones((1, 9, 9), dtype=torch.int16)
    changed, changed_labels = apply_augmentation(images, labels, [draw], (9, 9))
    assert float(changed.min()) == 0
    assert bool((changed_labels[0, 0, 0] == OUTSIDE).all())
    assert int(changed_labels[0, 4, 4]) == 1


def test_nothing_more_is_read_where_nothing_moves() -> None:
    draws = [_draw(3, 1, mirrored=(True, True, True)), _draw(3, 1, noise_std=0.1)]
    assert source_shape(draws, (5, 6, 7)) == (5, 6, 7)
    assert source_shape([], (5, 6, 7)) == (5, 6, 7)


def test_a_batch_is_its_samples_one_by_one() -> None:
    patch = (6, 7, 8)
    draws = [draw_augmentation(np.random.default_rng(seed), augmentation(0.7), patch, 2) for seed in range(6)]
    source = source_shape(draws, patch)
    images, labels = _images(6, 2, *source), _labels(6, *source)
    together, labels_together = apply_augmentation(images, labels, draws, patch)
    for index, draw in enumerate(draws):
        one = slice(index, index + 1)
        alone, labels_alone = apply_augmentation(images[one], labels[one], [draw], patch)
        assert_close(together[one], alone, atol=1e-4, rtol=1e-4)
        assert torch.equal(labels_together[one], labels_alone)


def test_the_strongest_class_wins_and_none_is_made_up() -> None:
    """Between classes 0 and 2 lies no class 1."""
    labels = torch.zeros((1, 9, 9), dtype=torch.int16)
    labels[:, :, 4:] = 2
    draw = _draw(2, 1, matrix=_rotation(2, (0, 1), 0.3))
    _, changed = apply_augmentation(torch.zeros(1, 1, 9, 9), labels, [draw], (9, 9))
    assert set(np.unique(changed.numpy()).tolist()) == {OUTSIDE, 0, 2}


def test_a_draw_depends_on_its_generator_alone() -> None:
    first, again, other = (
        draw_augmentation(np.random.default_rng(seed), augmentation(), (8, 8, 8), 2) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("patch", "mirror_axes", "largest"),
    [
        ((16, 16), (0, 1), 3.1),
        ((16, 16), (0,), 0.25),
        ((16, 16), (), 0.25),
        ((4, 16, 16), (0, 1, 2), 3.1),
        ((4, 16, 16), (1, 2), 3.1),
        ((4, 16, 16), (0, 1), 0.25),
        ((8, 8, 8), (0, 1), 0.5),
    ],
)
def test_half_a_turn_does_not_exchange_left_and_right(
    patch: tuple[int, ...], mirror_axes: tuple[int, ...], largest: float
) -> None:
    recipe = augmentation(0.0, rotation_probability=1.0)
    draws = [draw_augmentation(np.random.default_rng(seed), recipe, patch, 1, mirror_axes) for seed in range(100)]
    if patch != (8, 8, 8):
        angles = [abs(math.atan2(draw.matrix[-1][-2], draw.matrix[-1][-1])) for draw in draws]
        assert 0.9 * largest < max(angles) <= largest
    turns = all(axis in mirror_axes for axis in (len(patch) - 2, len(patch) - 1))
    assert largest_angle(recipe, patch, may_turn=turns) == largest


def test_a_draw_can_be_written_down() -> None:
    patch = (6, 6, 6)
    draw = draw_augmentation(np.random.default_rng(3), augmentation(1.0), patch, 2)
    read = AugmentationDraw(**json.loads(json.dumps(dataclasses.asdict(draw))))
    source = source_shape([draw], patch)
    images, labels = _images(1, 2, *source), _labels(1, *source)
    written, original = (apply_augmentation(images, labels, [entry], patch)[0] for entry in (read, draw))
    assert torch.equal(written, original)


@pytest.mark.parametrize("patch", [(8, 8), (8, 8, 8)])
def test_probability_zero_draws_nothing(patch: tuple[int, ...]) -> None:
    draw = draw_augmentation(np.random.default_rng(0), augmentation(0.0), patch, 2)
    assert dataclasses.replace(draw, noise_seed=0) == _draw(len(patch), 2)


def test_probability_one_draws_everything_in_its_range() -> None:
    recipe = augmentation(1.0)
    for seed in range(50):
        draw = draw_augmentation(np.random.default_rng(seed), recipe, (8, 8, 8), 2)
        assert not draw.is_rigid
        assert draw.mirrored == (True, True, True)
        assert 0 < draw.noise_std <= 0.1
        for factors, (low, high) in [
            (np.ravel(draw.blur_sigmas), (0.5, 1.0)),
            (draw.brightness, (0.75, 1.25)),
            (draw.contrast, (0.75, 1.25)),
            (draw.resolution, (0.5, 1.0)),
            (draw.gamma, (0.7, 1.5)),
            (draw.gamma_inverted, (0.7, 1.5)),
        ]:
            assert all(low <= factor <= high and factor != 1 for factor in factors)
        volume = np.linalg.det(np.asarray(draw.matrix))
        assert 0.7**3 <= volume <= 1.4**3


NEUTRAL: dict[str, Callable[[AugmentationDraw], bool]] = {
    "rotation": lambda draw: draw.is_rigid,
    "scaling": lambda draw: draw.is_rigid,
    "noise": lambda draw: draw.noise_std == 0,
    "blur": lambda draw: not np.any(draw.blur_sigmas),
    "brightness": lambda draw: draw.brightness == (1.0,),
    "contrast": lambda draw: draw.contrast == (1.0,),
    "low_resolution": lambda draw: draw.resolution == (1.0,),
    "gamma_inverted": lambda draw: draw.gamma_inverted == (1.0,),
    "gamma": lambda draw: draw.gamma == (1.0,),
    "mirror": lambda draw: not draw.mirrored[1],
}
"""Whether a draw leaves something as it was."""


@pytest.mark.parametrize("name", NEUTRAL)
def test_each_happens_as_often_as_it_should_and_none_with_it(name: str) -> None:
    chances = {f"{name}_probability": 0.3}
    chances |= {f"{name}_channel_probability": 0.5} if name in ("blur", "low_resolution") else {}
    recipe = augmentation(0.0, **chances)
    draws = [draw_augmentation(np.random.default_rng(seed), recipe, (8, 8), 1) for seed in range(2000)]
    expected = 0.15 if name in ("blur", "low_resolution") else 0.3
    assert np.mean([not NEUTRAL[name](draw) for draw in draws]) == pytest.approx(expected, abs=0.03)
    others = [other for other in NEUTRAL if other != name and {other, name} != {"rotation", "scaling"}]
    assert all(NEUTRAL[other](draw) for other in others for draw in draws)


@pytest.mark.parametrize("name", ["brightness", "contrast", "gamma", "gamma_inverted"])
def test_factors_are_as_often_below_one_as_above(name: str) -> None:
    recipe = augmentation(0.0, **{f"{name}_probability": 1.0})
    factors = [
        getattr(draw_augmentation(np.random.default_rng(seed), recipe, (8, 8), 1), name)[0] for seed in range(1000)
    ]
    assert np.mean(np.asarray(factors) > 1) == pytest.approx(0.5, abs=0.05)


def test_the_order_in_which_they_are_applied() -> None:
    """All at once is each on its own in nnU-Net's order: noise, blur, brightness, contrast, low resolution, gammas."""
    patch = (6, 7, 8)
    changes: list[dict[str, object]] = [
        {"noise_std": 0.1, "noise_seed": 3},
        {"blur_sigmas": ((0.7, 0.8, 0.9),)},
        {"brightness": (1.2,)},
        {"contrast": (1.25,)},
        {"resolution": (0.6,)},
        {"gamma_inverted": (0.7,)},
        {"gamma": (1.5,)},
        {"mirrored": (True, False, True)},
    ]
    step_by_step = images = _images(1, 1, *patch)
    for change in changes:
        step_by_step = _change_images(step_by_step, **change)
    together = {name: value for change in changes for name, value in change.items()}
    assert_close(_change_images(images, **together), step_by_step)
    backwards = images
    for change in reversed(changes):
        backwards = _change_images(backwards, **change)
    assert not torch.allclose(backwards, step_by_step, atol=0.05)


@pytest.mark.parametrize(
    ("patch", "largest"),
    [((8, 8, 8), 0.5), ((4, 16, 16), 3.1), ((8, 12), 3.1), ((8, 13), 0.25)],
    ids=["3D", "slice by slice", "2D", "2D elongated"],
)
def test_angles_fit_the_patch(patch: tuple[int, ...], largest: float) -> None:
    recipe = augmentation(0.0, rotation_probability=1.0)
    turns = [draw_augmentation(np.random.default_rng(seed), recipe, patch, 1).matrix for seed in range(200)]
    if patch == (8, 8, 8):
        angles = [math.asin(np.clip(-np.asarray(turn)[0, 1], -1, 1)) for turn in turns]
    else:
        angles = [math.atan2(turn[-1][-2], turn[-1][-1]) for turn in turns]
        assert all(turn[0] == (1.0, 0.0, 0.0) for turn in turns if len(patch) == 3)
    assert 0.9 * largest < max(np.abs(angles)) <= largest


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what reads a number from a device, and so waits for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[str] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten._unique2.default):
            self.operations.append(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_from_the_device_but_which_classes_occur() -> None:
    """On a GPU, each such moment would leave it without work."""
    patch, plan = (6, 8, 10), augmentation(1.0)
    draws = [draw_augmentation(np.random.default_rng(seed), plan, patch, 2) for seed in range(2)]
    source = source_shape(draws, patch)
    with _Reads() as reads:
        bool(torch.ones(1))
        assert reads.operations == ["aten._local_scalar_dense.default"]
        apply_augmentation(_images(2, 2, *source), _labels(2, *source), draws, patch)
    assert reads.operations[1:] == ["aten._unique2.default"]
