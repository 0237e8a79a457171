"""How fast a device computes the configurations of plans."""

import math
from collections.abc import Collection

import torch

from autoseg.network.probe import device_name, probe_device
from autoseg.plan.duration import DeviceSpeed, layers_to_probe
from autoseg.plan.schema import ConfigurationPlan


def speed_of(
    device: torch.device, configurations: Collection[ConfigurationPlan], known: DeviceSpeed | None = None
) -> DeviceSpeed:
    """Return how fast a device computes the layers of configurations; it is timed for a moment.

    Args:
        device: To be timed.
        configurations: One or more.
        known: What was timed before; if it is of the same device, its layers are not timed again.
    """
    if known is not None and known.device != device_name(device):
        known = None
    timed = {found.layer for found in known.layers} if known is not None else set()
    layers = [layer for chosen in configurations for layer in layers_to_probe(chosen) if layer not in timed]
    if known is not None and not layers:
        return known
    largest = max(
        chosen.batch_size * chosen.network.features[0] * math.prod(chosen.patch_size) for chosen in configurations
    )
    speed = probe_device(device, layers, largest)
    return speed if known is None else known.model_copy(update={"layers": (*known.layers, *speed.layers)})
