"""Networks whose modules carry nnU-Net's names, and model folders as nnU-Net leaves them behind.

Written from the description of nnU-Net's networks alone, so that they can prove our table of names and our network.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
UPSAMPLE: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM: dict[int, Any] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
POOL: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class Unit(nn.Module):
    """A convolution, its normalisation and maybe an activation, each known by two names."""

    def __init__(
        self,
        channels: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int],
        *,
        bias: bool = True,
        active: bool = True,
    ) -> None:
        super().__init__()
        axes = len(kernel)
        padding = [(size - 1) // 2 for size in kernel]
        self.conv = CONV[axes](*channels, tuple(kernel), tuple(stride), padding, bias=bias)
        self.norm = NORM[axes](channels[1], eps=1e-5, affine=True)
        self.all_modules = nn.Sequential(self.conv, self.norm, *([nn.LeakyReLU()] if active else []))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.all_modules(x)
        return y


class Stack(nn.Module):
    """Units one after the other, the first with a stride."""

    def __init__(self, num: int, channels: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        ones = [1] * len(kernel)
        more = [Unit((channels[1], channels[1]), kernel, ones) for _ in range(num - 1)]
        self.convs = nn.Sequential(Unit(channels, kernel, stride), *more)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convs(x)
        return y


class Block(nn.Module):
    """A residual block; the projection has no bias and comes after the pooling."""

    def __init__(self, channels: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        ones = [1] * len(kernel)
        self.conv1 = Unit(channels, kernel, stride)
        self.conv2 = Unit((channels[1], channels[1]), kernel, ones, active=False)
        skip: list[nn.Module] = [POOL[len(kernel)](tuple(stride), tuple(stride))] if max(stride) > 1 else []
        if channels[0] != channels[1]:
            skip.append(Unit(channels, ones, ones, bias=False, active=False))
        if skip:
            self.skip = nn.Sequential(*skip)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.skip(x) if hasattr(self, "skip") else x
        return nn.functional.leaky_relu(self.conv2(self.conv1(x)) + shortcut)


class Blocks(nn.Module):
    """Residual blocks one after the other."""

    def __init__(self, num: int, channels: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        more = [Block((channels[1], channels[1]), kernel, [1] * len(kernel)) for _ in range(num - 1)]
        self.blocks = nn.Sequential(Block(channels, kernel, stride), *more)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(x)
        return y


class Encoder(nn.Module):
    """All stages' features, full resolution first."""

    def __init__(self, num_inputs: int, arguments: dict[str, Any]) -> None:
        super().__init__()
        kernels, strides = arguments["kernel_sizes"], arguments["strides"]
        is_residual = "n_blocks_per_stage" in arguments
        depths = arguments["n_blocks_per_stage" if is_residual else "n_conv_per_stage"]
        stages: list[nn.Module] = []
        entering = num_inputs
        if is_residual:
            entering = arguments["features_per_stage"][0]
            self.stem = Stack(1, (num_inputs, entering), kernels[0], [1] * len(kernels[0]))
        for width, kernel, stride, depth in zip(arguments["features_per_stage"], kernels, strides, depths, strict=True):
            channels = (entering, width)
            stages.append(
                Blocks(depth, channels, kernel, stride)
                if is_residual
                else nn.Sequential(Stack(depth, channels, kernel, stride))
            )
            entering = width
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x) if hasattr(self, "stem") else x
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Decoder(nn.Module):
    """Coarsest stage first; knows the encoder, so that its weights are stored once more."""

    def __init__(self, encoder: Encoder, num_outputs: int, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = encoder
        widths, kernels, strides = (arguments[key] for key in ("features_per_stage", "kernel_sizes", "strides"))
        axes = len(kernels[0])
        self.stages, self.transpconvs, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for place, depth in enumerate(arguments["n_conv_per_stage_decoder"]):
            stage = len(widths) - 2 - place
            width, stride = widths[stage], tuple(strides[stage + 1])
            self.transpconvs.append(UPSAMPLE[axes](widths[stage + 1], width, stride, stride))
            self.stages.append(Stack(depth, (2 * width, width), kernels[stage], [1] * axes))
            self.seg_layers.append(CONV[axes](width, num_outputs, 1))

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for upsample, stage, skip in zip(self.transpconvs, self.stages, features[-2::-1], strict=True):
            x = stage(torch.cat((upsample(x), skip), dim=1))
        logits: Tensor = self.seg_layers[-1](x)
        return logits


class Network(nn.Module):
    """A U-Net from the arguments that `plans.json` has for it."""

    def __init__(self, num_inputs: int, num_outputs: int, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = Encoder(num_inputs, arguments)
        self.decoder = Decoder(self.encoder, num_outputs, arguments)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.encoder(x))
        return logits


def architecture(kind: str, axes: int) -> dict[str, Any]:
    """Return a small network as `plans.json` describes it: anisotropic, with another number of layers in each stage."""
    first = [1, 3, 3][3 - axes :]
    blocks = {"plain": "n_conv_per_stage", "residual": "n_blocks_per_stage"}[kind]
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet."
        + {"plain": "PlainConvUNet", "residual": "ResidualEncoderUNet"}[kind],
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 6, 6],
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [first, [3] * axes, [3] * axes],
            "strides": [[1] * axes, [1, 2, 2][3 - axes :], [2] * axes],
            blocks: [1, 2, 3],
            "n_conv_per_stage_decoder": [2, 1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def configuration(kind: str = "plain", axes: int = 3) -> dict[str, Any]:
    """Return an entry of `configurations`."""
    arguments = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 16, 16][3 - axes :],
        "median_image_size_in_voxels": [9.0, 20.0, 18.5][3 - axes :],
        "spacing": [4.0, 1.0, 1.25][3 - axes :],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": arguments,
        "resampling_fn_seg_kwargs": {**arguments, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**arguments, "order": 1},
        "architecture": architecture(kind, axes),
        "batch_dice": False,
    }


