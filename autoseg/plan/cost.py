"""What a network costs, counted from its specification alone: elements, parameters, operations."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True)
class Convolution:
    """One convolution of a network.

    Attributes:
        stage: At whose resolution it puts out.
        num_inputs: Channels that it reads.
        num_outputs: Channels that it puts out.
        kernel_voxels: Voxels of its kernel; of a transposed one, each output voxel sees a single one of them.
        kind: `conv` and `shortcut` are followed by a normalisation, `shortcut` has no bias; `up` is transposed;
            `output` puts out classes.
    """

    stage: int
    num_inputs: int
    num_outputs: int
    kernel_voxels: int
    kind: Literal["conv", "shortcut", "up", "output"]


def convolutions(network: NetworkPlan) -> Iterator[Convolution]:
    """Yield every convolution of the network, the outputs for deep supervision included."""
    features = network.features
    volumes = [math.prod(kernel) for kernel in network.kernels]
    width = network.num_input_channels
    if network.kind == "residual":
        yield Convolution(0, width, features[0], volumes[0], "conv")
        width = features[0]
    for stage, blocks in enumerate(network.encoder_blocks):
        for _ in range(blocks):
            yield Convolution(stage, width, features[stage], volumes[stage], "conv")
            if network.kind == "residual":
                yield Convolution(stage, features[stage], features[stage], volumes[stage], "conv")
                if width != features[stage]:
                    yield Convolution(stage, width, features[stage], 1, "shortcut")
            width = features[stage]
    for stage, convs in enumerate(network.decoder_convs):
        step = math.prod(network.strides[stage + 1])
        yield Convolution(stage, features[stage + 1], features[stage], step, "up")
        for conv in range(convs):
            joined = 2 * features[stage] if conv == 0 else features[stage]
            yield Convolution(stage, joined, features[stage], volumes[stage], "conv")
        yield Convolution(stage, features[stage], network.num_outputs, 1, "output")


def num_parameters(network: NetworkPlan) -> int:
    """Return the number of weights and biases, the scales and shifts of the normalisations included."""
    total = 0
    for conv in convolutions(network):
        total += conv.num_inputs * conv.num_outputs * conv.kernel_voxels
        total += conv.num_outputs * {"conv": 3, "shortcut": 2, "up": 1, "output": 1}[conv.kind]
    return total


def multiply_adds(network: NetworkPlan, patch_size: Sequence[int]) -> int:
    """Return the multiplications, each with an addition, of one patch's forward pass in training.

    A backward pass takes twice as many: once for the gradient of the inputs, once for that of the weights.
    """
    voxels = [math.prod(shape) for shape in stage_shapes(network, patch_size)]
    return sum(
        voxels[conv.stage] * conv.num_inputs * conv.num_outputs * (1 if conv.kind == "up" else conv.kernel_voxels)
        for conv in convolutions(network)
    )
