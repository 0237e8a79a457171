"""Predicts with a model of nnU-Net as it does, and once more with tiles weighted and summed in float32, not in half.

Runs in nnU-Net's environment: what differs between the two is rounding, and no other reason.

    ENVIRONMENT/bin/python tools/nnunet_predict.py MODEL IMAGES OUTPUT [--previous FOLDER]

Label maps go to `half` and `float32` in OUTPUT; FOLDER is the OUTPUT of the first stage of a cascade.
"""

import argparse
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SUMS = ("half", "float32")


def main() -> None:
    """Predict twice; what the network says of a tile is computed once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "images", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--previous", type=Path)
    given = parser.parse_args()
    inference: Any = import_module("nnunetv2.inference.predict_from_raw_data")
    predictor = inference.nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    folds = [path.parent.name.removeprefix("fold_") for path in sorted(given.model.glob("fold_*/checkpoint_final.pth"))]
    numbers = [int(fold) if fold.isdecimal() else fold for fold in folds]
    predictor.initialize_from_trained_model_folder(str(given.model), numbers, "checkpoint_final.pth")
    _remember(predictor.network)
    weigh = inference.compute_gaussian
    for sums in SUMS:
        torch.half = getattr(torch, sums)
        inference.compute_gaussian = partial(weigh, dtype=torch.half)
        inference.compute_gaussian.cache_clear = weigh.cache_clear
        output = given.output / sums
        output.mkdir(parents=True)
        previous = None if given.previous is None else str(given.previous / sums)
        predictor.predict_from_files_sequential(str(given.images), str(output), False, True, previous)


def _remember(network: nn.Module) -> None:
    """Make a network compute the same tile by the same weights once."""
    compute: Callable[[Tensor], Tensor] = network.forward
    seen: dict[tuple[int, ...], Tensor] = {}

    def remembered(tile: Tensor) -> Tensor:
        weights = next(network.parameters())
        key = tuple(hash(tensor.detach().numpy().tobytes()) for tensor in (weights, tile))
        if key not in seen:
            seen[key] = compute(tile)
        return seen[key].clone()  # nnU-Net changes it

    network.forward = remembered


if __name__ == "__main__":
    main()
