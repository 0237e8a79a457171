"""Training where the network lies elsewhere than the batches: on torch's device without content, in place of a GPU.

Operations refuse tensors of which some are there and others on the CPU; and whatever would read a number from there.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from autoseg.core.seeding import generator
from autoseg.plan.schema import ConfigurationPlan
from autoseg.train import trainer as module
from autoseg.train.augment import draw_augmentation, source_shape
from autoseg.train.cascade import EarlierDraw, Reshaping
from autoseg.train.sampling import Batch
from autoseg.train.trainer import Trainer
from tests.train.plans import augmentation, cube_configuration, training

ELSEWHERE = torch.device("meta")

REGIONS: dict[str, object] = {"regions": ((1, 2), (2,))}
CHANGES: dict[str, dict[str, object]] = {
    "classes": {},
    "batch Dice": {"batch_dice": True},
    "ignored": {"has_ignored": True},
    "regions": REGIONS,
    "regions, ignored": {**REGIONS, "has_ignored": True},
    "cascade": {"previous_stage": "3d_lowres"},
}


class _Scaler:
    """A gradient scaler that asks the device for nothing."""

    def is_enabled(self) -> bool:
        return True

    def scale(self, loss: Tensor) -> Tensor:
        return loss

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        pass

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()

    def update(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "choose_device", lambda name: ELSEWHERE)
    monkeypatch.setattr(module, "best_precision", lambda device: "float32")
    # Which classes occur is the one thing that is asked of a GPU.
    monkeypatch.setattr(torch, "unique", lambda maps: torch.arange(-1, 2, dtype=maps.dtype, device=maps.device))


def _batch(configuration: ConfigurationPlan) -> Batch:
    """Return a batch whose samples are changed in every way, but for noise, which is drawn where it is needed."""
    rng, patch = generator(0, "elsewhere"), configuration.patch_size
    plan = augmentation(1.0, noise_probability=0.0)
    earlier = EarlierDraw(reshaped=(Reshaping(1, "open", 2.0),)) if configuration.previous_stage else EarlierDraw()
    draws = [replace(draw_augmentation(rng, plan, patch, 1), earlier=earlier) for _ in range(configuration.batch_size)]
    shape = (configuration.batch_size, *source_shape(draws, patch))
    labels = rng.integers(-1, 2, shape).astype(np.int16)
    images = rng.standard_normal((shape[0], 1, *shape[1:]), dtype=np.float32)
    return Batch(images, labels, draws, ["a"] * len(draws), labels if configuration.previous_stage else None)


def test_the_stand_in_is_as_strict_as_a_gpu() -> None:
    there, here = torch.ones(2, device=ELSEWHERE), torch.ones(2)
    for mixed in (
        lambda: there * here,
        lambda: torch.where(here > 0, there, there),
        lambda: torch.cat((there, here)),
        lambda: there @ here,
        lambda: bool(there.any()),
        there.numpy,
    ):
        with pytest.raises((RuntimeError, TypeError)):
            mixed()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("within_mask", [True, False])
def test_nothing_of_a_step_is_left_on_the_processor(change: dict[str, object], within_mask: bool) -> None:
    configuration = cube_configuration(within_mask=within_mask).model_copy(update=change)
    if configuration.previous_stage is not None:
        network = configuration.network.model_copy(update={"num_input_channels": 2})
        configuration = configuration.model_copy(update={"network": network})
    recipe = training(weight_average_decay=0.9, augmentation=augmentation(1.0))
    trainer = Trainer(recipe, configuration, "elsewhere", seed=0)
    trainer.scaler = _Scaler()  # type: ignore[assignment]
    batch = _batch(configuration)
    for step in range(2):
        assert trainer.step(batch, 0.01, step).device == ELSEWHERE
    assert {tensor.device for state in trainer.optimizer.state.values() for tensor in state.values()} <= {
        ELSEWHERE,
        torch.device("cpu"),  # how many steps were taken
    }
