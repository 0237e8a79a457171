"""Memory that does not suffice: how it shows, and what is left to try."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
"""Of errors that torch raises without a type of their own."""


def is_shortage(error: BaseException) -> bool:
    """Return whether an error says that memory, of the device or of the machine, was not enough."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in str(error).lower() for text in _MESSAGES)


def is_shortage_of_device(error: BaseException) -> bool:
    """Return whether it is the memory of a GPU that was not enough."""
    return isinstance(error, torch.OutOfMemoryError)


def copies_on_cpu(networks: Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    """Return copies of networks on the CPU, made without more memory of the device where they are."""
    return tuple(_copy_on_cpu(network) for network in networks)


def _copy_on_cpu(network: nn.Module) -> nn.Module:
    # A deep copy takes what its memo holds for a tensor, so that none is copied on the device.
    memo: dict[int, torch.Tensor] = {
        id(weight): nn.Parameter(weight.detach().cpu().clone(), weight.requires_grad) for weight in network.parameters()
    }
    memo |= {id(buffer): buffer.detach().cpu().clone() for buffer in network.buffers()}
    return copy.deepcopy(network, memo)
