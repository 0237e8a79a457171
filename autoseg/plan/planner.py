"""From a fingerprint to a plan: the rules in their order."""

import math
from dataclasses import dataclass, replace
from typing import Protocol

from autoseg.core.errors import PlanError
from autoseg.core.geometry import Spacing
from autoseg.core.labels import Labels
from autoseg.fingerprint.schema import Fingerprint
from autoseg.plan.normalization import normalization, resampling
from autoseg.plan.rulebook import Rulebook
from autoseg.plan.rules import Rules
from autoseg.plan.schema import (
    ChannelNormalization,
    ConfigurationName,
    ConfigurationPlan,
    InferencePlan,
    Plan,
    TrainingPlan,
)
from autoseg.plan.sizing import batch_size, budget, fit_network
from autoseg.plan.spacing import coarser_spacing, median_shape, target_spacing, transpose_order


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
    num_classes: int
    rules: Rules


def make_plan(
    fingerprint: Fingerprint, dataset: DatasetDescription, rulebook: Rulebook, preset: str | None = None
) -> Plan:
    """Return the plan of a dataset. Arithmetic alone: no image is read, no network built.

    Args:
        fingerprint: Of the dataset.
        dataset: Its name, channels and labels.
        rulebook: Constants of the rules.
        preset: Entry of `rules/presets.toml`; the default one if None.

    Raises:
        PlanError: If the preset is unknown, fingerprint and dataset disagree, or no plan fits the memory.

    Source:
        Isensee et al. 2021, Methods and Supplementary Note 2; rules/inferred.toml.
    """
    rules = rulebook.for_preset(preset or rulebook.inferred.preset.default)
    _require_agreement(fingerprint, dataset)
    spacings = [case.spacing for case in fingerprint.cases]
    shapes = [case.cropped_shape for case in fingerprint.cases]
    target = target_spacing(spacings, shapes, **rules.inferred.target_spacing.model_dump())
    shape = median_shape(shapes, spacings, target)
    transpose = transpose_order(target)
    fullres = _Grid(
        spacing=tuple(target[axis] for axis in transpose),
        shape=tuple(shape[axis] for axis in transpose),
        dataset_voxels=math.prod(shape) * len(shapes),
    )
    subject = _Subject(
        normalization=normalization(
            dataset.channels,
            fingerprint.intensities,
            fingerprint.median_relative_size_after_cropping,
            rules.inferred.normalization,
        ),
        num_classes=dataset.labels.num_classes,
        rules=rules,
    )
    blueprint = rules.blueprint
    return Plan(
        made_from={"fingerprint": fingerprint.digest(), "rules": rulebook.digest},
        dataset=dataset.name,
        preset=rules.preset,
        channels=dataset.channels,
        labels=dataset.labels,
        transpose=transpose,
        configurations=_configurations(fullres, subject),
        training=TrainingPlan(**blueprint.training.model_dump(), augmentation=blueprint.augmentation),
        inference=InferencePlan(**blueprint.inference.model_dump()),
    )


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


def _configurations(fullres: _Grid, subject: _Subject) -> dict[ConfigurationName, ConfigurationPlan]:
    """Return all configurations that the data call for; data of one slice get `2d` alone."""
    plane = replace(fullres, spacing=fullres.spacing[1:], shape=fullres.shape[1:])
    configurations: dict[ConfigurationName, ConfigurationPlan] = {"2d": _configuration(plane, subject, batch_dice=True)}
    if fullres.shape[0] == 1:
        return configurations
    full = _configuration(fullres, subject, batch_dice=False)
    lowres = _lowres(fullres, full, subject)
    if lowres is None:
        configurations["3d_fullres"] = full
        return configurations
    full = full.model_copy(update={"batch_dice": True})
    configurations["3d_fullres"] = full
    configurations["3d_lowres"] = lowres
    configurations["3d_cascade_fullres"] = _cascade(full, subject.num_classes)
    return configurations


def _configuration(grid: _Grid, subject: _Subject, *, batch_dice: bool) -> ConfigurationPlan:
    """Return the configuration for a grid: the largest patch that fits, then the batch."""
    rules = subject.rules
    fitted = fit_network(grid.spacing, grid.shape, len(subject.normalization), subject.num_classes, rules)
    allowed = budget(len(grid.spacing), rules.inferred.sizing, rules.inferred.batch_size)
    return ConfigurationPlan(
        spacing=grid.spacing,
        median_shape=grid.shape,
        patch_size=fitted.patch_size,
        batch_size=batch_size(
            fitted.elements, fitted.patch_size, grid.dataset_voxels, allowed, rules.inferred.batch_size
        ),
        batch_dice=batch_dice,
        normalization=subject.normalization,
        resampling=resampling(rules.inferred.resampling),
        network=fitted.network,
    )


def _lowres(fullres: _Grid, full: ConfigurationPlan, subject: _Subject) -> ConfigurationPlan | None:
    """Return a coarser configuration whose patch covers enough of the median case; None where it is not worth it.

    Source:
        rules/inferred.toml [lowres]; Isensee et al. 2021, Supplementary Note 2.
    """
    rules = subject.rules.inferred.lowres
    num_cases = fullres.dataset_voxels / math.prod(fullres.shape)
    spacing, voxels, lowres = fullres.spacing, math.prod(fullres.shape), full
    while math.prod(lowres.patch_size) / voxels < rules.min_patch_share:
        spacing = coarser_spacing(spacing, step=rules.spacing_step, finer_axis_ratio=rules.finer_axis_ratio)
        exact = [
            fine / coarse * size for fine, coarse, size in zip(fullres.spacing, spacing, fullres.shape, strict=True)
        ]
        voxels = math.prod(exact)
        shape = tuple(float(round(size)) for size in exact)
        lowres = _configuration(_Grid(spacing, shape, voxels * num_cases), subject, batch_dice=False)
    if lowres is full or math.prod(fullres.shape) / voxels < rules.min_voxel_ratio:
        return None
    return lowres


def _cascade(full: ConfigurationPlan, num_classes: int) -> ConfigurationPlan:
    """Return the full resolution with the coarse prediction as further channels, one per foreground class."""
    network = full.network.model_copy(update={"num_input_channels": full.network.num_input_channels + num_classes - 1})
    return full.model_copy(update={"network": network, "previous_stage": "3d_lowres"})
