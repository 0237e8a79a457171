"""What `plans.json` of a trained nnU-Net v2 model says, as a configuration of ours; what we cannot do is refused."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from autoseg.core.artefact import Record
from autoseg.core.errors import ArtefactError
from autoseg.core.labels import Labels
from autoseg.plan.schema import (
    ChannelNormalization,
    ConfigurationName,
    ConfigurationPlan,
    NetworkPlan,
    NormalizationScheme,
    ResamplingPlan,
)

CHECKPOINT_NAME = "checkpoint_final.pth"

NEVER_COARSE = 1e9
"""Anisotropy that no scan has: stands for `force_separate_z: false`."""

ALWAYS_COARSE = 0.0
"""Anisotropy that every scan has: stands for `force_separate_z: true`."""

SCHEMES: Mapping[str, NormalizationScheme] = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
    "NoNormalization": "none",
}
"""Our name of each of nnU-Net's normalisations."""


class _Lenient(Record):
    """A part of nnU-Net's files of which we need some entries only."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


SplineOrder = Annotated[int, Field(ge=0, le=5)]


class _Splines(_Lenient):
    """Arguments of `resample_data_or_seg_to_shape`, with its own defaults."""

    order: SplineOrder = 3
    order_z: SplineOrder = 0
    force_separate_z: bool | None = False
    separate_z_anisotropy_threshold: float = 3.0


class _Linear(_Lenient):
    """Arguments of `resample_torch_fornnunet`, with its own defaults: linear, nearest along a coarse axis."""

    order: Literal[1] = 1
    order_z: Literal[0] = 0
    force_separate_z: bool | None = None
    separate_z_anisotropy_threshold: float = 3.0
    mode: Literal["linear"] = "linear"
    aniso_axis_mode: Literal["nearest-exact"] = "nearest-exact"


class _Norm(Record):
    eps: float = 1e-5
    affine: Literal[True]


class _Activation(Record):
    inplace: bool = False
    negative_slope: float = 0.01


class _Network(Record):
    """Arguments of nnU-Net's U-Nets; values that our network cannot have, and further arguments, are refused."""

    n_stages: int
    features_per_stage: int | tuple[int, ...]
    conv_op: Literal["torch.nn.modules.conv.Conv2d", "torch.nn.modules.conv.Conv3d"]
    kernel_sizes: int | tuple[int | tuple[int, ...], ...]
    strides: int | tuple[int | tuple[int, ...], ...]
    n_conv_per_stage: int | tuple[int, ...] | None = None
    n_blocks_per_stage: int | tuple[int, ...] | None = None
    n_conv_per_stage_decoder: int | tuple[int, ...]
    conv_bias: Literal[True]
    norm_op: Literal["torch.nn.modules.instancenorm.InstanceNorm2d", "torch.nn.modules.instancenorm.InstanceNorm3d"]
    norm_op_kwargs: _Norm
    dropout_op: None = None
    dropout_op_kwargs: Any = None
    nonlin: Literal["torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU"]
    nonlin_kwargs: _Activation | None = None
    deep_supervision: bool = False


class _Architecture(_Lenient):
    network_class_name: str
    arch_kwargs: _Network

    @property
    def kind(self) -> Literal["plain", "residual"]:
        return "plain" if self._class_name == "PlainConvUNet" else "residual"

    @property
    def _class_name(self) -> str:
        return self.network_class_name.rpartition(".")[2]

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        known = ("PlainConvUNet", "ResidualEncoderUNet")
        if self._class_name not in known:
            raise ValueError(f"network must be {' or '.join(known)}, got {self.network_class_name}")
        blocks = self.arch_kwargs.n_conv_per_stage if self.kind == "plain" else self.arch_kwargs.n_blocks_per_stage
        if blocks is None:
            raise ValueError("network must say how many convolutions or blocks each stage has, got nothing")
        return self


