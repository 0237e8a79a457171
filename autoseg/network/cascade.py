"""What the later stage of a cascade sees of the earlier one: its foreground classes, one channel each.

Letters: B patches of a batch, C channels of the image, K foreground classes, ... the spatial axes.
"""

import torch
from torch import Tensor, nn


def foreground_channels(indices: Tensor, num_foreground: int) -> Tensor:
    """Return one channel per foreground class, 1 where a label map has that class, else 0.

    Args:
        indices: (B, ...), class indices; 0 and below belong to no channel. Where a network's outputs are regions, these
            are the classes that the regions were painted with.
        num_foreground: Classes but for the background.

    Returns:
        (B, K, ...) bool.

    Source:
        Isensee et al. 2021, Methods, U-Net cascade.
    """
    classes = torch.arange(1, num_foreground + 1, device=indices.device, dtype=indices.dtype)
    return indices.unsqueeze(1) == classes.view(-1, *(1,) * (indices.ndim - 1))


class ReadsEarlierStage(nn.Module):
    """A network of a later stage, whose last input channel is the earlier stage's prediction, as class indices.

    Tiles of a scan thus hold one channel of the earlier stage, however many classes there are.
    """

    def __init__(self, network: nn.Module, num_foreground: int) -> None:
        super().__init__()
        self.network = network
        self.num_foreground = num_foreground

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits for (B, C + 1, ...)."""
        earlier = foreground_channels(x[:, -1], self.num_foreground)
        logits: Tensor = self.network(torch.cat((x[:, :-1], earlier.to(x.dtype)), dim=1))
        return logits
