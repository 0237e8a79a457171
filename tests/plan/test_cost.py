import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autoseg.network.unet import UNet
from autoseg.plan.cost import convolution_elements, multiply_adds, num_parameters, stage_shapes
from autoseg.plan.schema import NetworkPlan


def _network(
    kind: Literal["plain", "residual"], strides: tuple[tuple[int, ...], ...], features: tuple[int, ...]
) -> NetworkPlan:
    stages = len(strides)
    return NetworkPlan(
        kind=kind,
        num_input_channels=2,
        num_outputs=3,
        features=features,
        strides=strides,
        kernels=tuple(tuple(3 for _ in stride) for stride in strides),
        encoder_blocks=(1, 3, 4, 6)[:stages] if kind == "residual" else (2,) * stages,
        decoder_convs=(1,) * (stages - 1) if kind == "residual" else (2,) * (stages - 1),
        norm_epsilon=1e-5,
        negative_slope=0.01,
    )


def test_a_plain_network_counted_by_hand() -> None:
    network = _network("plain", ((1, 1), (2, 2)), (4, 8))
    encoder = 2 * 4 * 64 + 2 * 8 * 16
    decoder = 3 * 4 * 64
    assert convolution_elements(network, (8, 8)) == encoder + decoder + 3 * 64


def test_a_residual_network_counted_by_hand() -> None:
    network = _network("residual", ((1, 1), (2, 2)), (4, 8))
    encoder = (1 + 2) * 4 * 64 + (3 * 2 + 1) * 8 * 16
    decoder = 2 * 4 * 64
    assert convolution_elements(network, (8, 8)) == encoder + decoder + 3 * 64


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize(
    ("strides", "features", "patch"),
    [
        (((1, 1), (2, 2), (2, 1)), (4, 8, 16), (16, 12)),
        (((1, 1, 1), (1, 2, 2), (2, 2, 2)), (4, 8, 16), (4, 16, 8)),
        (((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)), (4, 8, 16, 20), (8, 8, 16)),
    ],
)
def test_the_count_is_what_a_real_network_puts_out(
    kind: Literal["plain", "residual"],
    strides: tuple[tuple[int, ...], ...],
    features: tuple[int, ...],
    patch: tuple[int, ...],
) -> None:
    network = _network(kind, strides, features)
    built = UNet(network).eval()
    counted = []

    def count(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counted.append(output.numel())

    for module in built.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            module.register_forward_hook(count)
    with torch.no_grad():
        built(torch.zeros(1, 2, *patch))
    assert sum(counted) == convolution_elements(network, patch)


def test_a_shortcut_that_only_pools_is_counted_like_a_projection() -> None:
    wider, equal = (_network("residual", ((1, 1), (2, 2)), (4, features)) for features in (8, 4))
    assert convolution_elements(wider, (8, 8)) - convolution_elements(equal, (8, 8)) == (3 * 2 + 1) * 4 * 16


def test_feature_maps_shrink_with_the_strides() -> None:
    network = _network("plain", ((1, 1, 1), (1, 2, 2), (2, 2, 2)), (4, 8, 16))
    assert stage_shapes(network, (6, 16, 8)) == [(6, 16, 8), (6, 8, 4), (3, 4, 2)]
    assert math.prod(stage_shapes(network, (6, 16, 8))[-1]) == 24


NETWORKS = [
    pytest.param(_network("plain", ((1, 1), (2, 2), (2, 1)), (4, 8, 16)), (32, 24), id="plain 2D"),
    pytest.param(_network("plain", ((1, 1, 1), (1, 2, 2), (2, 2, 2)), (4, 8, 16)), (4, 32, 16), id="plain 3D"),
    pytest.param(_network("residual", ((1, 1), (2, 2), (2, 1)), (4, 8, 16)), (32, 24), id="residual 2D"),
    pytest.param(_network("residual", ((1, 1, 1), (1, 2, 2), (2, 2, 2)), (4, 8, 8)), (4, 32, 16), id="residual 3D"),
]


@pytest.mark.parametrize(("network", "patch"), NETWORKS)
def test_parameters_are_those_of_a_real_network(network: NetworkPlan, patch: tuple[int, ...]) -> None:
    assert num_parameters(network) == sum(parameter.numel() for parameter in UNet(network).parameters())


@pytest.mark.parametrize(("network", "patch"), NETWORKS)
def test_operations_are_those_of_a_real_forward_pass(network: NetworkPlan, patch: tuple[int, ...]) -> None:
    built = UNet(network).train()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        built.forward_all(torch.zeros(1, 2, *patch))
    assert counter.get_total_flops() == 2 * multiply_adds(network, patch)