class Intensities(_Lenient):
    """Of one channel over the foreground of the dataset that a model was trained with."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class NnunetConfiguration(_Lenient):
    """An entry of `configurations`, whatever it inherits filled in."""

    preprocessor_name: Literal["DefaultPreprocessor"] = "DefaultPreprocessor"
    batch_size: int
    patch_size: tuple[int, ...] = Field(min_length=2, max_length=3)
    median_image_size_in_voxels: tuple[float, ...]
    spacing: tuple[float, ...]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    resampling_fn_data: str
    resampling_fn_data_kwargs: dict[str, Any]
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: dict[str, Any]
    architecture: _Architecture
    batch_dice: bool = False
    previous_stage: str | None = None


class NnunetPlans(_Lenient):
    """`plans.json`."""

    dataset_name: str
    plans_name: str = "nnUNetPlans"
    image_reader_writer: Literal["SimpleITKIO", "NibabelIO", "NaturalImage2DIO"]
    label_manager: Literal["LabelManager"] = "LabelManager"
    transpose_forward: tuple[int, int, int]
    configurations: dict[str, dict[str, Any]]
    foreground_intensity_properties_per_channel: dict[str, Intensities]

    def our_name(self, name: str) -> ConfigurationName:
        """Return what we call a configuration; one that people have named themselves goes by what it is."""
        match name:
            case "2d" | "3d_fullres" | "3d_lowres" | "3d_cascade_fullres":
                return name
        entry = self.configuration(name)
        if len(entry.patch_size) == 2:
            return "2d"
        return "3d_fullres" if entry.previous_stage is None else "3d_cascade_fullres"

    def configuration(self, name: str) -> NnunetConfiguration:
        """Return an entry with what it inherits.

        Raises:
            ValueError: If there is none, or it cannot be used here; a `ValidationError` says which of its entries.
        """
        return NnunetConfiguration.model_validate(_with_architecture(self._resolved(name)))

    def _resolved(self, name: str, below: tuple[str, ...] = ()) -> dict[str, Any]:
        if name not in self.configurations or name in below:
            raise ValueError(f"configurations must hold {name}, got {', '.join(self.configurations)}")
        entry = self.configurations[name]
        parent = entry.get("inherits_from")
        return {**(self._resolved(parent, (*below, name)) if parent else {}), **entry}


def parse_plans(document: Mapping[str, Any], where: object) -> NnunetPlans:
    """Return the content of `plans.json`.

    Args:
        document: As read.
        where: Its path, for errors.

    Raises:
        ArtefactError: If an entry is missing, or stands for something that autoseg does not do.
    """
    old_key = "foreground_intensity_properties_by_modality"
    renamed = {"foreground_intensity_properties_per_channel": document[old_key]} if old_key in document else {}
    try:
        return NnunetPlans.model_validate({**renamed, **document})
    except ValidationError as error:
        raise not_usable(where, error) from None


def import_configuration(
    plans: NnunetPlans, name: str, channels: tuple[str, ...], labels: Labels, mirror_axes: tuple[int, ...]
) -> ConfigurationPlan:
    """Return a configuration of nnU-Net as one of ours.

    Args:
        plans: Of the model.
        name: As nnU-Net calls it.
        channels: Names of the input channels.
        labels: Classes.
        mirror_axes: Along which the model may be mirrored, from its checkpoint.

    Raises:
        ValueError: If the configuration cannot be used here.

    Source:
        nnU-Net 2.8.1, plans handler, default preprocessor, resampling, sliding window.
    """
    entry = plans.configuration(name)
    # nnU-Net shows a cascade the single labels, also where it learns regions.
    num_previous = labels.num_classes - 1 if entry.previous_stage else 0
    return ConfigurationPlan(
        spacing=entry.spacing,
        median_shape=entry.median_image_size_in_voxels,
        patch_size=entry.patch_size,
        batch_size=entry.batch_size,
        batch_dice=entry.batch_dice,
        mirror_axes=mirror_axes,
        normalization=_normalization(plans, entry, channels),
        resampling=_resampling(entry),
        network=_network(entry, len(channels) + num_previous, labels.num_outputs),
        has_ignored=labels.ignored is not None,
        regions=labels.members if labels.regions else (),
        previous_stage=plans.our_name(entry.previous_stage) if entry.previous_stage else None,
    )


def not_usable(where: object, error: ValueError) -> ArtefactError:
    """Return the error for a file whose content is not what we need, which names the entry."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        entry = ".".join(str(part) for part in first["loc"]) or "the document"
        got = f" ({first['input']!r})" if isinstance(first["input"], str | int | float | bool) else ""
        return ArtefactError(
            f"{where}: {entry} must be something that autoseg knows, got: {first['msg']}{got}."
            " Predict with nnU-Net, or train the dataset with autoseg."
        )
    return ArtefactError(f"{where}: {error}. Predict with nnU-Net, or train the dataset with autoseg.")


