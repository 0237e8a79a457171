import math

import pytest
import torch
from torch.testing import assert_close

from autoseg.train.loss import (
    WHOLE,
    Objective,
    Part,
    dice_and_binary_cross_entropy,
    dice_and_cross_entropy,
    dice_loss,
    region_masks,
    supervised_loss,
    supervision_weights,
)

SMOOTHING = 1e-5

Regions = tuple[tuple[int, ...], ...]


def _certain(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return logits of a prediction that is right and sure of it."""
    one_hot = torch.nn.functional.one_hot(labels, num_classes).movedim(-1, 1)
    return 100.0 * one_hot - 50.0


def _probabilities(foreground: list[list[float]]) -> torch.Tensor:
    """Return (B, 2, voxels) from the foreground's probabilities."""
    positive = torch.tensor(foreground)
    return torch.stack([1 - positive, positive], dim=1)


LABELS_3D = torch.randint(0, 3, (2, 4, 4, 4), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("labels", [LABELS_3D, LABELS_3D[:, 0]])
def test_a_perfect_prediction_costs_nothing(labels: torch.Tensor, batch_dice: bool) -> None:
    loss = dice_and_cross_entropy(_certain(labels, 3), labels, Objective(batch_dice=batch_dice, smoothing=SMOOTHING))
    assert_close(loss, torch.tensor(0.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_dice", [True, False])
def test_a_wrong_and_certain_prediction_costs_the_most(batch_dice: bool) -> None:
    labels = torch.tensor([[0, 0, 1, 1]])
    loss = dice_and_cross_entropy(
        _certain(1 - labels, 2), labels, Objective(batch_dice=batch_dice, smoothing=SMOOTHING)
    )
    assert_close(loss, torch.tensor(100.0 + 1.0), atol=1e-4, rtol=0)


def test_an_undecided_prediction() -> None:
    """Two of eight voxels are foreground, each at one half: Dice = 2 * 1 / (4 + 2); cross-entropy = log 2."""
    labels = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0]])
    loss = dice_and_cross_entropy(torch.zeros(1, 2, 8), labels, Objective(batch_dice=False, smoothing=0.0))
    assert_close(loss, torch.tensor(math.log(2) + 1 - 1 / 3))


@pytest.mark.parametrize(("batch_dice", "expected"), [(False, 1 / 2), (True, 1 / 9)])
def test_pooling_the_batch(batch_dice: bool, expected: float) -> None:
    """The first sample is right about its four voxels, the second misses its only one: 1 and 0, or 2 * 4 / (4 + 5)."""
    probabilities = _probabilities([[1, 1, 1, 1], [0, 0, 0, 0]])
    labels = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    loss = dice_loss(probabilities, labels, Objective(batch_dice=batch_dice, smoothing=0.0))
    assert_close(loss, torch.tensor(expected))


@pytest.mark.parametrize(("found", "expected"), [(0.0, 0.0), (0.5, 1.0)])
def test_a_class_that_is_absent(found: float, expected: float) -> None:
    """Not to find it costs nothing; to find some of it costs all, up to the smoothing."""
    probabilities, labels = _probabilities([[found] * 4]), torch.zeros(1, 4, dtype=torch.int64)
    loss = dice_loss(probabilities, labels, Objective(batch_dice=False, smoothing=SMOOTHING))
    assert_close(loss, torch.tensor(expected), atol=1e-5, rtol=0)


def test_foreground_classes_count_alike_and_the_background_not_at_all() -> None:
    """Class 1 is right, class 2 (one voxel) is taken for background: Dice 1 and 0."""
    labels = torch.tensor([[0, 0, 1, 1, 1, 2]])
    predicted = torch.tensor([[0, 0, 1, 1, 1, 0]])
    probabilities = torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float()
    assert_close(dice_loss(probabilities, labels, Objective(batch_dice=True, smoothing=0.0)), torch.tensor(0.5))


@pytest.mark.parametrize("batch_dice", [True, False])
def test_ignored_voxels_count_nowhere(batch_dice: bool) -> None:
    """Whatever is predicted there, the loss and its gradient are those of the annotated voxels alone."""
    labels = torch.randint(0, 3, (2, 40), generator=torch.Generator().manual_seed(0))
    logits = torch.randn((2, 3, 40), generator=torch.Generator().manual_seed(1))
    alone = dice_and_cross_entropy(
        logits[..., :30], labels[:, :30], Objective(batch_dice=batch_dice, smoothing=SMOOTHING)
    )
    labels[:, 30:] = 3
    logits[..., 30:] *= 100
    logits.requires_grad_()
    loss = dice_and_cross_entropy(
        logits, labels, Objective(batch_dice=batch_dice, smoothing=SMOOTHING, has_ignored=True)
    )
    assert_close(loss, alone)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[..., 30:].any()
    assert gradient[..., :30].any()


def test_patches_without_annotation_cost_nothing() -> None:
    labels = torch.full((2, 4, 4), 3, dtype=torch.int16)
    logits = [torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(1), requires_grad=True)]
    loss = supervised_loss(logits, labels, (1.0,), Objective(batch_dice=True, smoothing=SMOOTHING, has_ignored=True))
    assert_close(loss, torch.tensor(0.0))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient.any()


