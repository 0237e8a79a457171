"""How fast a device computes the configurations of plans."""

from collections.abc import Collection

import torch

from autoseg.network.probe import device_name, probe_device
from autoseg.plan.duration import DeviceSpeed, largest_map, layers_to_probe
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
    is_cpu = device.type == "cpu"
    layers = [
        layer for chosen in configurations for layer in layers_to_probe(chosen, is_cpu=is_cpu) if layer not in timed
    ]
    if known is not None and not layers:
        return known
    speed = probe_device(device, layers, largest_map(configurations, is_cpu=is_cpu))
    return speed if known is None else known.model_copy(update={"layers": (*known.layers, *speed.layers)})
