from pathlib import Path

import pytest
import torch

from autoseg.plan.schema import ConfigurationPlan
from autoseg.train import trainer as module
from autoseg.train.sampling import Batch, PatchSource, SamplingPlan
from autoseg.train.trainer import Trainer
from tests.train.plans import cube_configuration, store_cube, training


def test_both_moments_of_adamw_are_those_of_the_recipe() -> None:
    trainer = Trainer(training(momentum=0.8, second_momentum=0.95), cube_configuration(), "cpu", seed=0)
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert trainer.optimizer.param_groups[0]["betas"] == (0.8, 0.95)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_batch_taken_in_parts_teaches_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, precision: str
) -> None:
    """Five samples at once, or one or two at a time: the same loss and gradients, but for rounding."""
    monkeypatch.setattr(module, "best_precision", lambda device: precision)
    configuration = cube_configuration().model_copy(update={"batch_size": 5})
    whole, parts = (Trainer(training(), configuration, "cpu", seed=0) for _ in range(2))
    assert whole.samples_at_once == 5
    parts.samples_at_once = at_once
    batch = _batch(tmp_path, configuration)
    losses = [float(trainer.step(batch, rate=0.0, step=0)) for trainer in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    gradients = [_first_moments(trainer) for trainer in (whole, parts)]
    tolerance = 1e-5 if precision == "float32" else 2e-2
    largest = max(float(gradient.abs().max()) for gradient in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize(("precision", "allows"), [("float32", False), ("bfloat16", True)])
def test_what_is_computed_exactly_is_learnt_from_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, allows: bool
) -> None:
    """Convolutions look at the switch when they run, forwards and backwards."""
    monkeypatch.setattr(module, "best_precision", lambda device: precision)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    trainer = Trainer(training(), cube_configuration(), "cpu", seed=0)
    seen = []
    for parameter in trainer.network.parameters():
        parameter.register_hook(lambda gradient: seen.append(torch.backends.cudnn.allow_tf32))  # type: ignore[no-untyped-call]
    trainer.step(_batch(tmp_path, trainer.configuration), rate=0.0, step=0)
    assert seen
    assert set(seen) == {allows}
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("change", "expected"), [({}, 1), ({"batch_dice": True}, 2), ({"has_ignored": True}, 2)])
def test_large_patches_pass_one_by_one_where_the_loss_is_a_mean(change: dict[str, bool], expected: int) -> None:
    configuration = cube_configuration((128, 128, 128)).model_copy(update=change)
    assert Trainer(training(), configuration, "cpu", seed=0).samples_at_once == expected


def _batch(folder: Path, configuration: ConfigurationPlan) -> Batch:
    store_cube(folder, "a", 0)
    plan = SamplingPlan(configuration.patch_size, configuration.batch_size, 0.33, training().augmentation, 0, ("x",))
    return PatchSource(folder, ("a",), plan).batch(0)


def _first_moments(trainer: Trainer) -> list[torch.Tensor]:
    """Return AdamW's average of the gradients, after one step proportional to them."""
    return [state["exp_avg"] for state in trainer.optimizer.state.values()]
