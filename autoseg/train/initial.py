"""Weights to begin with, taken over from another model as far as they fit."""

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from autoseg.core.errors import TrainingError
from autoseg.core.workspace import FoldFolder

log = logging.getLogger(__name__)


def initial_weights_file(source: Path) -> Path:
    """Return the weights that `--init-from` names, a file or the folder of a finished training.

    Raises:
        TrainingError: If there are none.
    """
    path = FoldFolder(source).weights if source.is_dir() else source
    if not path.is_file():
        raise TrainingError(
            f"--init-from {source}: must be weights (.safetensors), or the folder of a finished training, found none"
            " there. Correct the path."
        )
    return path


def require_staying(initial: Path, leaving: Path) -> None:
    """Refuse weights to begin with that would be deleted, or set aside, for the training that begins with them.

    Args:
        initial: Weights to begin with.
        leaving: Weights that make room for the training, where there are any.

    Raises:
        TrainingError: If they are the same file.
    """
    if leaving.exists() and leaving.samefile(initial):
        raise TrainingError(
            f"--init-from {initial}: must be weights that stay, got those of the very training that would make room."
            " Copy the file to another place, and name that."
        )


def take_over(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy the weights that agree in name and shape into a network; log what was taken and what was not.

    Raises:
        TrainingError: If nothing agrees.
    """
    own = network.state_dict()
    taken = {name: weight for name, weight in weights.items() if name in own and own[name].shape == weight.shape}
    left = [f"{name} {_shapes(own.get(name), weights.get(name))}" for name in {**own, **weights} if name not in taken]
    if not taken:
        raise TrainingError(
            f"--init-from {path}: at least one weight must agree with the network of the plan in name and shape, found"
            " none. Use a model that was planned with the same preset and configuration."
        )
    network.load_state_dict(taken, strict=False)
    log.info("Took %d of %d weights from %s: %s.", len(taken), len(own), path, ", ".join(taken))
    if left:
        log.info("Did not take: %s.", ", ".join(left))


def _shapes(own: Tensor | None, other: Tensor | None) -> str:
    here, there = ("absent" if weight is None else str(tuple(weight.shape)) for weight in (own, other))
    return f"(here {here}, there {there})"
