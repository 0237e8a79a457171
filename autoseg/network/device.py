"""Which device computes, and in which precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from autoseg.core.errors import AutosegError

Precision = Literal["float32", "bfloat16", "float16"]


def choose_device(name: str) -> torch.device:
    """Return the device of a name: `auto` for a GPU if there is one, else `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        AutosegError: If the name is no device or this machine lacks it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise AutosegError(
            f"--device {name}: must be a device of this machine, got: {reason}. Use --device auto, or cpu."
        ) from None
    return device


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
        return nullcontext()  # Not every device, nor every torch, knows a context that does nothing.
    return torch.autocast(device.type, torch.bfloat16 if precision == "bfloat16" else torch.float16)
