"""How much of a batch a device computes at once; the gradients of the parts add up."""

import math

from autoseg.plan.schema import ConfigurationPlan

CACHED_ELEMENTS = 6_000_000
"""Elements of the largest map that a CPU computes at once: maps of more leave its caches between two layers.

Source: docs/speed.md, training step.
"""


def samples_at_once(configuration: ConfigurationPlan, *, is_cpu: bool) -> int:
    """Return how many samples of a batch pass the network together in training.

    A CPU takes few, as many as its caches serve, where the loss of the batch is the mean of its samples' losses: the
    gradients are the same, and the peak of memory is lower. A GPU takes all.

    Args:
        configuration: Patch, batch, network and kind of loss.
        is_cpu: What computes.
    """
    if not is_cpu or configuration.batch_dice or configuration.has_ignored:
        return configuration.batch_size
    elements = configuration.network.features[0] * math.prod(configuration.patch_size)
    return min(max(CACHED_ELEMENTS // elements, 1), configuration.batch_size)
