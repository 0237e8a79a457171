"""The logits of a whole scan, which prediction never holds at once."""

from collections.abc import Sequence

from torch import Tensor, nn

from autoseg.infer.tiles import Computing, Tiling, predict_parts


def predict_logits(networks: Sequence[nn.Module], image: Tensor, tiling: Tiling, computing: Computing) -> Tensor:
    """Return float32 (classes, Z, Y, X); for arguments see `predict_parts`."""
    parts = list(predict_parts(networks, image, tiling, computing))
    whole = parts[0].logits.new_empty((len(parts[0].logits), *image.shape[1:]))
    for part in parts:
        whole[:, part.rows, part.columns] = part.logits
    return whole
