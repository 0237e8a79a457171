"""How fast a device is: a few layers of the networks that it will train, timed for a moment."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from autoseg.core.errors import PlanError
from autoseg.network.device import Precision, best_precision, mixed_precision
from autoseg.plan.duration import PROBED_ELEMENTS, DeviceSpeed, Layer, LayerSpeed

REPETITIONS = 5
"""Each measurement is taken this often; the fastest counts, as anything else on the machine only slows it down."""

NORM_CHANNELS = 32
"""Of the map on which normalisation and activation are timed."""

_CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}


def probe_device(device: torch.device, layers: Iterable[Layer], num_elements: int) -> DeviceSpeed:
    """Return how fast a device is, in the precision that training uses there; takes about two seconds on a few cores.

    Args:
        device: To be probed.
        layers: Convolutions to time; equal ones are timed once.
        num_elements: Of the largest map of the networks, which says whether maps fit a cache.
    """
    precision = best_precision(device)
    norm_training_s, norm_prediction_s = _norm_s(min(num_elements, PROBED_ELEMENTS), device, precision)
    return DeviceSpeed(
        device=device_name(device),
        is_cpu=device.type == "cpu",
        precision=precision,
        number_bytes=4 if precision == "float32" else 2,
        layers=tuple(_layer_speed(layer, device, precision) for layer in dict.fromkeys(layers)),
        norm_training_s=norm_training_s,
        norm_prediction_s=norm_prediction_s,
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
    conv = _CONV[len(layer.kernel)](
        layer.channels, layer.channels, layer.kernel, padding=tuple(size // 2 for size in layer.kernel)
    ).to(device)
    batch, *sizes = layer.shape
    dtype = torch.float32 if precision == "float32" else getattr(torch, precision)
    x = torch.randn(batch, layer.channels, *sizes, device=device, dtype=dtype)
    training_s, prediction_s = _timed(conv, x, device, precision)
    return LayerSpeed(layer=layer, training_s=training_s, prediction_s=prediction_s)


def _norm_s(num_elements: int, device: torch.device, precision: Precision) -> tuple[float, float]:
    """Return the seconds of normalisation and activation per element: forward and back, forward alone."""
    edge = max(round((num_elements / NORM_CHANNELS) ** (1 / 2)), 1)
    layers = nn.Sequential(nn.InstanceNorm2d(NORM_CHANNELS, affine=True), nn.LeakyReLU(inplace=True)).to(device)
    dtype = torch.float32 if precision == "float32" else getattr(torch, precision)
    x = torch.randn(1, NORM_CHANNELS, edge, edge, device=device, dtype=dtype)
    training_s, prediction_s = _timed(layers, x, device, precision)
    return training_s / x.numel(), prediction_s / x.numel()


def _timed(module: nn.Module, x: Tensor, device: torch.device, precision: Precision) -> tuple[float, float]:
    """Return the seconds of a module forward and back, and forward alone."""
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
    found = []
    for _ in range(REPETITIONS + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return min(found[1:])