REGIONS = ((1, 2), (2,))


def test_regions_overlap_and_are_nowhere_without_annotation() -> None:
    masks = region_masks(torch.tensor([[0, 1, 2, 3]]), REGIONS)
    assert masks.int().tolist() == [[[0, 1, 1, 0], [0, 0, 1, 0]]]


@pytest.mark.parametrize("batch_dice", [True, False])
def test_regions_found_cost_nothing_and_regions_missed_all(batch_dice: bool) -> None:
    labels = torch.tensor([[0, 1, 2, 2]])
    right = 100.0 * region_masks(labels, REGIONS) - 50.0
    costs = [
        dice_and_binary_cross_entropy(
            logits, labels, Objective(batch_dice=batch_dice, smoothing=SMOOTHING, regions=REGIONS)
        ).item()
        for logits in (right, -right)
    ]
    assert costs == pytest.approx([0, 51], abs=1e-4)


def test_regions_cost_what_their_masks_cost() -> None:
    """By hand: sigmoid 1/2 everywhere; entropy log 2; Dice 2 * (2/2) / (4/2 + 2) and 2 * (1/2) / (4/2 + 1)."""
    labels = torch.tensor([[0, 0, 1, 2]])
    loss = dice_and_binary_cross_entropy(
        torch.zeros(1, 2, 4), labels, Objective(batch_dice=True, smoothing=0.0, regions=REGIONS)
    )
    assert_close(loss, torch.tensor(math.log(2) + 1 - (1 / 2 + 1 / 3) / 2))


