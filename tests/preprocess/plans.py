"""Small plans for tests."""

from collections.abc import Sequence

from autoseg.core.labels import Labels, declare_labels
from autoseg.plan.schema import (
    AugmentationPlan,
    ChannelNormalization,
    ConfigurationName,
    ConfigurationPlan,
    InferencePlan,
    NetworkPlan,
    NormalizationScheme,
    Plan,
    ResamplingPlan,
    TrainingPlan,
)

RESAMPLING = ResamplingPlan(image_order=3, label_order=1, output_order=1, coarse_axis_order=0, anisotropy_ratio=3.0)
LABELS = declare_labels({0: "background", 1: "organ", 5: "lesion"})


def channel(scheme: NormalizationScheme = "none", *, within_mask: bool = False) -> ChannelNormalization:
    return ChannelNormalization(
        channel="scan", scheme=scheme, within_mask=within_mask, lower=-50, upper=150, mean=20, std=40
    )


def network(num_axes: int = 3, num_channels: int = 1, num_outputs: int = 3) -> NetworkPlan:
    return NetworkPlan(
        kind="plain",
        num_input_channels=num_channels,
        num_outputs=num_outputs,
        features=(4, 8),
        strides=((1,) * num_axes, (2,) * num_axes),
        kernels=((3,) * num_axes, (3,) * num_axes),
        encoder_blocks=(1, 1),
        decoder_convs=(1,),
        norm_epsilon=1e-5,
        negative_slope=0.01,
    )


def configuration(
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    patch_size: tuple[int, ...] = (8, 8, 8),
    channels: Sequence[ChannelNormalization] = (channel(),),
    num_outputs: int = 3,
) -> ConfigurationPlan:
    return ConfigurationPlan(
        spacing=spacing,
        median_shape=tuple(2.0 * size for size in patch_size),
        patch_size=patch_size,
        batch_size=2,
        batch_dice=False,
        mirror_axes=tuple(range(len(patch_size))),
        normalization=tuple(channels),
        resampling=RESAMPLING,
        network=network(len(patch_size), len(channels), num_outputs),
    )


def plan(
    transpose: tuple[int, int, int] = (0, 1, 2),
    labels: Labels = LABELS,
    configurations: dict[ConfigurationName, ConfigurationPlan] | None = None,
) -> Plan:
    return Plan(
        dataset="phantom",
        preset="test",
        channels=("scan",),
        labels=labels,
        transpose=transpose,
        configurations=configurations or {"3d_fullres": configuration()},
        training=_training(),
        inference=InferencePlan(tile_step=0.5, gaussian_sigma=0.125),
    )


def _training() -> TrainingPlan:
    numbers = {name: (0.5, 1.0) if name.endswith("_range") else 0.1 for name in AugmentationPlan.model_fields}
    settings: dict[str, object] = {
        name: 1 for name in TrainingPlan.model_fields if name not in ("optimizer", "augmentation")
    }
    return TrainingPlan.model_validate(
        {**settings, "optimizer": "sgd", "augmentation": AugmentationPlan.model_validate(numbers)}
    )
