"""How fast a device is: a few layers of the networks that it will train, timed for a moment."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from autoseg.core.errors import PlanError
from autoseg.network.device import Precision, best_precision, mixed_precision
from autoseg.network.unet import CHANNELS_LAST, InstanceNorm, lay_channels_last
from autoseg.plan.duration import PROBED_ELEMENTS, DeviceSpeed, Layer, LayerSpeed

REPETITIONS, MOST_REPETITIONS = 5, 25
"""The fastest of the repetitions counts, as anything else on the machine only slows it down; a measurement is taken
again until so many have not been faster, or all have been taken."""

IS_FASTER = 0.98
"""A repetition is faster if it takes at most this share of the fastest before it."""

LEAST_SHARE = 0.6
"""Of its threads' time that this program must get while it times a processor; threads that wait for others count."""

NORM_CHANNELS = 32
"""Of the map on which normalisation and activation are timed."""

NORM_SAMPLES = 2
"""Of that map: a CPU normalises them one by one and joins them."""

NORM_EPSILON = 1e-5
"""Of that normalisation; its time does not depend on it."""

log = logging.getLogger(__name__)

_CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}


def probe_device(device: torch.device, layers: Iterable[Layer], num_elements: int) -> DeviceSpeed:
    """Return how fast a device is, in the precision that training uses there; takes about two seconds on a few cores.

    Args:
        device: To be probed.
        layers: Convolutions to time; equal ones are timed once.
        num_elements: Of the largest map of the networks, which says whether maps fit a cache.
    """
    precision = best_precision(device)
    began, worked = time.perf_counter(), time.process_time()
    norm_training_s, norm_prediction_s = _norm_s(min(num_elements, PROBED_ELEMENTS), device, precision)
    speeds = tuple(_layer_speed(layer, device, precision) for layer in dict.fromkeys(layers))
    if device.type == "cpu":
        _warn_of_others(time.perf_counter() - began, time.process_time() - worked)
    return DeviceSpeed(
        device=device_name(device),
        is_cpu=device.type == "cpu",
        precision=precision,
        number_bytes=4 if precision == "float32" else 2,
        layers=speeds,
        norm_training_s=norm_training_s,
        norm_prediction_s=norm_prediction_s,
    )


def _warn_of_others(passed_s: float, worked_s: float) -> None:
    """Say so where other programs took much of the processor.

    Args:
        passed_s: Seconds of the clock.
        worked_s: Seconds that the threads of this program worked, together.
    """
    share = worked_s / (passed_s * torch.get_num_threads())
    if share < LEAST_SHARE:
        log.warning(
            "The processor was timed while other programs used it: only %.0f %% of it was left. Predicted times may be"
            " much too long, and a budget buys less. Let it do nothing else, and plan again.",
            100 * share,
        )


def device_name(device: torch.device) -> str:
    """Return what people call a device: the name of a GPU, or a CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def free_gpu_memory_gb() -> float:
    """Return the memory of the GPU that is free, in GB of 2**30 bytes.

    Raises:
        PlanError: If there is no GPU.
    """
    if not torch.cuda.is_available():
        raise PlanError("--gpu-memory auto: a GPU must be there to be read, found none. Give a size such as 11GB.")
    free, _ = torch.cuda.mem_get_info()
    return free / 2**30


def _layer_speed(layer: Layer, device: torch.device, precision: Precision) -> LayerSpeed:
    conv: nn.Module = _CONV[len(layer.kernel)](
        layer.channels, layer.channels, layer.kernel, padding=tuple(size // 2 for size in layer.kernel)
    )
    batch, *sizes = layer.shape
    training_s, prediction_s = _timed(conv, (batch, layer.channels, *sizes), device, precision)
    return LayerSpeed(layer=layer, training_s=training_s, prediction_s=prediction_s)


def _norm_s(num_elements: int, device: torch.device, precision: Precision) -> tuple[float, float]:
    """Return the seconds of normalisation and activation per element: forward and back, forward alone."""
    edge = max(round((num_elements / NORM_CHANNELS / NORM_SAMPLES) ** (1 / 2)), 2)
    layers = nn.Sequential(InstanceNorm(NORM_CHANNELS, NORM_EPSILON), nn.LeakyReLU(inplace=True))
    shape = (NORM_SAMPLES, NORM_CHANNELS, edge, edge)
    training_s, prediction_s = _timed(layers, shape, device, precision)
    return training_s / math.prod(shape), prediction_s / math.prod(shape)


def _timed(module: nn.Module, shape: Sequence[int], device: torch.device, precision: Precision) -> tuple[float, float]:
    """Return the seconds of a module forward and back, and forward alone, laid out as networks are.

    Args:
        module: To be timed.
        shape: Of the map that it reads, (B, C, ...).
        device: To be timed.
        precision: Of the computation.
    """
    x = torch.randn(*shape, device=device, dtype=getattr(torch, precision))
    module.to(device)
    if device.type == "cpu":
        lay_channels_last(module)
        x = x.contiguous(memory_format=CHANNELS_LAST[x.ndim - 2])
    x.requires_grad_()

    def learn() -> None:
        with mixed_precision(device, precision):
            out = module(x)
        torch.autograd.backward(out, out.detach())
        x.grad = None

    def see() -> None:
        with torch.inference_mode(), mixed_precision(device, precision):
            module(x)

    return _fastest_s(learn, device), _fastest_s(see, device)


def _fastest_s(work: Callable[[], None], device: torch.device) -> float:
    """Return the seconds of the fastest of several repetitions, the first of all left out."""
    fastest, num_since = math.inf, 0
    for repetition in range(MOST_REPETITIONS + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        passed = time.perf_counter() - began
        if repetition > 0:
            num_since = 0 if passed < IS_FASTER * fastest else num_since + 1
            fastest = min(fastest, passed)
        if num_since == REPETITIONS:
            break
    return fastest