def plans(**configurations: dict[str, Any]) -> dict[str, Any]:
    """Return a `plans.json` with these configurations; names that Python does not allow have an underscore in front."""
    statistics = {"mean": 50.0, "std": 20.0, "percentile_00_5": 5.0, "percentile_99_5": 95.0}
    return {
        "dataset_name": "Dataset999_Made",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "configurations": {name.removeprefix("_"): entry for name, entry in configurations.items()},
        "foreground_intensity_properties_per_channel": {"0": {**statistics, "min": 0.0, "max": 100.0, "median": 50.0}},
    }


def dataset(**more: object) -> dict[str, Any]:
    """Return a `dataset.json`."""
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
        **more,
    }


def checkpoint(
    network: nn.Module, name: str, mirror_axes: Sequence[int] | None = (0, 2), origin: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the content of `checkpoint_final.pth`; `origin` is what it notes about fold, plans and dataset."""
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": {"state": {}, "param_groups": []},
        "grad_scaler_state": None,
        "logging": {
            "dice_per_class_or_region": [[np.float64(0.25), np.float64(0.5)], [np.float32(0.75), np.float32(0.5)]],
            "epoch_start_timestamps": [100.0, 110.0],
            "epoch_end_timestamps": [109.0, 120.0],
        },
        "_best_ema": np.float64(0.6),
        "current_epoch": 2,
        "init_args": {"configuration": name, "device": torch.device("cpu"), **(origin or {})},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": None if mirror_axes is None else tuple(mirror_axes),
    }


def write_model(
    root: Path,
    plans_document: dict[str, Any],
    name: str,
    folds: Sequence[int | str] = (0,),
    dataset_document: dict[str, Any] | None = None,
    num_channels: tuple[int, int] = (1, 3),
) -> dict[int | str, Network]:
    """Write a model folder of one configuration; return its networks, by fold.

    Args:
        root: Folder to write.
        plans_document: Content of `plans.json`.
        name: Of the configuration.
        folds: To write.
        dataset_document: Content of `dataset.json`.
        num_channels: Inputs and outputs of the networks.
    """
    root.mkdir(parents=True)
    (root / "plans.json").write_text(json.dumps(plans_document))
    (root / "dataset.json").write_text(json.dumps(dataset_document or dataset()))
    entry = plans_document["configurations"][name]
    found = {}
    for number, fold in enumerate(folds):
        torch.manual_seed(number)
        arguments = (entry if "architecture" in entry else configuration())["architecture"]["arch_kwargs"]
        found[fold] = Network(*num_channels, arguments).eval()
        (root / f"fold_{fold}").mkdir()
        origin = {"fold": fold, "plans": plans_document, "dataset_json": dataset_document or dataset()}
        torch.save(checkpoint(found[fold], name, origin=origin), root / f"fold_{fold}" / "checkpoint_final.pth")
    return found