def _with_architecture(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration whose network is described as since nnU-Net 2.5, from the keys that older plans have."""
    if "architecture" in entry or "UNet_class_name" not in entry:
        return dict(entry)
    axes, kind = len(entry["patch_size"]), str(entry["UNet_class_name"])
    num_stages = len(entry["n_conv_per_stage_encoder"])
    widths = (entry["UNet_base_num_features"] * 2**stage for stage in range(num_stages))
    network = {
        "n_stages": num_stages,
        "features_per_stage": tuple(min(width, entry["unet_max_num_features"]) for width in widths),
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": entry["conv_kernel_sizes"],
        "strides": entry["pool_op_kernel_sizes"],
        "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage": entry["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": entry["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
    }
    return {**entry, "architecture": {"network_class_name": f"unet.{kind}", "arch_kwargs": network}}


def _normalization(
    plans: NnunetPlans, entry: NnunetConfiguration, channels: tuple[str, ...]
) -> tuple[ChannelNormalization, ...]:
    counts = (len(entry.normalization_schemes), len(entry.use_mask_for_norm))
    if counts != (len(channels), len(channels)):
        raise ValueError(f"normalisation must be given for {len(channels)} channels, got {counts[0]} and {counts[1]}")
    if unknown := [scheme for scheme in entry.normalization_schemes if scheme not in SCHEMES]:
        raise ValueError(f"normalization_schemes must be among {', '.join(SCHEMES)}, got {unknown[0]}")
    found = []
    for number, channel in enumerate(channels):
        if str(number) not in plans.foreground_intensity_properties_per_channel:
            raise ValueError(f"intensities must be given for channel {number}, got none")
        statistics = plans.foreground_intensity_properties_per_channel[str(number)]
        found.append(
            ChannelNormalization(
                channel=channel,
                scheme=SCHEMES[entry.normalization_schemes[number]],
                within_mask=entry.use_mask_for_norm[number],
                lower=statistics.percentile_00_5,
                upper=statistics.percentile_99_5,
                mean=statistics.mean,
                std=statistics.std,
            )
        )
    return tuple(found)


def _resampling(entry: NnunetConfiguration) -> ResamplingPlan:
    image = _arguments(entry.resampling_fn_data, entry.resampling_fn_data_kwargs)
    output = _arguments(entry.resampling_fn_probabilities, entry.resampling_fn_probabilities_kwargs)
    shared = [(one.order_z, _anisotropy_ratio(one)) for one in (image, output)]
    if shared[0] != shared[1]:
        raise ValueError(f"images and outputs must treat a coarse axis alike, got {shared[0]} and {shared[1]}")
    return ResamplingPlan(
        image_order=image.order,
        label_order=1,
        output_order=output.order,
        coarse_axis_order=shared[0][0],
        anisotropy_ratio=shared[0][1],
    )


def _arguments(function: str, arguments: Mapping[str, Any]) -> _Splines | _Linear:
    match function:
        case "resample_data_or_seg_to_shape":
            return _Splines.model_validate(arguments)
        case "resample_torch_fornnunet":
            return _Linear.model_validate(arguments)
    raise ValueError(f"resampling must be resample_data_or_seg_to_shape or resample_torch_fornnunet, got {function}")


def _anisotropy_ratio(arguments: _Splines | _Linear) -> float:
    match arguments.force_separate_z:
        case None:
            return arguments.separate_z_anisotropy_threshold
        case True:
            return ALWAYS_COARSE
        case False:
            return NEVER_COARSE


def _network(entry: NnunetConfiguration, num_inputs: int, num_outputs: int) -> NetworkPlan:
    kind, network = entry.architecture.kind, entry.architecture.arch_kwargs
    stages, axes = network.n_stages, len(entry.patch_size)
    blocks = network.n_conv_per_stage if kind == "plain" else network.n_blocks_per_stage
    assert blocks is not None
    kernels = tuple(_spread(kernel, axes) for kernel in _spread(network.kernel_sizes, stages))
    strides = tuple(_spread(stride, axes) for stride in _spread(network.strides, stages))
    if any(size % 2 == 0 for kernel in kernels for size in kernel) or set(strides[0]) != {1}:
        raise ValueError(f"kernels must be odd and the first stage without stride, got {kernels} and {strides[0]}")
    if not network.conv_op.endswith(f"{axes}d") or not network.norm_op.endswith(f"{axes}d"):
        raise ValueError(f"a patch of {axes} axes must have a network of as many, got {network.conv_op}")
    return NetworkPlan(
        kind=kind,
        num_input_channels=num_inputs,
        num_outputs=num_outputs,
        features=_spread(network.features_per_stage, stages),
        strides=strides,
        kernels=kernels,
        encoder_blocks=_spread(blocks, stages),
        # nnU-Net counts decoder stages from the coarsest on.
        decoder_convs=_spread(network.n_conv_per_stage_decoder, stages - 1)[::-1],
        norm_epsilon=network.norm_op_kwargs.eps,
        negative_slope=(network.nonlin_kwargs or _Activation()).negative_slope,
    )


def _spread(value: Any, count: int) -> tuple[Any, ...]:  # noqa: ANN401 - numbers, or tuples of them
    """Return one entry for each of `count` stages or axes, where a single number stands for all.

    Raises:
        ValueError: If there is another number of entries.
    """
    entries = tuple(value) if isinstance(value, tuple) else (value,) * count
    if len(entries) != count:
        raise ValueError(f"the network must have {count} entries per stage or axis, got {len(entries)}")
    return entries
