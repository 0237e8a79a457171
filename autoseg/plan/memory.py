"""Peak memory of a training step and of a prediction, from the specification: a walk through the network and back.

Bytes are counted while a step passes: what the forward pass keeps, what each operation holds while it runs, gradients
that wait for the operation that takes them. The peak is the moment at which most is held.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from autoseg.core.artefact import Record
from autoseg.core.geometry import Shape
from autoseg.plan.accumulation import samples_at_once
from autoseg.plan.cost import Convolution, convolutions, num_parameters, stage_shapes
from autoseg.plan.rules import CostRules
from autoseg.plan.schema import AugmentationPlan, ConfigurationPlan, NetworkPlan, TrainingPlan

SINGLE = 4
"""Bytes of a float32 number."""

LABEL_BYTES = 2
"""Of a voxel's class index in a patch."""

ANGLES_TRIED = {1: 181, 3: 7}
"""By the number of axes to turn about: per axis, in the search for the angles at which most must be read."""

TARGET_BYTES = 8
"""Of a voxel's class index, as the cross-entropy wants it."""


@dataclass(frozen=True)
class Arithmetic:
    """How a device computes.

    Attributes:
        is_cpu: Whether it is a processor: few samples of a batch pass at once, and freed memory stays in pieces.
        number_bytes: Of an activation: 4, or 2 in half precision.
    """

    is_cpu: bool
    number_bytes: int


class MemoryEstimate(Record):
    """Bytes in use at the moment of most use, by what they are for.

    Attributes:
        program: The interpreter and the libraries, before anything is computed.
        weights: Networks and averages of weights, with their copies in half precision.
        optimizer: State of the optimiser.
        gradients: Of the weights.
        activations: Feature maps.
        loss: Outputs of the network, and what the loss keeps of them.
        workspace: What operations hold while they run, and gradients of feature maps.
        data: Patches or scan, and the buffer in which tiles are merged.
        fragments: Freed memory in pieces that could not be used again.
    """

    program: int
    weights: int
    optimizer: int
    gradients: int
    activations: int
    loss: int
    workspace: int
    data: int
    fragments: int = 0

    @property
    def total(self) -> int:
        """All together."""
        return sum(self.model_dump().values())

    def fragmented(self, largest_map: int, arithmetic: Arithmetic, rules: CostRules) -> "MemoryEstimate":
        """Return the estimate with what the allocator of a CPU leaves unused between what it gives.

        Args:
            largest_map: Bytes of the largest feature map; large ones go back to the system when they are freed.
            arithmetic: Of the device.
            rules: Constants.
        """
        in_pieces = self.weights + self.optimizer + self.gradients
        if largest_map < rules.returned_mb_cpu * 1e6:
            in_pieces = self.total - self.program
        share = rules.fragmented_share_cpu if arithmetic.is_cpu else 0.0
        return self.model_copy(update={"fragments": round(share * in_pieces)})


@dataclass(frozen=True)
class _Operation:
    """One operation of a training step, in bytes.

    Attributes:
        takes: Name of the gradient that its backward pass takes, if one waits.
        kept: Feature maps that its forward pass leaves for its backward pass.
        loss: The same, of the outputs and the loss.
        forward: Held only while its forward pass runs.
        backward: Held only while its backward pass runs.
        gradients: Of its weights.
        leaves: Gradients that its backward pass leaves for earlier operations, by name.
    """

    takes: str = ""
    kept: int = 0
    loss: int = 0
    forward: int = 0
    backward: int = 0
    gradients: int = 0
    leaves: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Moment:
    """What is held besides the weights, in bytes."""

    kept: int
    loss: int
    workspace: int
    gradients: int

    @property
    def total(self) -> int:
        return self.kept + self.loss + self.workspace + self.gradients


