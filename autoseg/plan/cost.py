"""What a network costs, counted from its specification alone."""

import math
from collections.abc import Sequence

from autoseg.plan.schema import NetworkPlan


def stage_shapes(network: NetworkPlan, patch_size: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the spatial shape of the feature maps of each stage, full resolution first, in voxels."""
    shapes, current = [], tuple(patch_size)
    for stride in network.strides:
        current = tuple(math.ceil(size / step) for size, step in zip(current, stride, strict=True))
        shapes.append(current)
    return shapes


def convolution_elements(network: NetworkPlan, patch_size: Sequence[int]) -> int:
    """Return the number of elements that all convolutions put out for one patch, the measure of memory of nnU-Net.

    Counted are the convolutions of encoder and decoder, projections of shortcuts, transposed convolutions and the
    output at full resolution; not counted are normalisations, activations and the outputs for deep supervision.

    Source:
        Isensee et al. 2021, Supplementary Note 2; nnU-Net 2.8.1, feature map size of its networks.
    """
    voxels = [math.prod(shape) for shape in stage_shapes(network, patch_size)]
    encoder = sum(
        _encoder_stage_convolutions(network, stage) * features * voxels[stage]
        for stage, features in enumerate(network.features)
    )
    decoder = sum((convs + 1) * network.features[s] * voxels[s] for s, convs in enumerate(network.decoder_convs))
    return encoder + decoder + network.num_outputs * voxels[0]


def _encoder_stage_convolutions(network: NetworkPlan, stage: int) -> int:
    """Return the number of convolutions of an encoder stage; a shortcut that pools or projects counts as one."""
    blocks = network.encoder_blocks[stage]
    if network.kind == "plain":
        return blocks
    if stage == 0:
        return 1 + 2 * blocks
    strided = any(step > 1 for step in network.strides[stage])
    widened = network.features[stage] != network.features[stage - 1]
    return 2 * blocks + (strided or widened)
