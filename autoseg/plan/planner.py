"""From a fingerprint to a plan: the rules in their order."""

import logging
import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from autoseg.core.errors import PlanError
from autoseg.core.geometry import Spacing
from autoseg.core.labels import Labels
from autoseg.fingerprint.schema import Fingerprint
from autoseg.plan import decisions as why
from autoseg.plan.budget import TimedChoice, with_choice
from autoseg.plan.mirroring import Sides, axes_in_patch, find_sides, mirror_axes
from autoseg.plan.normalization import normalization, resampling
from autoseg.plan.orientation import common_orientation, orientation_decision, turned_fingerprint
from autoseg.plan.overrides import Overrides, apply_overrides
from autoseg.plan.rulebook import Rulebook
from autoseg.plan.schema import (
    ChannelNormalization,
    ConfigurationName,
    ConfigurationPlan,
    Decision,
    InferencePlan,
    Plan,
    TrainingPlan,
)
from autoseg.plan.sizing import FittedNetwork, batch_size, budget, fit_network, fixed_network
from autoseg.plan.spacing import coarser_spacing, median_shape, target_spacing, transpose_order

_logger = logging.getLogger(__name__)


class DatasetDescription(Protocol):
    """What planning needs to know of a dataset beside its fingerprint."""

    @property
    def name(self) -> str: ...
    @property
    def channels(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> Labels: ...


@dataclass(frozen=True)
class _Grid:
    """A voxel grid on which a network works, transposed axes.

    Attributes:
        spacing: In mm, two or three axes.
        shape: Median shape, in voxels.
        dataset_voxels: Voxels of the median case, all three axes, times the number of cases.
    """

    spacing: Spacing
    shape: tuple[float, ...]
    dataset_voxels: float


@dataclass(frozen=True)
class _Subject:
    """What all configurations of a plan share."""

    normalization: tuple[ChannelNormalization, ...]
    labels: Labels
    transpose: tuple[int, int, int]
    sides: Sides
    reasons: why.Reasons
    timed: TimedChoice | None


@dataclass(frozen=True)
class _Planned:
    """A configuration and the decisions that made it."""

    plan: ConfigurationPlan
    decisions: tuple[Decision, ...]


def make_plan(
    fingerprint: Fingerprint,
    dataset: DatasetDescription,
    rulebook: Rulebook,
    preset: str | None = None,
    overrides: Overrides | None = None,
    timed: TimedChoice | None = None,
) -> Plan:
    """Return the plan of a dataset, with the reason of each decision. No image is read, no network built.

    Args:
        fingerprint: Of the dataset.
        dataset: Its name, channels and labels.
        rulebook: Constants of the rules.
        preset: Entry of `rules/presets.toml`; the default one if None.
        overrides: Values that the user sets.
        timed: What was chosen for a budget of time; None without one.

    Raises:
        PlanError: If the preset is unknown, fingerprint and dataset disagree, an override cannot be used, or no plan
            fits the memory.

    Source:
        Isensee et al. 2021, Methods and Supplementary Note 2; rules/inferred.toml.
    """
    _require_agreement(fingerprint, dataset)
    chosen = overrides or Overrides()
    rules = apply_overrides(rulebook.for_preset(preset or rulebook.inferred.preset.default), chosen)
    if timed is not None:
        rules = with_choice(rules, timed)
    reasons = why.Reasons(rulebook, rules, chosen)
    made_from = {"fingerprint": fingerprint.digest(), "rules": rulebook.digest}
    orientation = common_orientation(fingerprint, rules.inferred)
    oriented = orientation_decision(fingerprint, orientation, rules.inferred)
    fingerprint = turned_fingerprint(fingerprint, orientation)
    relative_size = fingerprint.median_relative_size_after_cropping
    normalized = normalization(dataset.channels, fingerprint.intensities, relative_size, rules.inferred.normalization)
    fullres, transpose, decisions = _fullres_grid(fingerprint, reasons)
    decisions.append(why.normalization_decision(reasons, normalized, relative_size))
    sides = find_sides(dataset.labels, fingerprint, transpose)
    configurations, more = _configurations(
        fullres, _Subject(normalized, dataset.labels, transpose, sides, reasons, timed)
    )
    if (
        sides.pairs and chosen.mirror_axes is None and timed is None
    ):  # What is tried for a budget of time is not worth a word.
        _logger.info("%s: %s", dataset.name, why.told_apart(sides))
    blueprint = rules.blueprint
    return Plan(
        made_from=made_from,
        dataset=dataset.name,
        preset=rules.preset,
        channels=dataset.channels,
        labels=dataset.labels,
        transpose=transpose,
        configurations=configurations,
        training=TrainingPlan(**blueprint.training.model_dump(), augmentation=blueprint.augmentation),
        inference=InferencePlan(**blueprint.inference.model_dump()),
        orientation=orientation,
        decisions=(*_shared_by_all(timed), *decisions, oriented, *more),
    )


def _shared_by_all(timed: TimedChoice | None) -> list[Decision]:
    """Return what was decided for all configurations under a budget of time."""
    return [] if timed is None else [found for found in timed.decisions if found.configuration is None]


def _require_agreement(fingerprint: Fingerprint, dataset: DatasetDescription) -> None:
    if not fingerprint.cases:
        raise PlanError(f"{dataset.name}: the fingerprint must hold at least one case, got none. Add labelled cases.")
    if len(fingerprint.intensities) != len(dataset.channels):
        raise PlanError(
            f"{dataset.name}: the fingerprint must have the {len(dataset.channels)} channels of the dataset, got "
            f"{len(fingerprint.intensities)}. Use the fingerprint of this dataset."
        )
    for case in fingerprint.cases:
        if not all(math.isfinite(step) and step > 0 for step in case.spacing) or min(case.cropped_shape) < 1:
            raise PlanError(
                f"{case.name}: spacing and shape must be above zero, got {case.spacing} mm and {case.cropped_shape} "
                "voxels. Mend the image's header."
            )


def _fullres_grid(fingerprint: Fingerprint, reasons: why.Reasons) -> tuple[_Grid, tuple[int, int, int], list[Decision]]:
    """Return the full-resolution grid, the order of its axes, and why."""
    spacings = [case.spacing for case in fingerprint.cases]
    shapes = [case.cropped_shape for case in fingerprint.cases]
    rules = reasons.rules.inferred.target_spacing
    target = reasons.overrides.spacing or target_spacing(spacings, shapes, **rules.model_dump())
    shape = median_shape(shapes, spacings, target)
    transpose = transpose_order(target, shape)
    grid = _Grid(
        spacing=tuple(target[axis] for axis in transpose),
        shape=tuple(shape[axis] for axis in transpose),
        dataset_voxels=math.prod(shape) * len(shapes),
    )
    median = tuple(float(value) for value in np.percentile(spacings, 50, axis=0))
    return (
        grid,
        transpose,
        [
            why.spacing_decision(reasons, fingerprint, target, median),
            why.transpose_decision(reasons, transpose, target, shape),
            why.shape_decision(reasons, fingerprint, shape, target),
        ],
    )


def _configurations(
    fullres: _Grid, subject: _Subject
) -> tuple[dict[ConfigurationName, ConfigurationPlan], list[Decision]]:
    """Return all configurations that the data call for, and why; data of one slice get `2d` alone."""
    plane = replace(fullres, spacing=fullres.spacing[1:], shape=fullres.shape[1:])
    planned: dict[ConfigurationName, _Planned] = {"2d": _configuration(plane, subject, batch_dice=True)}
    decisions: list[Decision] = []
    if fullres.shape[0] > 1:
        full = _configuration(fullres, subject, batch_dice=False)
        lowres, decision = _lowres(fullres, full, subject)
        decisions.append(decision)
        if lowres is None:
            planned["3d_fullres"] = full
        else:
            full = replace(full, plan=full.plan.model_copy(update={"batch_dice": True}))
            planned["3d_fullres"] = full
            planned["3d_lowres"] = lowres
            planned["3d_cascade_fullres"] = replace(full, plan=_cascade(full.plan, subject.labels.num_classes - 1))
    planned = {name: _timed(entry, name, subject.timed) for name, entry in planned.items()}
    for name, entry in planned.items():
        last = (
            why.batch_dice_decision(subject.reasons, name, batch_dice=entry.plan.batch_dice),
            why.mirror_decision(subject.reasons, entry.plan, subject.sides),
            why.cost_decision(subject.reasons, entry.plan),
        )
        decisions += [why.for_configuration(decision, name) for decision in (*entry.decisions, *last)]
    return {name: entry.plan for name, entry in planned.items()}, decisions


def _configuration(grid: _Grid, subject: _Subject, *, batch_dice: bool) -> _Planned:
    """Return the configuration for a grid: the largest patch that fits, then the batch."""
    reasons = subject.reasons
    inferred = reasons.rules.inferred
    fitted = _fitted(grid, subject)
    allowed = budget(len(grid.spacing), inferred.sizing, inferred.batch_size)
    plan = ConfigurationPlan(
        spacing=grid.spacing,
        median_shape=grid.shape,
        patch_size=fitted.patch_size,
        batch_size=batch_size(fitted.elements, fitted.patch_size, grid.dataset_voxels, allowed, inferred.batch_size),
        batch_dice=batch_dice,
        mirror_axes=_mirror_axes(len(grid.spacing), subject),
        normalization=subject.normalization,
        resampling=resampling(inferred.resampling),
        network=fitted.network,
        has_ignored=subject.labels.ignored is not None,
        regions=subject.labels.members if subject.labels.regions else (),
    )
    return _Planned(
        plan,
        (
            why.patch_decision(reasons, fitted, grid.shape, allowed),
            why.topology_decision(reasons, plan),
            why.batch_decision(reasons, fitted, grid.dataset_voxels, allowed),
        ),
    )


def _mirror_axes(num_axes: int, subject: _Subject) -> tuple[int, ...]:
    """Return the axes of a patch along which it may be mirrored: those of the user, or else those of the rule."""
    asked = subject.reasons.overrides.mirror_axes
    if asked is None:
        return mirror_axes(num_axes, subject.sides)
    return axes_in_patch(num_axes, [why.AXES.index(axis) for axis in asked], subject.transpose)


def _timed(planned: _Planned, name: ConfigurationName, timed: TimedChoice | None) -> _Planned:
    """Return a configuration with fewer patches per step where that was chosen for its time."""
    size = None if timed is None else timed.batch_of(name)
    if timed is None or size is None or size >= planned.plan.batch_size:
        return planned
    chosen = [found for found in timed.decisions if found.configuration == name]
    kept = [found for found in planned.decisions if found.name not in {decided.name for decided in chosen}]
    plan = planned.plan.model_copy(update={"batch_size": size})
    return _Planned(plan, (*kept, *chosen))


def _fitted(grid: _Grid, subject: _Subject) -> FittedNetwork:
    """Return the network for a grid, with the patch of the user or else the largest that fits."""
    rules = subject.reasons.rules
    counts = (len(subject.normalization), subject.labels.num_outputs)
    patch = subject.reasons.overrides.patch_for(len(grid.spacing))
    if patch is not None:
        return fixed_network(grid.spacing, patch, *counts, rules)
    return fit_network(grid.spacing, grid.shape, *counts, rules)


def _lowres(fullres: _Grid, full: _Planned, subject: _Subject) -> tuple[_Planned | None, Decision]:
    """Return a coarser configuration whose patch covers enough of the median case, or None where it is not worth it.

    Source:
        rules/inferred.toml [lowres]; Isensee et al. 2021, Supplementary Note 2.
    """
    rules = subject.reasons.rules.inferred.lowres
    num_cases = fullres.dataset_voxels / math.prod(fullres.shape)
    steps = [why.LowresStep(fullres.spacing, math.prod(fullres.shape), full.plan.patch_size)]
    found = full
    while steps[-1].share < rules.min_patch_share:
        spacing = coarser_spacing(steps[-1].spacing, step=rules.spacing_step, finer_axis_ratio=rules.finer_axis_ratio)
        exact = [fine / now * size for fine, now, size in zip(fullres.spacing, spacing, fullres.shape, strict=True)]
        voxels = math.prod(exact)
        shape = tuple(max(1.0, float(round(size))) for size in exact)
        found = _configuration(_Grid(spacing, shape, voxels * num_cases), subject, batch_dice=False)
        steps.append(why.LowresStep(spacing, voxels, found.plan.patch_size))
    is_kept = found is not full and steps[0].voxels / steps[-1].voxels >= rules.min_voxel_ratio
    return found if is_kept else None, why.lowres_decision(subject.reasons, steps, is_kept=is_kept)


def _cascade(full: ConfigurationPlan, num_foreground: int) -> ConfigurationPlan:
    """Return the full resolution with the coarse prediction as further channels, one per foreground class.

    Regions are painted with classes before they are shown, so that one channel per class holds all that is known.
    """
    network = full.network.model_copy(update={"num_input_channels": full.network.num_input_channels + num_foreground})
    return full.model_copy(update={"network": network, "previous_stage": "3d_lowres"})
