"""A plan as nnU-Net version 2 writes it, so that nnU-Net trains with it."""

import json
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from autoseg.core.artefact import replacing
from autoseg.core.errors import PlanError
from autoseg.data.image import PICTURE_SUFFIXES
from autoseg.fingerprint.schema import Fingerprint
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan, NetworkPlan, NormalizationScheme, Plan

PLANS_NAME = "nnUNetPlans"
"""Name under which nnU-Net looks for plans unless told otherwise."""

DEFAULT_NEGATIVE_SLOPE = 0.01
"""Of PyTorch's leaky ReLU, which nnU-Net does not set."""

_SCHEMES: dict[NormalizationScheme, str] = {
    "ct": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
    "none": "NoNormalization",
}
_NETWORKS = {"plain": "PlainConvUNet", "residual": "ResidualEncoderUNet"}
_BLOCKS = {"plain": "n_conv_per_stage", "residual": "n_blocks_per_stage"}


def export_nnunet_plans(
    plan: Plan, fingerprint: Fingerprint, dataset_name: str, path: Path, suffix: str | None = None
) -> None:
    """Write a plan as nnU-Net's `nnUNetPlans.json`.

    Args:
        plan: Of any preset.
        fingerprint: From which it was made.
        dataset_name: As nnU-Net names the dataset, `Dataset004_Hippocampus`.
        path: File to write, whole or not at all; its stem is the plan's name there.
        suffix: Of the dataset's images; None where it is not known.

    Raises:
        PlanError: If the plan holds what nnU-Net cannot express.
    """
    document = nnunet_plans(plan, fingerprint, dataset_name, path.stem, suffix)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")


def nnunet_plans(
    plan: Plan, fingerprint: Fingerprint, dataset_name: str, plans_name: str = PLANS_NAME, suffix: str | None = None
) -> dict[str, JsonValue]:
    """Return a plan in nnU-Net's keys and class names; arguments and errors as in `export_nnunet_plans`.

    Source:
        nnU-Net 2.8.1, experiment planner and its published plans.
    """
    spacing = np.median([case.spacing for case in fingerprint.cases], axis=0)
    shape = np.median([case.cropped_shape for case in fingerprint.cases], axis=0)
    configurations: dict[str, JsonValue] = {}
    for name, configuration in plan.configurations.items():
        if configuration.previous_stage is not None:
            inherited: JsonValue = {"inherits_from": "3d_fullres", "previous_stage": configuration.previous_stage}
            configurations[name] = inherited
            continue
        entry = _configuration(name, configuration, plans_name)
        if name == "3d_lowres":
            entry["next_stage"] = "3d_cascade_fullres"
        configurations[name] = entry
    return {
        "dataset_name": dataset_name,
        "plans_name": plans_name,
        "original_median_spacing_after_transp": [float(spacing[axis]) for axis in plan.transpose],
        "original_median_shape_after_transp": [round(float(shape[axis])) for axis in plan.transpose],
        "image_reader_writer": _reader_name(suffix, is_flat="3d_fullres" not in plan.configurations),
        "transpose_forward": list(plan.transpose),
        "transpose_backward": [plan.transpose.index(axis) for axis in range(3)],
        "configurations": configurations,
        "experiment_planner_used": "autoseg",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(index): dict(entry.model_dump()) for index, entry in enumerate(fingerprint.intensities)
        },
    }


def _reader_name(suffix: str | None, *, is_flat: bool) -> str:
    """Return nnU-Net's reader for images of a suffix; where that is not known, the usual one of slices or volumes."""
    if suffix is None:
        return "NaturalImage2DIO" if is_flat else "SimpleITKIO"
    if suffix in (".tif", ".tiff"):
        return "NaturalImage2DIO" if is_flat else "Tiff3DIO"
    return "NaturalImage2DIO" if suffix in PICTURE_SUFFIXES else "SimpleITKIO"


def _configuration(name: ConfigurationName, configuration: ConfigurationPlan, plans_name: str) -> dict[str, JsonValue]:
    resampling, function = configuration.resampling, "resample_data_or_seg_to_shape"

    def arguments(order: int, *, is_seg: bool) -> dict[str, JsonValue]:
        return {
            "is_seg": is_seg,
            "order": order,
            "order_z": resampling.coarse_axis_order,
            "force_separate_z": None,
        }

    return {
        "data_identifier": f"{plans_name}_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": configuration.batch_size,
        "patch_size": list(configuration.patch_size),
        "median_image_size_in_voxels": list(configuration.median_shape),
        "spacing": list(configuration.spacing),
        "normalization_schemes": [_SCHEMES[entry.scheme] for entry in configuration.normalization],
        "use_mask_for_norm": [entry.within_mask for entry in configuration.normalization],
        "resampling_fn_data": function,
        "resampling_fn_seg": function,
        "resampling_fn_data_kwargs": arguments(resampling.image_order, is_seg=False),
        "resampling_fn_seg_kwargs": arguments(resampling.label_order, is_seg=True),
        "resampling_fn_probabilities": function,
        "resampling_fn_probabilities_kwargs": arguments(resampling.output_order, is_seg=False),
        "architecture": _architecture(configuration.network),
        "batch_dice": configuration.batch_dice,
    }


def _architecture(network: NetworkPlan) -> dict[str, JsonValue]:
    if network.negative_slope != DEFAULT_NEGATIVE_SLOPE:
        raise PlanError(
            f"network.negative_slope: must be {DEFAULT_NEGATIVE_SLOPE} for nnU-Net, got {network.negative_slope}. "
            "Plan without changing it."
        )
    axes = f"{network.num_axes}d"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{_NETWORKS[network.kind]}",
        "arch_kwargs": {
            "n_stages": len(network.features),
            "features_per_stage": list(network.features),
            "conv_op": f"torch.nn.modules.conv.Conv{axes}",
            "kernel_sizes": [list(kernel) for kernel in network.kernels],
            "strides": [list(stride) for stride in network.strides],
            _BLOCKS[network.kind]: list(network.encoder_blocks),
            "n_conv_per_stage_decoder": list(network.decoder_convs),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}",
            "norm_op_kwargs": {"eps": network.norm_epsilon, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
