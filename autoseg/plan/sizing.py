"""Rules for patch and batch size under a memory budget."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.core.errors import PlanError
from autoseg.core.geometry import Spacing
from autoseg.plan.cost import convolution_elements
from autoseg.plan.rules import BatchSizeRules, NetworkRules, Rules, SizingRules
from autoseg.plan.schema import NetworkPlan
from autoseg.plan.topology import Topology, axis_to_shrink, initial_patch, poolable_patch, shrink, topology


@dataclass(frozen=True)
class Budget:
    """What a batch may cost, for networks of two or of three axes.

    Attributes:
        elements: Convolution outputs of one sample at the reference batch size.
        reference_batch: Batch size that belongs to `elements`.
        guarded_batch: The patch shrinks only while a batch of this size does not fit.
        max_batch: Largest batch size.
    """

    elements: float
    reference_batch: int
    guarded_batch: int
    max_batch: int


@dataclass(frozen=True)
class ShrinkStep:
    """One patch that was tried.

    Attributes:
        patch_size: In voxels.
        elements: Convolution outputs of one patch.
        axis: Along which it was shrunk next; None for the patch that fits.
    """

    patch_size: tuple[int, ...]
    elements: int
    axis: int | None


@dataclass(frozen=True)
class FittedNetwork:
    """A network and patch that fit the budget, with every patch that was tried on the way."""

    network: NetworkPlan
    patch_size: tuple[int, ...]
    elements: int
    steps: tuple[ShrinkStep, ...]


def budget(num_axes: int, sizing: SizingRules, batch: BatchSizeRules) -> Budget:
    """Return the budget for 2D or 3D; the reference number of elements grows in proportion to the memory.

    Source:
        rules/inferred.toml [sizing], [batch_size].
    """
    scale = sizing.gpu_memory_gb / sizing.reference_memory_gb
    if num_axes == 2:
        return Budget(
            sizing.reference_elements_2d * scale, sizing.reference_batch_2d, sizing.guarded_batch_2d, batch.max_2d
        )
    return Budget(
        sizing.reference_elements_3d * scale, sizing.reference_batch_3d, sizing.guarded_batch_3d, batch.max_3d
    )


def network_for(stages: Topology, num_inputs: int, num_outputs: int, rules: NetworkRules) -> NetworkPlan:
    """Return the network of a topology: features double per stage up to a limit, blocks as the template says.

    Source:
        rules/blueprint.toml [network]; Isensee et al. 2021, Methods, network architecture.
    """
    num_stages = len(stages.strides)
    limit = rules.max_features_2d if len(stages.patch_size) == 2 else rules.max_features_3d
    last = len(rules.encoder_blocks) - 1
    return NetworkPlan(
        kind=rules.kind,
        num_input_channels=num_inputs,
        num_outputs=num_outputs,
        features=tuple(min(limit, rules.base_features * 2**stage) for stage in range(num_stages)),
        strides=stages.strides,
        kernels=stages.kernels,
        encoder_blocks=tuple(rules.encoder_blocks[min(stage, last)] for stage in range(num_stages)),
        decoder_convs=(rules.decoder_convs,) * (num_stages - 1),
        norm_epsilon=rules.norm_epsilon,
        negative_slope=rules.negative_slope,
    )


def fit_network(
    spacing: Spacing, shape: Sequence[float], num_inputs: int, num_outputs: int, rules: Rules
) -> FittedNetwork:
    """Return the network with the largest patch whose guarded batch fits the budget.

    The patch starts as large as the data allow, and shrinks step by step along the axis that covers most of the median
    case; the topology follows each step.

    Args:
        spacing: In mm, two or three axes.
        shape: Median shape at that spacing, in voxels.
        num_inputs: Input channels.
        num_outputs: Classes, background included, or regions.
        rules: Constants.

    Raises:
        PlanError: If not even the smallest patch fits.

    Source:
        rules/inferred.toml [patch], [topology], [sizing]; Isensee et al. 2021, Supplementary Note 2.
    """
    inferred = rules.inferred
    allowed = budget(len(spacing), inferred.sizing, inferred.batch_size)
    edge = inferred.patch.initial_edge_2d if len(spacing) == 2 else inferred.patch.initial_edge_3d
    start = poolable_patch(spacing, initial_patch(spacing, shape, edge=edge), inferred.topology)
    current = topology(spacing, start, inferred.topology)
    steps: list[ShrinkStep] = []
    while True:
        network = network_for(current, num_inputs, num_outputs, rules.blueprint.network)
        elements = convolution_elements(network, current.patch_size)
        if elements * allowed.guarded_batch <= allowed.elements * allowed.reference_batch:
            steps.append(ShrinkStep(current.patch_size, elements, None))
            return FittedNetwork(network, current.patch_size, elements, tuple(steps))
        axis = axis_to_shrink(current.patch_size, shape)
        steps.append(ShrinkStep(current.patch_size, elements, axis))
        smaller = shrink(spacing, current, axis, inferred.topology)
        if smaller is None or len(smaller.strides) == 1:
            raise PlanError(
                f"memory of {inferred.sizing.gpu_memory_gb:g} GB: must hold {allowed.guarded_batch} patches of "
                f"{'x'.join(map(str, current.patch_size))} voxels, the smallest that can be pooled, got room for "
                f"{math.floor(allowed.elements * allowed.reference_batch / elements)}. Give more memory, or take a "
                "smaller preset."
            )
        current = smaller


def fixed_network(
    spacing: Spacing, patch: Sequence[int], num_inputs: int, num_outputs: int, rules: Rules
) -> FittedNetwork:
    """Return the network for a patch that the user sets, whatever it costs.

    Raises:
        PlanError: If the patch is no multiple of the strides that the rules give it; the message names one that is.
    """
    stages = topology(spacing, patch, rules.inferred.topology)
    wanted = "x".join(map(str, patch))
    if len(stages.strides) == 1:
        least = "x".join(f"{size:g}" for size in poolable_patch(spacing, patch, rules.inferred.topology))
        raise PlanError(f"--patch-size: must be long enough to be pooled, got {wanted}. Use {least} or more.")
    if stages.patch_size != tuple(patch):
        divisors, fitting = ("x".join(map(str, sizes)) for sizes in (stages.divisors, stages.patch_size))
        raise PlanError(f"--patch-size: must be a multiple of {divisors}, got {wanted}. Use {fitting}.")
    network = network_for(stages, num_inputs, num_outputs, rules.blueprint.network)
    elements = convolution_elements(network, stages.patch_size)
    return FittedNetwork(network, stages.patch_size, elements, (ShrinkStep(stages.patch_size, elements, None),))


def batch_limits(
    elements: int, patch_size: Sequence[int], dataset_voxels: float, allowed: Budget, rules: BatchSizeRules
) -> dict[str, int]:
    """Return the largest batch by what limits it: memory, the share of the dataset, the preset.

    Args:
        elements: Convolution outputs of one patch.
        patch_size: In voxels.
        dataset_voxels: Voxels of the median case times the number of cases.
        allowed: Budget.
        rules: Constants.

    Source:
        rules/inferred.toml [batch_size]; Isensee et al. 2021, Methods, batch size. Halves round to the even number.
    """
    return {
        "memory": round(allowed.elements / elements * allowed.reference_batch),
        "dataset": round(dataset_voxels * rules.max_dataset_share / math.prod(patch_size)),
        "preset": allowed.max_batch,
    }


def batch_size(
    elements: int, patch_size: Sequence[int], dataset_voxels: float, allowed: Budget, rules: BatchSizeRules
) -> int:
    """Return the number of patches in a batch: the least of `batch_limits`, but no fewer than the minimum.

    Source:
        rules/inferred.toml [batch_size]; Isensee et al. 2021, Methods, batch size.
    """
    limits = batch_limits(elements, patch_size, dataset_voxels, allowed, rules)
    return max(min(limits.values()), rules.min)
