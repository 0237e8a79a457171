"""What is to be shown on a GPU: each check comes to a finding."""

import copy
import gc
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.infer.case import Model, Onlooker, default_settings, segment
from autoseg.infer.export import Place
from autoseg.network.device import Precision, best_precision, mixed_precision
from autoseg.network.unet import place
from autoseg.pipeline.planning.prepare import Planning, plan_asked
from autoseg.pipeline.training.fitting import fitting_planning
from autoseg.plan.memory import MemoryEstimate, training_memory
from autoseg.plan.overrides import Overrides
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationPlan
from autoseg.plan.tiling import Scan, prediction_memory
from autoseg.train.augment import apply_augmentation
from autoseg.train.sampling import Batch
from autoseg.train.trainer import Trainer
from tools.gpu_bench import Bench, make_bench

MOST_WAITS = 3
"""Of the CPU for the GPU in a training step: for the classes that occur, and for whether gradients are finite."""

LEARNING_STEPS = 30

TINY_MEMORY_GB = 0.05
"""That a tiny plan is made for which does not fit."""


@dataclass(frozen=True)
class Finding:
    """What a check came to.

    Attributes:
        name: What was to be shown.
        passed: Whether it was.
        figures: What was measured.
    """

    name: str
    passed: bool
    figures: str


def run_checks(device: torch.device, *, is_tiny: bool) -> list[Finding]:
    """Return what every check came to; see `make_bench`."""
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench("hippocampus", device, Path(folder), is_tiny=is_tiny)
        checks: tuple[Callable[[Bench], list[Finding]], ...] = (
            training_learns,
            half_precision_agrees,
            augmentation_agrees,
            compilation_agrees,
            memory_is_predicted,
            prediction_agrees,
            plans_shrink,
            steps_seldom_wait,
        )
        return [finding for check in checks for finding in check(bench)]


def training_learns(bench: Bench) -> list[Finding]:
    """Show that the loss falls when one batch is seen again and again, in the device's precision and in float32."""
    findings = []
    for precision in dict.fromkeys((best_precision(bench.device), "float32")):
        trainer, batch = _in_precision(bench, precision), bench.source.batch(0)
        losses = [float(trainer.step(batch, 0.01, step)) for step in range(LEARNING_STEPS)]
        figures = f"loss {losses[0]:.3f}, after {LEARNING_STEPS} steps {losses[-1]:.3f}"
        findings.append(Finding(f"training in {precision} learns", losses[-1] < losses[0] - 0.1, figures))
    return findings


def half_precision_agrees(bench: Bench) -> list[Finding]:
    """Show that logits, and the loss of a step, are close to those in float32."""
    precision = best_precision(bench.device)
    network, images = bench.trainer().network.eval(), bench.patches()
    with torch.inference_mode():
        with mixed_precision(bench.device, "float32"):
            exact = network(images)
        with mixed_precision(bench.device, precision):
            mixed = network(images).float()
    batch = bench.source.batch(0)
    losses = [float(_in_precision(bench, chosen).step(batch, 0.0, 0)) for chosen in (precision, "float32")]
    error = float((mixed - exact).abs().mean() / exact.abs().mean())
    apart = abs(losses[0] - losses[1]) / losses[1]
    figures = f"logits {error:.2%} apart in the mean, the loss {apart:.3%}"
    return [Finding(f"{precision} agrees with float32", error < 0.05 and apart < 0.01, figures)]


def augmentation_agrees(bench: Bench) -> list[Finding]:
    """Show that a batch is augmented on the device as it is on a CPU; noise, which devices draw apart, left out."""
    worst, agreeing = 0.0, []
    for step in range(8):
        batch = bench.source.batch(step)
        draws = [replace(draw, noise_std=0.0) for draw in batch.draws]
        images, maps = torch.from_numpy(batch.images), torch.from_numpy(batch.labels).unsqueeze(1)
        patch_size = bench.configuration.patch_size
        expected, expected_maps = apply_augmentation(images, maps, draws, patch_size)
        found, found_maps = apply_augmentation(images.to(bench.device), maps.to(bench.device), draws, patch_size)
        worst = max(worst, float((found.cpu() - expected).abs().mean()))
        agreeing.append(float((found_maps.cpu() == expected_maps).float().mean()))
    passed = worst < 1e-3 and min(agreeing) > 0.999
    figures = f"8 batches: images {worst:.1e} apart in the mean, {min(agreeing):.3%} of the labels equal, at worst"
    return [Finding("augmentation agrees with that of a CPU", passed, figures)]


