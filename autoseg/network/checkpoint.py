"""Weights on disk: safetensors for models, which hold no code and can be shared."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoseg.core.artefact import replacing
from autoseg.core.errors import ArtefactError
from autoseg.network.unet import UNet
from autoseg.plan.schema import NetworkPlan


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write a state dict, whole or not at all."""
    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, temporary)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file, on the CPU.

    Raises:
        ArtefactError: If the file is missing or damaged.
    """
    try:
        weights: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise ArtefactError(f"{path}: weights must be there, found no file. Train this fold first.") from None
    except (SafetensorError, OSError) as error:
        raise ArtefactError(
            f"{path}: must be a safetensors file, got: {error}. Restore it, or train this fold again."
        ) from None
    return weights


def load_network(path: Path, plan: NetworkPlan) -> UNet:
    """Return the network of a plan with the weights of a file, on the CPU, ready for prediction.

    Raises:
        ArtefactError: If the file is missing, damaged, or holds the weights of another network.
    """
    weights = load_weights(path)
    with torch.device("meta"):
        network = UNet(plan)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != found:
        first = min(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ArtefactError(
            f"{path}: {first} must have shape {expected.get(first)} by the plan, got {found.get(first)}."
            " Use the plan that these weights were trained with."
        )
    network.load_state_dict(weights, assign=True)
    return network.eval()
