"""Which device computes, and in which precision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from autoseg.core.errors import AutosegError

Precision = Literal["float32", "bfloat16", "float16"]


KINDS = ("cpu", "cuda", "mps")
"""Of devices that networks compute on."""


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Within the block, compute with so many threads of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_device(name: str) -> torch.device:
    """Return the device of a name: `auto` for a CUDA device if there is one, else `cpu`, `cuda`, `cuda:1`, `mps`.

    The device is tried. It has its number, but for the CPU: `cuda` is that of this moment, `cuda:0` unless set.

    Raises:
        AutosegError: If the name is no device or this machine lacks it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    reason, cause = _missing(name), None
    if reason is None:
        try:
            tried = torch.zeros(1, device=name)
            tried.item()
        except RuntimeError as error:
            reason, cause = str(error).partition("\n")[0].rstrip("."), error
        else:
            return tried.device
    raise AutosegError(
        f"--device {name}: must be a device of this machine, got: {reason}. Use --device auto, or cpu."
    ) from cause


def _missing(name: str) -> str | None:
    """Return why a name is no device of this machine, as far as can be told without trying it; else None."""
    kind, _, number = name.partition(":")
    if kind not in KINDS or (name != kind and not number.isdecimal()):
        return f"a name unlike {', '.join(KINDS)} or cuda:1"
    if kind == "cuda":
        num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= num_devices:
            return f"{num_devices} CUDA devices, counted from 0" if num_devices else "no CUDA device"
    if kind == "mps" and not torch.backends.mps.is_available():
        return "no MPS device"
    return None


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device; on CUDA, without waiting for what is computed there.

    CUDA has read ordinary memory when the call returns, so that it may change at once; other devices may not have.

    Source:
        docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def best_precision(device: torch.device) -> Precision:
    """Return the fastest precision of a device: half on CUDA, bfloat16 on a CPU that has instructions for it."""
    if device.type == "cuda":
        return "float16"
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):  # noqa: SLF001 - torch has no public test
        return "bfloat16"
    return "float32"


def mixed_precision(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which networks compute in `precision` where that is safe, and in float32 elsewhere."""
    if precision == "float32":
        return _exactly()  # Not every device, nor every torch, knows an autocast that does nothing.
    return torch.autocast(device.type, torch.bfloat16 if precision == "bfloat16" else torch.float16)


def gradients_in(precision: Precision) -> AbstractContextManager[object]:
    """Return the context for a backward pass: what the forward pass has computed exactly, it does as well."""
    return _exactly() if precision == "float32" else nullcontext()


@contextmanager
def _exactly() -> Iterator[None]:
    """Within the block, convolutions keep all digits of float32: CUDA would leave out those beyond ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
