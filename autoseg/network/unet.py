"""The generic U-Net: plain or residual encoder, plain decoder, an output at every decoder stage.

Shape letters: B batch, C channels, ... two or three spatial axes, (Z,) Y, X.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.plan.schema import NetworkPlan

_CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_UPSAMPLE: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
CHANNELS_LAST: dict[int, Any] = {2: torch.channels_last, 3: torch.channels_last_3d}


class InstanceNorm(nn.Module):
    """Zero mean and unit variance for every channel of every sample, then a scale and a shift per channel.

    Source:
        Ulyanov et al. 2016, arXiv:1607.08022.
    """

    def __init__(self, num_channels: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map, (B, C, ...), its channels first or last in memory as they were."""
        if x.device.type != "cpu" or x.is_contiguous():
            return functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.epsilon)
        # Where channels are last, torch's instance normalisation copies forth and back; that of a batch does not.
        samples = [
            functional.batch_norm(sample, None, None, self.weight, self.bias, training=True, eps=self.epsilon)
            for sample in torch.split(x, 1)
        ]
        return torch.cat(samples) if len(samples) > 1 else samples[0]


class ConvNorm(nn.Sequential):
    """Convolution (same padding), instance normalisation and, unless told otherwise, leaky ReLU."""

    def __init__(
        self,
        plan: NetworkPlan,
        channels: tuple[int, int],
        kernel: Sequence[int],
        stride: Sequence[int] | None = None,
        *,
        bias: bool = True,
        activate: bool = True,
    ) -> None:
        axes = plan.num_axes
        layers: list[nn.Module] = [
            _CONV[axes](
                *channels,
                tuple(kernel),
                stride=tuple(stride or (1,) * axes),
                padding=tuple(size // 2 for size in kernel),
                bias=bias,
            ),
            InstanceNorm(channels[1], plan.norm_epsilon),
        ]
        if activate:
            layers.append(nn.LeakyReLU(plan.negative_slope, inplace=True))
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, (B, C, ...)."""
        convolution, *others = self
        x = _in_float32(convolution, x) if _has_wrong_gradient(convolution, x) else convolution(x)
        for layer in others:
            x = layer(x)
        return x


def _has_wrong_gradient(convolution: nn.Module, x: Tensor) -> bool:
    """Return whether torch would compute the gradient of a convolution's weights from memory that nothing has written.

    torch 2.13.0 with oneDNN 3.12.0 does on a CPU in bfloat16, whatever channels, layout and the other axes are, where a
    map of three axes is two voxels deep and the kernel reaches across the depth without a stride: the gradient is NaN,
    or looks sound and is wrong. Other depths (up to 8), strides across it and transposed convolutions are right.
    """
    return (
        torch.is_autocast_enabled("cpu")
        and x.device.type == "cpu"
        and isinstance(convolution, nn.Conv3d)
        and (x.shape[2], convolution.stride[0]) == (2, 1)
        and convolution.kernel_size[0] > 1
    )


def _in_float32(convolution: nn.Module, x: Tensor) -> Tensor:
    """Return what a convolution makes of a map, computed in float32, in the type that autocast would give it."""
    with torch.autocast("cpu", enabled=False):
        convolved: Tensor = convolution(x.float())
    return convolved.to(torch.get_autocast_dtype("cpu"))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut that pools where the block strides and projects where channels change.

    Source:
        He et al. 2016, arXiv:1512.03385; shortcut of He et al. 2019, arXiv:1812.01187, ResNet-D.
    """

    def __init__(
        self, plan: NetworkPlan, channels: tuple[int, int], kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        axes = plan.num_axes
        self.first = ConvNorm(plan, channels, kernel, stride)
        self.second = ConvNorm(plan, (channels[1], channels[1]), kernel, activate=False)
        shortcut: list[nn.Module] = []
        if any(step > 1 for step in stride):
            shortcut.append(_POOL[axes](tuple(stride), tuple(stride)))
        if channels[0] != channels[1]:
            shortcut.append(ConvNorm(plan, channels, (1,) * axes, bias=False, activate=False))
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = nn.LeakyReLU(plan.negative_slope, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's features, (B, C, ...)."""
        activated: Tensor = self.activation(self.second(self.first(x)) + self.shortcut(x))
        return activated


class UNet(nn.Module):
    """Encoder, decoder and outputs of a `NetworkPlan`.

    Source:
        Ronneberger et al. 2015, arXiv:1505.04597; Isensee et al. 2021, Methods; residual encoder of Isensee et al.
        2024, arXiv:2404.09556.
    """

    def __init__(self, plan: NetworkPlan) -> None:
        super().__init__()
        self.plan = plan
        first = (plan.num_input_channels, plan.features[0])
        self.stem = ConvNorm(plan, first, plan.kernels[0]) if plan.kind == "residual" else nn.Identity()
        entering = [plan.features[0] if plan.kind == "residual" else plan.num_input_channels, *plan.features[:-1]]
        self.encoder = nn.ModuleList(self._encoder_stage(stage, width) for stage, width in enumerate(entering))
        axes = plan.num_axes
        stages = range(len(plan.features) - 1)
        self.upsample = nn.ModuleList(
            _UPSAMPLE[axes](
                plan.features[s + 1], plan.features[s], tuple(plan.strides[s + 1]), stride=tuple(plan.strides[s + 1])
            )
            for s in stages
        )
        self.decoder = nn.ModuleList(self._decoder_stage(stage) for stage in stages)
        self.outputs = nn.ModuleList(_CONV[axes](plan.features[s], plan.num_outputs, 1) for s in stages)
        # On the meta device nothing is drawn, but torch would take a second to import its compiler for that.
        if not next(self.parameters()).is_meta:
            self.apply(partial(_initialize, negative_slope=plan.negative_slope))

    def _encoder_stage(self, stage: int, entering: int) -> nn.Sequential:
        plan = self.plan
        ones = (1,) * plan.num_axes
        blocks: list[nn.Module] = []
        for block in range(plan.encoder_blocks[stage]):
            channels = (entering if block == 0 else plan.features[stage], plan.features[stage])
            stride = plan.strides[stage] if block == 0 else ones
            build = ResidualBlock if plan.kind == "residual" else ConvNorm
            blocks.append(build(plan, channels, plan.kernels[stage], stride))
        return nn.Sequential(*blocks)

    def _decoder_stage(self, stage: int) -> nn.Sequential:
        plan = self.plan
        width = plan.features[stage]
        return nn.Sequential(
            *(
                ConvNorm(plan, (2 * width if conv == 0 else width, width), plan.kernels[stage])
                for conv in range(plan.decoder_convs[stage])
            )
        )

    def _decode(self, x: Tensor) -> list[Tensor]:
        """Return the features of every decoder stage, full resolution first."""
        skips: list[Tensor] = []
        x = self.stem(x)
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        decoded: list[Tensor] = []
        for upsample, skip, convs in zip(
            reversed(self.upsample), reversed(skips[:-1]), reversed(self.decoder), strict=True
        ):
            x = convs(torch.cat((upsample(x), skip), dim=1))
            decoded.append(x)
        return decoded[::-1]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits at full resolution, (B, classes, ...).

        Args:
            x: Normalised patches, (B, C, ...), sizes divisible by the product of the strides.
        """
        logits: Tensor = self.outputs[0](self._decode(x)[0])
        return logits

    def forward_all(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every decoder stage for deep supervision, full resolution first."""
        return [output(features) for output, features in zip(self.outputs, self._decode(x), strict=True)]


def place(network: UNet, device: torch.device) -> UNet:
    """Return the network on a device, its weights in the layout that computes fastest there: channels last on a CPU.

    Weights keep their names and shapes; maps take their layout from them.

    Source:
        docs/speed.md, training step.
    """
    network.to(device)
    if device.type == "cpu":
        lay_channels_last(network)
    return network


def lay_channels_last(module: nn.Module) -> None:
    """Lay the weights of a module's convolutions in memory with channels last; its maps follow them."""
    for weight in module.parameters():
        if weight.ndim > 2:
            weight.data = weight.data.contiguous(memory_format=CHANNELS_LAST[weight.ndim - 2])


def _initialize(module: nn.Module, negative_slope: float) -> None:
    """He initialisation; the last norm of a residual block starts at zero, so that the block starts as identity.

    Source:
        He et al. 2015, arXiv:1502.01852; Goyal et al. 2017, arXiv:1706.02677, section 5.1.
    """
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=negative_slope)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, ResidualBlock):
        last: nn.Module = module.second[1]
        nn.init.zeros_(last.get_parameter("weight"))
