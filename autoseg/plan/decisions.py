"""Decisions in words: for each rule, what it looked at, what it tried, and why it came to its value."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from autoseg.core.geometry import Shape, Spacing
from autoseg.fingerprint.schema import Fingerprint
from autoseg.plan.cost import multiply_adds, num_parameters
from autoseg.plan.memory import Arithmetic, saved_bytes
from autoseg.plan.mirroring import Sides
from autoseg.plan.overrides import OPTIONS, Overrides
from autoseg.plan.rulebook import Rulebook
from autoseg.plan.rules import Rules
from autoseg.plan.schema import Alternative, ChannelNormalization, ConfigurationName, ConfigurationPlan, Decision
from autoseg.plan.sizing import Budget, FittedNetwork, batch_limits

AXES = ("z", "y", "x")


@dataclass(frozen=True)
class Reasons:
    """What every decision refers to: the rules in force, their entries, and what the user set.

    Attributes:
        rulebook: With the source of each constant.
        rules: In force for the preset, overrides applied.
        overrides: What the user set.
    """

    rulebook: Rulebook
    rules: Rules
    overrides: Overrides

    def decision(
        self, name: str, value: object, reason: str, inputs: Mapping[str, object], sections: Sequence[str]
    ) -> Decision:
        """Return a decision for all configurations.

        Args:
            name: Of the value.
            value: Anything that JSON can hold.
            reason: One sentence.
            inputs: What the rule looked at.
            sections: Of the rule files, whose constants it used; or single constants by their key.
        """
        used = [key for key in self.rulebook.entries if key in sections or key.partition(".")[0] in sections]
        entries = [self.rulebook.entry(key, self.rules.preset) for key in used]
        return Decision(
            configuration=None,
            name=name,
            value=_plain(value),
            reason=reason,
            inputs={key: _plain(content) for key, content in inputs.items()},
            rules={key: _in_force(self.rules, key) for key in used},
            source="; ".join(dict.fromkeys(entry.source for entry in entries)),
        )

    def override(self, name: str, value: object, rule: str) -> Decision:
        """Return the decision for a value that the user set."""
        return self.decision(name, value, f"Set by the user with {OPTIONS[rule]}.", {}, ())


def for_configuration(decision: Decision, name: ConfigurationName) -> Decision:
    """Return a decision as that of a configuration, without the constants for networks of other axes."""
    foreign = "_3d" if name == "2d" else "_2d"
    rules = {key: value for key, value in decision.rules.items() if not key.endswith(foreign)}
    return decision.model_copy(update={"configuration": name, "rules": rules})


def _in_force(rules: Rules, key: str) -> JsonValue:
    """Return the value of a constant, preset and overrides applied."""
    section, _, name = key.partition(".")
    part = rules.blueprint if section in type(rules.blueprint).model_fields else rules.inferred
    return _plain(getattr(getattr(part, section), name))


def _plain(value: object) -> JsonValue:
    plain: JsonValue = json.loads(json.dumps(value))
    return plain


def size_text(sizes: Sequence[float]) -> str:
    """Return sizes as 40x56x40."""
    return "x".join(f"{size:g}" for size in sizes)


def spacing_decision(reasons: Reasons, fingerprint: Fingerprint, target: Spacing, median: Spacing) -> Decision:
    """Return why the full-resolution spacing is what it is.

    Args:
        reasons: Context.
        fingerprint: Of the dataset.
        target: What was decided, (z, y, x), in mm.
        median: Median spacing per axis, in mm.
    """
    if reasons.overrides.spacing is not None:
        return reasons.override("spacing", target, "target_spacing")
    rules = reasons.rules.inferred.target_spacing
    changed = [axis for axis in range(3) if target[axis] != median[axis]]
    reason = f"The median spacing of {len(fingerprint.cases)} cases, axis by axis."
    if changed:
        axis = AXES[changed[0]]
        reason = (
            f"The median spacing per axis, but {axis} is more than {rules.anisotropy_ratio:g} times coarser and "
            f"shorter than the others: it takes the {rules.coarse_axis_percentile:g}th percentile, to keep the detail "
            "of the thinner slices."
        )
    shapes = [case.cropped_shape for case in fingerprint.cases]
    middle = [sorted(shape[axis] for shape in shapes)[len(shapes) // 2] for axis in range(3)]
    inputs = {"cases": len(shapes), "median spacing, mm": median, "median shape as stored, voxels": middle}
    found = reasons.decision("spacing", target, reason, inputs, ["target_spacing"])
    if not changed:
        return found
    return found.model_copy(
        update={"alternatives": (Alternative(value=_plain(median), outcome="the median: would blur thin slices"),)}
    )


def transpose_decision(
    reasons: Reasons, transpose: tuple[int, int, int], target: Spacing, shape: Sequence[float]
) -> Decision:
    """Return why the axes come in their order.

    Args:
        reasons: Context.
        transpose: What was decided.
        target: Spacing, (z, y, x), in mm.
        shape: Median shape at that spacing, (z, y, x), in voxels.
    """
    across = transpose[0]
    if shape[across] == 1:
        reason = (
            f"The median case has one voxel along axis {AXES[across]}: it comes first, so that slices are whole "
            "images, and there is no 3D configuration."
        )
    elif len(set(target)) == 1:
        reason = "All spacings are equal, so the axes stay in their order."
    else:
        reason = (
            f"Axis {AXES[across]} is the coarsest, {target[across]:g} mm, and comes first: slices are cut across it."
        )
    inputs = {"spacing, mm": target, "median shape, voxels": shape}
    return reasons.decision("transpose", transpose, reason, inputs, ["target_spacing"])


def shape_decision(reasons: Reasons, fingerprint: Fingerprint, shape: Sequence[float], target: Spacing) -> Decision:
    """Return why the median shape is what it is."""
    reason = "The median over cases of the shape after cropping and resampling to the spacing" + (
        "; an axis of one voxel keeps it." if 1 in shape else "."
    )
    inputs = {"cases": len(fingerprint.cases), "spacing, mm": target}
    return reasons.decision("median_shape", shape, reason, inputs, ["target_spacing"])


def normalization_decision(reasons: Reasons, entries: Sequence[ChannelNormalization], relative_size: float) -> Decision:
    """Return why each channel is normalised as it is."""
    rules = reasons.rules.inferred.normalization
    known = {name.casefold() for name in rules.schemes}
    parts = []
    for entry in entries:
        why = "by its name" if entry.channel.casefold() in known else "as its name has no scheme of its own"
        parts.append(f"{entry.channel}: {entry.scheme}, {why}" + (", inside the non-zero mask" * entry.within_mask))
    kept = f"Cropping to non-zero voxels keeps {relative_size:.1%} of the median case; below "
    reason = f"{'; '.join(parts)}. {kept}{rules.mask_below_relative_size:.0%} zscore is taken inside the mask."
    value = {entry.channel: entry.scheme for entry in entries}
    inputs = {"channels": list(value), "median relative size after cropping": relative_size}
    return reasons.decision("normalization", value, reason, inputs, ["normalization"])


def patch_decision(reasons: Reasons, fitted: FittedNetwork, shape: Sequence[float], allowed: Budget) -> Decision:
    """Return why the patch is what it is: each patch that was tried, with its cost."""
    limit = _millions(allowed.elements * allowed.reference_batch)
    cost = (
        f"{_millions(fitted.elements * allowed.guarded_batch)} of {limit} numbers that convolutions put out for a batch"
        f" of {allowed.guarded_batch}"
    )
    if reasons.overrides.patch_for(len(shape)) is not None:
        chosen = reasons.override("patch_size", fitted.patch_size, "patch")
        return chosen.model_copy(update={"reason": f"{chosen.reason} It takes {cost}."})
    tried = [
        Alternative(
            value=list(step.patch_size),
            outcome=f"{_millions(step.elements * allowed.guarded_batch)} exceed {limit}; axis {step.axis} covers "
            f"most of the median shape ({step.patch_size[step.axis] / shape[step.axis]:.0%}) and is shortened",
        )
        for step in fitted.steps
        if step.axis is not None
    ]
    how = (
        f"The largest patch that fits, after {len(tried)} steps from {size_text(fitted.steps[0].patch_size)}"
        if tried
        else "As large as the data allow, as it fits at once"
    )
    inputs = {"median shape, voxels": list(shape), "memory, GB": reasons.rules.inferred.sizing.gpu_memory_gb}
    sections = ["patch", "topology", "sizing"]
    found = reasons.decision("patch_size", fitted.patch_size, f"{how}: {cost}.", inputs, sections)
    return found.model_copy(update={"alternatives": tuple(tried)})


def _millions(count: float) -> str:
    return f"{round(count / 1e5) / 10:,g} million"


def topology_decision(reasons: Reasons, configuration: ConfigurationPlan) -> Decision:
    """Return why the network has its stages, strides and kernels."""
    network = configuration.network
    poolings = [sum(stride[axis] > 1 for stride in network.strides) for axis in range(network.num_axes)]
    rules = reasons.rules.inferred.topology
    thin = sum(min(kernel) == 1 for kernel in network.kernels)
    reason = (
        f"An axis is halved while {rules.min_edge} voxels remain and it is not {rules.similar_spacing_ratio:g} times "
        f"coarser than the finest: {size_text(poolings)} times"
        + (f"; the first {thin} stages do not convolve across coarse slices." if thin else ".")
    )
    value = {"strides": network.strides, "kernels": network.kernels, "features": network.features}
    inputs = {"patch size, voxels": configuration.patch_size, "spacing, mm": configuration.spacing}
    return reasons.decision("topology", value, reason, inputs, ["topology", "network"])


def batch_decision(reasons: Reasons, fitted: FittedNetwork, dataset_voxels: float, allowed: Budget) -> Decision:
    """Return why the batch has its size: what memory holds, what the dataset allows, which of them decided."""
    rules = reasons.rules.inferred.batch_size
    limits = batch_limits(fitted.elements, fitted.patch_size, dataset_voxels, allowed, rules)
    decisive = min(limits, key=lambda name: limits[name])
    size = max(limits[decisive], rules.min)
    if reasons.overrides.batch_size is not None:
        return reasons.override("batch_size", size, "batch_size")
    alternatives = [
        Alternative(value=count, outcome=f"what the {name} would allow")
        for name, count in limits.items()
        if count != size and not (name == "preset" and count > max(limits["memory"], limits["dataset"]))
    ]
    reason = (
        f"The {decisive} allows {limits[decisive]}, but a batch has at least {rules.min}."
        if limits[decisive] < rules.min
        else f"The {decisive} allows no more: memory holds {limits['memory']} patches, and "
        f"{rules.max_dataset_share:.0%} of the dataset's voxels are {limits['dataset']}."
    )
    inputs = {
        "elements per patch": fitted.elements,
        "elements allowed": allowed.elements * allowed.reference_batch,
        "patch, voxels": math.prod(fitted.patch_size),
        "dataset, voxels": dataset_voxels,
    }
    found = reasons.decision("batch_size", size, reason, inputs, ["sizing", "batch_size"])
    return found.model_copy(update={"alternatives": tuple(alternatives)})


def batch_dice_decision(reasons: Reasons, name: ConfigurationName, *, batch_dice: bool) -> Decision:
    """Return why the Dice loss does, or does not, pool the batch before it divides."""
    match name:
        case "2d":
            reason = "A slice often lacks a class, which would make its own Dice meaningless: the batch is pooled."
        case "3d_lowres":
            reason = "A coarse patch covers much of a case and holds most classes: each patch has its own Dice."
        case _ if batch_dice:
            reason = "A patch covers little of a case, as there is a coarse configuration: the batch is pooled."
        case _:
            reason = "A patch covers much of a case, as no coarse configuration is needed: each has its own Dice."
    decided = reasons.decision("batch_dice", batch_dice, reason, {}, ())
    return decided.model_copy(update={"source": "nnU-Net 2.8.1, experiment planner"})


def told_apart(sides: Sides) -> str:
    """Return in words which classes mirroring would confuse, and what follows."""
    left, right = sides.pairs[0]
    more = f" (and {len(sides.pairs) - 1} more pairs)" if len(sides.pairs) > 1 else ""
    what = (
        "the scans do not agree, or do not say, which axis is left-right: no axis is mirrored"
        if sides.axis is None
        else "the left-right axis is not mirrored"
    )
    return f"classes {left} and {right}{more} are told apart by side alone; {what}."


def mirror_decision(reasons: Reasons, configuration: ConfigurationPlan, sides: Sides) -> Decision:
    """Return why patches are mirrored along their axes, or not."""
    if reasons.overrides.mirror_axes is not None:
        chosen = reasons.override("mirror_axes", configuration.mirror_axes, "mirror_axes")
        if not sides.pairs:
            return chosen
        known = f"The rule knows that classes {' and '.join(sides.pairs[0])} are told apart by side alone."
        return chosen.model_copy(update={"reason": f"{chosen.reason} {known}"})
    text = told_apart(sides) if sides.pairs else "no two classes are told apart by side alone; all axes are mirrored."
    inputs = {"pairs of classes": sides.pairs, "left-right axis, transposed": sides.axis}
    decided = reasons.decision("mirror_axes", configuration.mirror_axes, text[0].upper() + text[1:], inputs, ())
    return decided.model_copy(update={"source": "autoseg: a mirrored left kidney looks like a right one"})


def cost_decision(reasons: Reasons, configuration: ConfigurationPlan) -> Decision:
    """Return what a training step costs: weights, operations, and memory saved for the backward pass."""
    network, patch, batch = configuration.network, configuration.patch_size, configuration.batch_size
    operations = 3 * batch * multiply_adds(network, patch)
    saved = saved_bytes(configuration, Arithmetic(is_cpu=False, number_bytes=4))
    value = {
        "parameters": num_parameters(network),
        "multiply-adds per step": operations,
        "saved activations, bytes": saved,
    }
    reason = (
        f"{value['parameters'] / 1e6:.1f} million weights; forward and backward, a step of {batch} patches takes "
        f"{operations / 1e9:.0f} billion multiply-adds and saves {saved / 2**30:.2f} GiB of float32 activations."
    )
    inputs = {"patch size, voxels": patch, "batch size": batch}
    return reasons.decision("cost", value, reason, inputs, ["network"])


@dataclass(frozen=True)
class LowresStep:
    """One spacing of the search for a coarse configuration.

    Attributes:
        spacing: In mm.
        voxels: Of the median case at that spacing.
        patch_size: That fits, in voxels.
    """

    spacing: Spacing
    voxels: float
    patch_size: Shape

    @property
    def share(self) -> float:
        """Share of the median case that the patch covers."""
        return math.prod(self.patch_size) / self.voxels


def lowres_decision(reasons: Reasons, steps: Sequence[LowresStep], *, is_kept: bool) -> Decision:
    """Return why there is, or is not, a coarse configuration and a cascade.

    Args:
        reasons: Context.
        steps: The full resolution, then every coarser spacing that was tried.
        is_kept: Whether the last one became a configuration.
    """
    rules = reasons.rules.inferred.lowres
    first, last = steps[0], steps[-1]
    covers = f"A full-resolution patch covers {first.share:.1%} of the median case"
    ratio = first.voxels / last.voxels
    if len(steps) == 1:
        reason = f"{covers}, at least {rules.min_patch_share:.0%}: no coarser configuration is needed."
    elif is_kept:
        reason = (
            f"{covers}, less than {rules.min_patch_share:.0%}: a coarser configuration is added, whose patch covers "
            f"{last.share:.1%}, and a cascade that refines it."
        )
    else:
        reason = (
            f"{covers}, but the coarser configuration would have only {ratio:.2f} times fewer voxels, less than "
            f"{rules.min_voxel_ratio:g}: it is dropped."
        )
    tried = tuple(
        Alternative(value=_plain(step.spacing), outcome=f"patch {size_text(step.patch_size)} covers {step.share:.1%}")
        for step in steps[:-1]
    )
    inputs = {"full-resolution voxels": first.voxels, "spacing tried last, mm": last.spacing, "voxel ratio": ratio}
    found = reasons.decision("lowres", is_kept, reason, inputs, ["lowres"])
    return found.model_copy(update={"alternatives": tried})
