import torch
from torch import Tensor, nn

from autoseg.network.cascade import ReadsEarlierStage, foreground_channels


def test_each_foreground_class_has_a_channel() -> None:
    indices = torch.tensor([[[0, 1], [2, -1]], [[2, 2], [3, 0]]], dtype=torch.int16)
    channels = foreground_channels(indices, 3)
    assert channels.shape == (2, 3, 2, 2)
    assert channels[0].int().tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 0]]]
    assert channels[1].int().tolist() == [[[0, 0], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [1, 0]]]


class Seen(nn.Module):
    """Returns its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_the_last_channel_becomes_one_channel_per_class() -> None:
    image = torch.randn(2, 2, 3, 4, 5)
    earlier = torch.randint(0, 4, (2, 1, 3, 4, 5)).float()
    seen = ReadsEarlierStage(Seen(), 3)(torch.cat((image, earlier), dim=1))
    assert torch.equal(seen[:, :2], image)
    assert torch.equal(seen[:, 2:], torch.cat([(earlier == index).float() for index in (1, 2, 3)], dim=1))