def training_memory(
    configuration: ConfigurationPlan, recipe: TrainingPlan, arithmetic: Arithmetic, rules: CostRules
) -> MemoryEstimate:
    """Return the peak of a training step.

    Args:
        configuration: Network, patch and batch.
        recipe: Optimiser, average of the weights, augmentation.
        arithmetic: Of the device.
        rules: Constants.

    Source:
        autoseg; docs/costs.md compares it with measurements.
    """
    parameters = SINGLE * num_parameters(configuration.network)
    parts = _num_parts(configuration, arithmetic)
    moments = list(_moments(_operations(configuration, arithmetic), parameters if parts > 1 else 0))
    if not arithmetic.is_cpu:
        # On a GPU the optimiser steps all weights at once, on a copy of their gradients.
        moments.append(_Moment(0, 0, parameters, parameters))
    peak = max(moments, key=lambda moment: moment.total)
    return MemoryEstimate(
        program=program_bytes(arithmetic, rules),
        weights=parameters * (1 + (recipe.weight_average_decay > 0)) + half_copies(parameters, arithmetic),
        optimizer=parameters * {"sgd": 1, "adamw": 2}[recipe.optimizer],
        gradients=peak.gradients,
        activations=peak.kept,
        loss=peak.loss,
        workspace=peak.workspace + library_bytes(arithmetic, rules),
        data=_batch_bytes(configuration, recipe.augmentation, arithmetic),
    ).fragmented(
        arithmetic.number_bytes * configuration.network.features[0] * _voxels(configuration, arithmetic)[0],
        arithmetic,
        rules,
    )


def saved_bytes(configuration: ConfigurationPlan, arithmetic: Arithmetic) -> int:
    """Return the bytes that a training step saves for a backward pass, those of the loss included.

    They are those of the samples that pass the network at once.
    """
    saved = [*_features(configuration, arithmetic), *_losses(configuration, arithmetic)]
    copies = half_copies(SINGLE * num_parameters(configuration.network), arithmetic)
    return copies + sum(operation.kept + operation.loss for operation in saved)


def _moments(operations: Sequence[_Operation], accumulated: int) -> Iterator[_Moment]:
    """Yield what is held during each operation, forward and then back.

    Args:
        operations: In the order of the forward pass.
        accumulated: Bytes of the gradients of samples that passed before, to which further ones are added.
    """
    kept = loss = 0
    gradients = accumulated
    for operation in operations:
        yield _Moment(kept, loss, operation.forward, gradients)
        kept, loss = kept + operation.kept, loss + operation.loss
    waiting: dict[str, int] = {}
    for operation in reversed(operations):
        waiting.pop(operation.takes, None)
        added = operation.gradients if accumulated else 0
        yield _Moment(kept, loss, sum(waiting.values()) + operation.backward + added, gradients)
        waiting |= operation.leaves
        kept, loss = kept - operation.kept, loss - operation.loss
        gradients += 0 if accumulated else operation.gradients


def _operations(configuration: ConfigurationPlan, arithmetic: Arithmetic) -> list[_Operation]:
    """Return the operations of a step in the order of the forward pass."""
    outputs = [
        _output(conv, voxels, arithmetic)
        for conv, voxels in zip(_in_order(configuration.network)[2], _voxels(configuration, arithmetic), strict=False)
    ]
    return [*_features(configuration, arithmetic), *outputs, *_losses(configuration, arithmetic)]


def _voxels(configuration: ConfigurationPlan, arithmetic: Arithmetic) -> list[int]:
    """Return the voxels at each stage of the samples that pass at once."""
    shapes = stage_shapes(configuration.network, configuration.patch_size)
    return [samples_at_once(configuration, is_cpu=arithmetic.is_cpu) * math.prod(shape) for shape in shapes]


def _num_parts(configuration: ConfigurationPlan, arithmetic: Arithmetic) -> int:
    """Return in how many parts a batch passes the network."""
    return math.ceil(configuration.batch_size / samples_at_once(configuration, is_cpu=arithmetic.is_cpu))