def compilation_agrees(bench: Bench) -> list[Finding]:
    """Show that the compiled network gives the same logits."""
    network, images = bench.trainer().network.eval(), bench.patches()
    compiled = torch.compile(network, backend="inductor" if bench.device.type == "cuda" else "eager")
    with torch.inference_mode(), mixed_precision(bench.device, "float32"):
        expected = network(images)
        began = time.perf_counter()
        found = compiled(images)
        error = float((found - expected).abs().max() / expected.abs().max())
    figures = f"{time.perf_counter() - began:.0f} s for the first pass, logits {error:.1e} apart at most"
    return [Finding("torch.compile agrees", error < 1e-3, figures)]


def memory_is_predicted(bench: Bench) -> list[Finding]:
    """Show that training steps and prediction take the memory that is predicted; a CPU has no allocator to ask."""
    rules = load_rulebook().inferred.cost
    training = training_memory(bench.configuration, bench.made.training, bench.arithmetic, rules)
    scan = Scan(
        shape=bench.scan().properties.stored_shape,
        num_networks=1,
        mirror=True,
        tiles_at_once=1 if bench.arithmetic.is_cpu else bench.configuration.batch_size,
        tile_step=bench.made.inference.tile_step,
    )
    prediction = prediction_memory(bench.configuration, scan, bench.arithmetic, rules)

    def train() -> None:
        trainer = bench.trainer()
        for step in range(3):
            trainer.step(bench.source.batch(step), 0.0, step)

    return [
        _memory_finding(bench, "a training step", training, train),
        _memory_finding(
            bench, "a prediction", prediction, lambda: _segmented(bench, bench.device, best_precision(bench.device))
        ),
    ]


def _memory_finding(bench: Bench, what: str, estimate: MemoryEstimate, work: Callable[[], object]) -> Finding:
    """Return how far the memory of some work is from what is predicted, and what the two constants ought to be."""
    predicted = estimate.total - estimate.program
    name = f"memory of {what} is predicted within 10 %"
    if bench.device.type != "cuda":
        work()
        return Finding(name, predicted > 0, f"predicted {predicted / 1e6:.0f} MB; measured on CUDA alone")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(bench.device)
    work()
    allocated = torch.cuda.max_memory_allocated(bench.device)
    reserved = torch.cuda.max_memory_reserved(bench.device)
    free, total = torch.cuda.mem_get_info(bench.device)
    beside = total - free - torch.cuda.memory_reserved(bench.device)
    workspace = allocated - predicted + 1e9 * load_rulebook().inferred.cost.workspace_gb_cuda
    figures = (
        f"predicted {predicted / 1e6:.0f} MB, allocated {allocated / 1e6:.0f} MB (ratio {predicted / allocated:.2f}),"
        f" reserved {reserved / 1e6:.0f} MB; `cost.workspace_gb_cuda` ought to be {workspace / 1e9:.2f},"
        f" `cost.program_gb_cuda` {beside / 1e9:.2f} if nothing else was on the GPU"
    )
    return Finding(name, abs(predicted / allocated - 1) <= 0.1, figures)


def prediction_agrees(bench: Bench) -> list[Finding]:
    """Show that a scan is segmented on the device, in float32, as on a CPU, but where two classes are as likely."""
    margins = np.zeros(bench.scan().properties.stored_shape, np.float32)

    def keep(place: Place, logits: Tensor) -> None:
        highest, second = logits.topk(2, dim=0).values
        margins[place] = (highest - second).cpu().numpy()

    expected = _segmented(bench, torch.device("cpu"), "float32", Onlooker(keep))
    differs = _segmented(bench, bench.device, "float32") != expected
    widest, usual = float(margins[differs].max(initial=0.0)), float(np.median(margins))
    passed = expected.max() > expected.min() and widest < 0.01 * usual
    figures = (
        f"{np.count_nonzero(differs)} of {differs.size} voxels differ; there, logits of the two likeliest classes are"
        f" {widest:.1e} apart at most, {usual:.1e} usually"
    )
    return [Finding("prediction agrees with that of a CPU but for ties", passed, figures)]