def test_ignored_voxels_count_in_no_region() -> None:
    labels = torch.randint(0, 3, (2, 40), generator=torch.Generator().manual_seed(0))
    logits = torch.randn((2, 2, 40), generator=torch.Generator().manual_seed(1))
    alone = dice_and_binary_cross_entropy(
        logits[..., :30], labels[:, :30], Objective(batch_dice=False, smoothing=SMOOTHING, regions=REGIONS)
    )
    labels[:, 30:] = 3
    logits[..., 30:] *= 100
    loss = supervised_loss(
        [logits], labels, (1.0,), Objective(batch_dice=False, smoothing=SMOOTHING, has_ignored=True, regions=REGIONS)
    )
    assert_close(loss, alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_cost_what_they_cost_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn((2, 3, 4, 4, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    loss = dice_and_cross_entropy(logits, LABELS_3D, Objective(batch_dice=True, smoothing=SMOOTHING))
    assert loss.dtype == torch.float32
    assert_close(
        loss, dice_and_cross_entropy(logits.float(), LABELS_3D, Objective(batch_dice=True, smoothing=SMOOTHING))
    )


@pytest.mark.parametrize(
    ("num_outputs", "decay", "expected"),
    [
        (1, 0.5, [1]),
        (2, 0.5, [1, 0]),
        (3, 0.5, [2 / 3, 1 / 3, 0]),
        (3, 1.0, [1 / 2, 1 / 2, 0]),
        (3, 0.0, [1, 0, 0]),
        (6, 0.5, [16 / 31, 8 / 31, 4 / 31, 2 / 31, 1 / 31, 0]),
    ],
)
def test_supervision_weights(num_outputs: int, decay: float, expected: list[float]) -> None:
    assert supervision_weights(num_outputs, decay) == pytest.approx(expected)


def test_supervision_adds_the_outputs_by_their_weights() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = [torch.randn((2, 3, size, size, size), generator=rng) for size in (4, 2, 1)]
    whole = dice_and_cross_entropy(logits[0], LABELS_3D, Objective(batch_dice=False, smoothing=SMOOTHING))
    coarse = dice_and_cross_entropy(
        logits[1], LABELS_3D[:, 1::2, 1::2, 1::2], Objective(batch_dice=False, smoothing=SMOOTHING)
    )
    loss = supervised_loss(
        logits, LABELS_3D, supervision_weights(3, 0.5), Objective(batch_dice=False, smoothing=SMOOTHING)
    )
    assert_close(loss, 2 / 3 * whole + 1 / 3 * coarse)


def test_the_coarsest_output_is_left_out() -> None:
    logits = [torch.zeros(1, 2, 4, 4), torch.full((1, 2, 2, 2), torch.nan)]
    loss = supervised_loss(
        logits,
        torch.zeros(1, 4, 4, dtype=torch.int16),
        supervision_weights(2, 0.5),
        Objective(batch_dice=True, smoothing=SMOOTHING),
    )
    assert bool(torch.isfinite(loss))


def test_three_hundred_classes() -> None:
    labels = torch.arange(300, dtype=torch.int16).view(1, 10, 30)
    loss = supervised_loss(
        [_certain(labels.long(), 300)], labels, (1.0,), Objective(batch_dice=True, smoothing=SMOOTHING)
    )
    assert_close(loss, torch.tensor(0.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("regions", [(), REGIONS], ids=["classes", "regions"])
def test_the_losses_of_single_samples_and_their_gradients_sum_to_those_of_the_batch(regions: Regions) -> None:
    objective = Objective(batch_dice=False, smoothing=SMOOTHING, regions=regions)
    whole, parts = _logits(), _logits()
    expected = _loss(whole, LABELS_3D, objective)
    torch.autograd.backward(expected)
    found = torch.zeros(())
    for sample in range(2):
        part = Part(1 / 2, lambda tensor: tensor)
        loss = _loss(parts[sample : sample + 1], LABELS_3D[sample : sample + 1], objective, part)
        torch.autograd.backward(loss)
        found += loss.detach()
    assert_close(found, expected.detach())
    assert_close(parts.grad, whole.grad)


@pytest.mark.parametrize("has_ignored", [True, False])
@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("regions", [(), REGIONS], ids=["classes", "regions"])
def test_the_losses_of_processes_and_their_gradients_sum_to_those_of_the_batch(
    regions: Regions, batch_dice: bool, has_ignored: bool
) -> None:
    """Two processes, of one sample and of two, in this one: what each adds up is known from a first pass."""
    objective = Objective(batch_dice, SMOOTHING, has_ignored, regions)
    labels = torch.cat([LABELS_3D, LABELS_3D[:1]])
    if has_ignored:
        labels[0, :3] = 3
    whole, parts = _logits(3), _logits(3)
    expected = _loss(whole, labels, objective)
    torch.autograd.backward(expected)
    sides = (slice(0, 1), slice(1, 3))
    first_pass = [_Exchange([]) for _ in sides]
    for side, exchange in zip(sides, first_pass, strict=True):
        _loss(parts[side].detach(), labels[side], objective, Part(1 / 3, exchange.total))
    found = torch.zeros(())
    for side, other in zip(sides, reversed(first_pass), strict=True):
        part = Part((side.stop - side.start) / 3, _Exchange(other.sent).total)
        loss = _loss(parts[side], labels[side], objective, part)
        torch.autograd.backward(loss)
        found += loss.detach()
    assert_close(found, expected.detach())
    assert_close(parts.grad, whole.grad)


def _logits(num_samples: int = 2) -> torch.Tensor:
    logits = torch.randn((num_samples, 3, 4, 4, 4), generator=torch.Generator().manual_seed(2))
    return logits.requires_grad_()


def _loss(logits: torch.Tensor, labels: torch.Tensor, objective: Objective, part: Part = WHOLE) -> torch.Tensor:
    outputs = logits[:, : len(objective.regions) or 3]
    return supervised_loss([outputs, outputs[..., ::2, ::2, ::2]], labels, (0.6, 0.4), objective, part)


class _Exchange:
    """Adds, in turn, what another process has sent, and keeps what this one sends."""

    def __init__(self, received: list[torch.Tensor]) -> None:
        self.received = list(received)
        self.sent: list[torch.Tensor] = []

    def total(self, own: torch.Tensor) -> torch.Tensor:
        self.sent.append(own.detach())
        return own + self.received.pop(0) if self.received else own