def _features(configuration: ConfigurationPlan, arithmetic: Arithmetic) -> Iterator[_Operation]:
    """Yield what makes feature maps: the input, the encoder, the decoder from its coarsest stage on."""
    network = configuration.network
    voxels = _voxels(configuration, arithmetic)
    encoder, decoder, _ = _in_order(network)
    yield _Operation(kept=arithmetic.number_bytes * network.num_input_channels * voxels[0])
    for conv in (*encoder, *decoder):
        put_out = voxels[conv.stage]
        match conv.kind:
            case "shortcut":
                yield _shortcut(conv, network, voxels, arithmetic)
            case "up":
                yield _convolution(conv, "", put_out, voxels[conv.stage + 1], arithmetic)
            case _:
                side = "encoder" if conv in encoder else "decoder"
                yield _convolution(conv, f"{side} {conv.stage}", put_out, put_out, arithmetic)


def _losses(configuration: ConfigurationPlan, arithmetic: Arithmetic) -> Iterator[_Operation]:
    """Yield the loss of every output but the coarsest, which has no weight unless it is the only one."""
    voxels = _voxels(configuration, arithmetic)
    for stage in range(max(len(voxels) - 2, 1)):
        yield _loss(configuration.network.num_outputs, stage, voxels[stage], arithmetic)


def _in_order(network: NetworkPlan) -> tuple[list[Convolution], list[Convolution], list[Convolution]]:
    """Return the convolutions of encoder, decoder (coarsest stage first) and outputs, each in order of computation."""
    found = list(convolutions(network))
    outputs = [conv for conv in found if conv.kind == "output"]
    first_up = next(place for place, conv in enumerate(found) if conv.kind == "up")
    rest = [conv for conv in found[first_up:] if conv.kind != "output"]
    return found[:first_up], sorted(rest, key=lambda conv: -conv.stage), outputs


def _convolution(conv: Convolution, takes: str, put_out: int, entering: int, arithmetic: Arithmetic) -> _Operation:
    """Return a convolution with the normalisation and activation, or the joining, behind it.

    Args:
        conv: Its channels.
        takes: See `_Operation`.
        put_out: Voxels of its output, of all samples that pass at once.
        entering: Voxels of its input.
        arithmetic: Of the device.
    """
    output = arithmetic.number_bytes * conv.num_outputs * put_out
    read = arithmetic.number_bytes * conv.num_inputs * entering
    # Going back, an activation that works in place holds four copies of its gradient; a convolution holds the gradients
    # of output and input.
    return _Operation(
        takes=takes,
        kept=2 * output,
        forward=output,
        backward=max(4 * output, output + read),
        gradients=SINGLE * conv.num_inputs * conv.num_outputs * conv.kernel_voxels,
        leaves={f"encoder {conv.stage}": 2 * output} if conv.kind == "up" else {},
    )


def _shortcut(conv: Convolution, network: NetworkPlan, voxels: Sequence[int], arithmetic: Arithmetic) -> _Operation:
    """Return a projecting shortcut, with the pooling before it; 3D pooling on a CPU works in float32."""
    stage = conv.stage
    number = arithmetic.number_bytes
    kept = number * conv.num_outputs * voxels[stage]
    if any(step > 1 for step in network.strides[stage]):
        kept += number * conv.num_inputs * voxels[stage]
        if arithmetic.is_cpu and network.num_axes == 3 and number < SINGLE:
            kept += SINGLE * conv.num_inputs * voxels[stage - 1]
    output = number * conv.num_outputs * voxels[stage]
    return _Operation(kept=kept, forward=2 * output, backward=2 * output)


def _output(conv: Convolution, voxels: int, arithmetic: Arithmetic) -> _Operation:
    """Return an output for deep supervision: its logits stay until the step is over."""
    logits, features = (arithmetic.number_bytes * channels * voxels for channels in (conv.num_outputs, conv.num_inputs))
    return _Operation(
        takes=f"logits {conv.stage}",
        loss=logits,
        backward=logits + features,
        gradients=SINGLE * conv.num_inputs * conv.num_outputs,
        leaves={f"decoder {conv.stage}": features},
    )


