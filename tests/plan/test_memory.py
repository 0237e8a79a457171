"""Memory: predicted from the specification, held against what a real step saves and, on a GPU, allocates."""

from pathlib import Path
from typing import Literal
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from autoseg.network.device import best_precision
from autoseg.plan import accumulation
from autoseg.plan.memory import Arithmetic, largest_source, saved_bytes, training_memory
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationPlan, NetworkPlan
from autoseg.train.augment import draw_augmentation, source_shape
from autoseg.train.sampling import Batch
from autoseg.train.trainer import Trainer
from tests.train.plans import augmentation, cube_configuration, training
from tools.measure_costs import SHAPES as SHAPES_MEASURED
from tools.measure_costs import measured_apart, planned

RULES = load_rulebook().inferred.cost


def _configuration(
    kind: Literal["plain", "residual"], strides: tuple[tuple[int, ...], ...], patch: tuple[int, ...], classes: int = 3
) -> ConfigurationPlan:
    stages = len(strides)
    network = NetworkPlan(
        kind=kind,
        num_input_channels=1,
        num_outputs=classes,
        features=(16, 32, 64)[:stages],
        strides=strides,
        kernels=tuple(tuple(1 if 1 in stride and max(stride) > 1 else 3 for _ in stride) for stride in strides),
        encoder_blocks=(1, 3, 4)[:stages] if kind == "residual" else (2,) * stages,
        decoder_convs=(1,) * (stages - 1) if kind == "residual" else (2,) * (stages - 1),
        norm_epsilon=1e-5,
        negative_slope=0.01,
    )
    return cube_configuration(patch).model_copy(update={"network": network, "batch_size": 2})


SHAPES = [
    pytest.param(((1, 1), (2, 2), (2, 2)), (64, 48), id="2D"),
    pytest.param(((1, 1, 1), (2, 2, 2), (2, 2, 2)), (16, 24, 16), id="3D"),
    pytest.param(((1, 1, 1), (1, 2, 2), (2, 2, 2)), (6, 32, 40), id="anisotropic"),
]


def _batch(configuration: ConfigurationPlan) -> Batch:
    """Return a batch that is turned as far as it goes."""
    rng = np.random.default_rng(0)
    patch = configuration.patch_size
    draws = [draw_augmentation(rng, augmentation(1.0), patch, 1) for _ in range(configuration.batch_size)]
    shape = (configuration.batch_size, *source_shape(draws, patch))
    images = rng.normal(size=(shape[0], 1, *shape[1:])).astype(np.float32)
    labels = rng.integers(0, configuration.network.num_outputs, size=shape).astype(np.int16)
    return Batch(images, labels, draws, ["case"] * shape[0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize(("strides", "patch"), SHAPES)
@pytest.mark.parametrize("classes", [2, 40])
def test_a_step_saves_what_is_predicted(
    precision: Literal["float32", "bfloat16"],
    kind: Literal["plain", "residual"],
    strides: tuple[tuple[int, ...], ...],
    patch: tuple[int, ...],
    classes: int,
) -> None:
    configuration = _configuration(kind, strides, patch, classes)
    expected = saved_bytes(configuration, Arithmetic(is_cpu=True, number_bytes=4 if precision == "float32" else 2))
    assert _saved_by_a_step(configuration, precision) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_samples_that_pass_one_by_one_save_what_is_predicted(
    precision: Literal["float32", "bfloat16"], kind: Literal["plain", "residual"], monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = _configuration(kind, ((1, 1, 1), (2, 2, 2), (2, 2, 2)), (16, 24, 16))
    arithmetic = Arithmetic(is_cpu=True, number_bytes=4 if precision == "float32" else 2)
    together = saved_bytes(configuration, arithmetic)
    monkeypatch.setattr(accumulation, "CACHED_ELEMENTS", 1)
    expected = saved_bytes(configuration, arithmetic)
    assert expected < 0.7 * together
    assert _saved_by_a_step(configuration, precision) == pytest.approx(expected, rel=0.05)


def _saved_by_a_step(configuration: ConfigurationPlan, precision: Literal["float32", "bfloat16"]) -> int:
    """Return the bytes that a step saves for a backward pass; with several, for the last."""
    trainer = Trainer(training(), configuration, "cpu", seed=0)
    trainer.precision = precision
    weights = {parameter.untyped_storage().data_ptr() for parameter in trainer.network.parameters()}
    saved: dict[int, tuple[int, Tensor]] = {}
    forward_all = trainer.network.forward_all

    def forward_anew(images: Tensor) -> list[Tensor]:
        saved.clear()
        return forward_all(images)

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    anew = patch.object(trainer.network, "forward_all", forward_anew)
    with anew, saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.step(_batch(configuration), 1e-3, 0)
    return sum(size for size, _ in saved.values())


@pytest.mark.parametrize("patch", [(40, 56, 40), (10, 160, 128), (80, 192, 160), (320, 256), (64, 128)])
def test_no_patch_needs_more_of_a_scan_than_foreseen(patch: tuple[int, ...]) -> None:
    plan = augmentation(1.0)
    foreseen = largest_source(patch, plan)
    rng = np.random.default_rng(0)
    drawn = source_shape([draw_augmentation(rng, plan, patch, 1) for _ in range(3000)], patch)
    assert all(most >= size for most, size in zip(foreseen, drawn, strict=True))
    assert np.prod(foreseen) < 1.25 * np.prod(drawn)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the resident set is read as Linux has it")
def test_the_peak_on_a_cpu_is_what_is_predicted() -> None:
    shape = next(found for found in SHAPES_MEASURED if found.name == "slices")
    made, _ = planned(shape)
    configuration = made.configurations[shape.configuration]
    number_bytes = 4 if best_precision(torch.device("cpu")) == "float32" else 2
    predicted = training_memory(configuration, made.training, Arithmetic(is_cpu=True, number_bytes=number_bytes), RULES)
    measured = measured_apart(shape, "training step")
    assert predicted.total == pytest.approx(measured["bytes"], rel=0.1)
    assert measured["bytes"] - measured["program"] > 500e6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_the_peak_on_a_gpu_is_what_is_predicted(kind: Literal["plain", "residual"]) -> None:
    strides = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    configuration = _configuration(kind, strides, (128, 128, 128))
    trainer = Trainer(training(), configuration, "cuda", seed=0)
    for step in range(2):
        torch.cuda.reset_peak_memory_stats()
        trainer.step(_batch(configuration), 1e-3, step)
    predicted = training_memory(configuration, training(), Arithmetic(is_cpu=False, number_bytes=2), RULES)
    tensors = predicted.total - predicted.program
    assert torch.cuda.max_memory_allocated() == pytest.approx(tensors, rel=0.1)
