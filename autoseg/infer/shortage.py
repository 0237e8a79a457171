"""Networks that leave a device whose memory does not suffice."""

import copy
from collections.abc import Sequence

import torch
from torch import nn


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