def _loss(num_classes: int, stage: int, voxels: int, arithmetic: Arithmetic) -> _Operation:
    """Return the loss of one output: log-probabilities, probabilities and, per class, where the truth is.

    Going back, the gradients of both terms with respect to probabilities and log-probabilities are held.
    """
    numbers = SINGLE * num_classes * voxels
    return _Operation(
        loss=2 * numbers + (num_classes - 1) * voxels + TARGET_BYTES * voxels,
        forward=numbers + TARGET_BYTES * voxels,
        backward=3 * numbers,
        leaves={f"logits {stage}": arithmetic.number_bytes * num_classes * voxels},
    )


def half_copies(parameters: int, arithmetic: Arithmetic) -> int:
    """Return the bytes of the weights' copies in half precision."""
    return 0 if arithmetic.number_bytes == SINGLE else parameters * arithmetic.number_bytes // SINGLE


def program_bytes(arithmetic: Arithmetic, rules: CostRules) -> int:
    """Return the bytes that are taken before anything is computed."""
    return round(1e9 * (rules.program_gb_cpu if arithmetic.is_cpu else rules.program_gb_cuda))


def library_bytes(arithmetic: Arithmetic, rules: CostRules) -> int:
    """Return the bytes that the library of convolutions takes for itself."""
    return round(1e9 * (0 if arithmetic.is_cpu else rules.workspace_gb_cuda))


def _batch_bytes(configuration: ConfigurationPlan, augmentation: AugmentationPlan, arithmetic: Arithmetic) -> int:
    """Return the bytes of the patches of a step: as read, with room to be turned, and as the network sees them."""
    channels = configuration.network.num_input_channels
    read = math.prod(largest_source(configuration.patch_size, augmentation))
    seen = math.prod(configuration.patch_size)
    # In single precision, those that pass at once are kept as feature maps.
    at_once = samples_at_once(configuration, is_cpu=arithmetic.is_cpu) if arithmetic.number_bytes == SINGLE else 0
    as_seen = 2 * LABEL_BYTES * configuration.batch_size + SINGLE * channels * (configuration.batch_size - at_once)
    return configuration.batch_size * read * (SINGLE * channels + LABEL_BYTES) + seen * as_seen


def largest_source(patch_size: Shape, augmentation: AugmentationPlan) -> Shape:
    """Return the largest shape that is read for a patch, turned and scaled as far as augmentation goes, in voxels."""
    num_axes = len(patch_size)
    slicewise = num_axes == 3 and max(patch_size) / patch_size[0] > augmentation.slicewise_ratio
    height, width = patch_size[-2:]
    if num_axes == 3 and not slicewise:
        planes, largest = [(1, 2), (0, 2), (0, 1)], augmentation.rotation_angle_3d
    else:
        is_elongated = num_axes == 2 and max(height, width) / min(height, width) > augmentation.elongation_ratio
        planes = [(num_axes - 2, num_axes - 1)]
        largest = augmentation.rotation_angle_2d_elongated if is_elongated else augmentation.rotation_angle_2d
    scale = np.full(num_axes, augmentation.scaling_range[1])
    if slicewise:
        scale[0] = 1.0
    extents = [np.asarray(patch_size, dtype=np.float64)]
    for angles in product(np.linspace(-largest, largest, ANGLES_TRIED[len(planes)]), repeat=len(planes)):
        matrix = np.eye(num_axes)
        for (first, second), angle in zip(planes, angles, strict=True):
            turn = np.eye(num_axes)
            turn[[first, second], [first, second]] = math.cos(angle)
            turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ turn
        extents.append(np.abs(matrix * scale[:, None]) @ (np.asarray(patch_size) - 1) + 2)
    return tuple(int(size) for size in np.max(extents, axis=0))
