"""A device that is never the same twice."""

from collections.abc import Iterable

import torch

from autoseg.network.probe import device_name
from autoseg.plan.duration import DeviceSpeed, Layer, LayerSpeed


class FakeDevice:
    """A device that takes ever longer, and counts how often it was timed."""

    def __init__(self) -> None:
        self.rate = 1e-9
        self.num_layers = 0

    def probe(self, device: torch.device, layers: Iterable[Layer], num_elements: int) -> DeviceSpeed:
        self.rate *= 1.5
        timed = tuple(dict.fromkeys(layers))
        self.num_layers += len(timed)
        return DeviceSpeed(
            device=device_name(device),
            is_cpu=True,
            precision="float32",
            number_bytes=4,
            layers=tuple(
                LayerSpeed(
                    layer=layer,
                    training_s=3 * self.rate * layer.multiply_adds,
                    prediction_s=self.rate * layer.multiply_adds,
                )
                for layer in timed
            ),
            norm_training_s=0.0,
            norm_prediction_s=0.0,
        )