def _segmented(
    bench: Bench, device: torch.device, precision: Precision, onlooker: Onlooker | None = None
) -> NDArray[np.integer]:
    """Return the label map of a made-up scan by a network of random weights."""
    network = place(copy.deepcopy(bench.trainer(torch.device("cpu")).network), device).eval()
    settings = replace(default_settings(device, bench.configuration), precision=precision)
    return segment(bench.scan(), Model(bench.made, bench.configuration, (network,)), settings, onlooker=onlooker).array


def plans_shrink(bench: Bench) -> list[Finding]:
    """Show that a plan for more memory than there is shrinks until it fits: the device is made to seem smaller."""
    memory_gb = TINY_MEMORY_GB if bench.is_tiny else 8.0
    overrides = Overrides(gpu_memory_gb=memory_gb)
    asked = Planning(preset=bench.preset, rules=bench.rules, overrides=overrides)
    planned = plan_asked(bench.fingerprint, bench.dataset, asked)
    wanted = _training_bytes(bench, planned.configurations["3d_fullres"])
    with _memory_limited(bench, 0.6 * wanted):
        data = (bench.fingerprint, bench.dataset)
        proved = fitting_planning(asked, planned, data, "3d_fullres", str(bench.device)).proved
    figures = f"a step wants {wanted / 1e9:.2f} GB, there seem to be {0.6 * wanted / 1e9:.2f} GB"
    if proved is not None:
        tried = ", ".join(str(refused.value) for refused in proved.alternatives)
        figures += f"; planned for {tried} GB in vain, then for {proved.value:.2f} GB"
    return [Finding("a plan that does not fit shrinks until it does", proved is not None, figures)]


def _training_bytes(bench: Bench, configuration: ConfigurationPlan) -> int:
    """Return the memory of the tensors of a training step, as predicted."""
    rules = load_rulebook().inferred.cost
    estimate = training_memory(configuration, bench.made.training, bench.arithmetic, rules)
    return estimate.total - estimate.program


@contextmanager
def _memory_limited(bench: Bench, num_bytes: float) -> Iterator[None]:
    """Within the block, give a GPU no more memory; on a CPU, whose memory has no end, refuse steps that want more."""
    if bench.device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(num_bytes / torch.cuda.mem_get_info(bench.device)[1], bench.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
        return
    take = Trainer.step

    def step(trainer: Trainer, batch: Batch, rate: float, step: int) -> Tensor:
        if _training_bytes(bench, trainer.configuration) > num_bytes:
            raise torch.OutOfMemoryError("the device seems full")
        return take(trainer, batch, rate, step)

    with patch.object(Trainer, "step", step):
        yield


def steps_seldom_wait(bench: Bench) -> list[Finding]:
    """Show that the CPU hardly ever waits for the GPU within a step; a CPU waits for nobody."""
    name = f"the CPU waits for the GPU at most {MOST_WAITS} times in a step"
    trainer = bench.trainer()
    for step in range(2):
        trainer.step(bench.source.batch(step), 0.0, step)
    if bench.device.type != "cuda":
        return [Finding(name, True, "counted on CUDA alone")]
    batch = bench.source.batch(2)
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.step(batch, 0.0, 2)
    torch.cuda.set_sync_debug_mode("default")
    num_waits = sum("synchronizing" in str(found.message) for found in caught)
    return [Finding(name, num_waits <= MOST_WAITS, f"{num_waits} times")]


def _in_precision(bench: Bench, precision: Precision) -> Trainer:
    """Return a new trainer that computes in a precision."""
    trainer = bench.trainer()
    trainer.precision = precision
    trainer.scaler = torch.amp.GradScaler(bench.device.type, enabled=precision == "float16")
    return trainer
