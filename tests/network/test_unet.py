import pytest
import torch

from autoseg.network.unet import ConvNorm, InstanceNorm, ResidualBlock, UNet, place
from tests.network.plans import ANISOTROPIC, FLAT, network_plan

CASES = [
    pytest.param({"kind": kind, **change}, shape, id=f"{kind} {name}")
    for kind in ("plain", "residual")
    for name, change, shape in [
        ("3D", {}, (8, 8, 8)),
        ("3D of unequal sizes", {}, (4, 8, 6)),
        ("2D", FLAT, (8, 12)),
        ("anisotropic", ANISOTROPIC, (4, 8, 16)),
    ]
]


def _network(change: dict[str, object]) -> UNet:
    torch.manual_seed(0)
    return UNet(network_plan(**change))


def _input(network: UNet, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn((2, network.plan.num_input_channels, *shape), generator=torch.Generator().manual_seed(1))


def _num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("change", "shape"), CASES)
def test_each_output_has_the_grid_of_its_stage(change: dict[str, object], shape: tuple[int, ...]) -> None:
    network = _network(change)
    outputs = network.forward_all(_input(network, shape))
    assert len(outputs) == len(network.plan.features) - 1
    for output, stride in zip(outputs, network.plan.strides, strict=False):
        shape = tuple(size // step for size, step in zip(shape, stride, strict=True))
        assert output.shape == (2, 3, *shape)


@pytest.mark.parametrize(("change", "shape"), CASES)
def test_prediction_is_the_first_of_the_supervised_outputs(change: dict[str, object], shape: tuple[int, ...]) -> None:
    network = _network(change)
    patches = _input(network, shape)
    assert torch.equal(network(patches), network.forward_all(patches)[0])


@pytest.mark.parametrize(("change", "shape"), CASES)
def test_samples_of_a_batch_do_not_mix(change: dict[str, object], shape: tuple[int, ...]) -> None:
    network = _network(change).eval()
    patches = _input(network, shape)
    with torch.no_grad():
        alone = torch.cat([network(patch[None]) for patch in patches])
        torch.testing.assert_close(network(patches), alone, rtol=1e-4, atol=1e-5)


def test_number_of_parameters_of_a_plain_network() -> None:
    encoder = (1 * 4 * 27 + 4 + 2 * 4) + (4 * 8 * 27 + 8 + 2 * 8)
    upsampling = 8 * 4 * 8 + 4
    decoder = 8 * 4 * 27 + 4 + 2 * 4
    output = 4 * 3 + 3
    assert _num_parameters(_network({})) == encoder + upsampling + decoder + output


def test_number_of_parameters_of_a_residual_network() -> None:
    stem = 1 * 4 * 27 + 4 + 2 * 4
    first = 2 * (4 * 4 * 27 + 4 + 2 * 4)
    second = (4 * 8 * 27 + 8 + 2 * 8) + (8 * 8 * 27 + 8 + 2 * 8) + (4 * 8 + 2 * 8)
    upsampling = 8 * 4 * 8 + 4
    decoder = 8 * 4 * 27 + 4 + 2 * 4
    output = 4 * 3 + 3
    assert _num_parameters(_network({"kind": "residual"})) == stem + first + second + upsampling + decoder + output


def test_kernels_and_strides_are_those_of_the_plan() -> None:
    network = _network(ANISOTROPIC)
    convolutions = [layer for layer in network.encoder.modules() if isinstance(layer, torch.nn.Conv3d)]
    assert [layer.kernel_size for layer in convolutions] == [(1, 3, 3)] * 3 + [(3, 3, 3)] * 2
    assert [layer.stride for layer in convolutions] == [(1, 1, 1), (1, 2, 2), (1, 1, 1), (2, 2, 2), (1, 1, 1)]
    upsamplings = [layer for layer in network.upsample.modules() if isinstance(layer, torch.nn.ConvTranspose3d)]
    assert [layer.kernel_size for layer in upsamplings] == [(1, 2, 2), (2, 2, 2)]


def test_flat_kernels_keep_slices_apart() -> None:
    network = _network({"kernels": ((1, 3, 3), (1, 3, 3)), "strides": ((1, 1, 1), (1, 2, 2))}).eval()
    convolution = network.get_submodule("encoder.0.0.0")
    patches = _input(network, (4, 8, 8))
    changed = patches.clone()
    changed[:, :, 2] = torch.randn_like(changed[:, :, 2])
    before, after = (convolution(array) for array in (patches, changed))
    assert [bool((before[:, :, z] == after[:, :, z]).all()) for z in range(4)] == [True, True, False, True]


@pytest.mark.parametrize("channels", [(4, 4), (4, 8)])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2)])
def test_a_residual_block_starts_as_its_shortcut(channels: tuple[int, int], stride: tuple[int, ...]) -> None:
    network = _network({"kind": "residual"})
    block = ResidualBlock(network.plan, channels, (3, 3, 3), stride)
    torch.nn.init.zeros_(block.second[1].get_parameter("weight"))
    patches = torch.randn(2, 4, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.leaky_relu(block.shortcut(patches), 0.01)
    torch.testing.assert_close(block(patches), expected)
    if channels == (4, 4) and stride == (1, 1, 1):
        torch.testing.assert_close(block(patches), torch.nn.functional.leaky_relu(patches, 0.01))


def test_the_last_norm_of_every_residual_block_starts_at_zero() -> None:
    network = _network({"kind": "residual", **ANISOTROPIC})
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 5
    for block in blocks:
        assert not block.second[1].get_parameter("weight").any()
        assert bool((block.first[1].get_parameter("weight") == 1).all())
        assert bool(block.second[0].get_parameter("weight").any())


@pytest.mark.parametrize(("change", "shape"), CASES)
def test_gradient_reaches_every_parameter(change: dict[str, object], shape: tuple[int, ...]) -> None:
    network = _network(change)
    for block in network.modules():
        if isinstance(block, ResidualBlock):
            torch.nn.init.ones_(block.second[1].get_parameter("weight"))
    loss = torch.stack([(output * output).mean() for output in network.forward_all(_input(network, shape))]).sum()
    torch.autograd.backward(loss)
    idle = [name for name, parameter in network.named_parameters() if not _gradient(parameter).any()]
    without_effect = {f"{name}.0.bias" for name, part in network.named_modules() if isinstance(part, ConvNorm)}
    assert set(idle) <= without_effect


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_a_network_that_only_predicts_leaves_coarser_outputs_alone() -> None:
    network = _network(ANISOTROPIC)
    torch.autograd.backward(network(_input(network, (4, 8, 8))).sum())
    assert [output.get_parameter("weight").grad is None for output in network.outputs] == [False, True]


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = _network(ANISOTROPIC).state_dict(), _network(ANISOTROPIC).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("change", "shape"), CASES)
def test_on_a_cpu_channels_lie_last_and_nothing_else_changes(change: dict[str, object], shape: tuple[int, ...]) -> None:
    plain, placed = _network(change), place(_network(change), torch.device("cpu"))
    patches = _input(plain, shape)
    assert {name: tensor.shape for name, tensor in placed.state_dict().items()} == {
        name: tensor.shape for name, tensor in plain.state_dict().items()
    }
    kernels = [tensor for tensor in placed.state_dict().values() if tensor.ndim > 3 and min(tensor.shape[:2]) > 1]
    assert kernels
    assert all(kernel.stride(1) == 1 for kernel in kernels)
    outputs, expected = placed.forward_all(patches), plain.forward_all(patches)
    for output, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-5)
    for network, logits in ((plain, expected), (placed, outputs)):
        torch.autograd.backward([entry.square().mean() for entry in logits])
        assert all(parameter.grad is not None for parameter in network.parameters())
    for found, wanted in zip(placed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_each_channel_of_each_sample_is_normalised(channels_last: bool) -> None:
    norm = InstanceNorm(3, 1e-5)
    maps = 5 + 3 * torch.randn((2, 3, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    if channels_last:
        maps = maps.contiguous(memory_format=torch.channels_last_3d)
    normed = norm(maps)
    assert normed.stride() == maps.stride()
    torch.testing.assert_close(normed.mean((2, 3, 4)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.var((2, 3, 4), correction=0), torch.ones(2, 3), atol=1e-4, rtol=0)
    with torch.no_grad():
        norm.weight.fill_(2)
        norm.bias.fill_(-1)
    torch.testing.assert_close(norm(maps), 2 * normed - 1)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gradients_in_bfloat16_are_those_of_float32(depth: int, channels_last: bool) -> None:
    """Freed memory is full of NaN, so that a gradient that is computed from it shows."""
    torch.manual_seed(0)
    layer = ConvNorm(network_plan(), (32, 32), (3, 3, 3))
    weight = layer.get_parameter("0.weight")
    x, weighting = torch.randn(2, 2, 32, depth, 5, 6)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    (expected,) = torch.autograd.grad((layer(x) * weighting).sum(), [weight])
    for _ in range(8):
        for size in (2**power for power in range(6, 19, 2)):
            [torch.full((size,), torch.nan) for _ in range(6)]
        with torch.autocast("cpu", torch.bfloat16):
            loss = (layer(x) * weighting).sum()
        (gradient,) = torch.autograd.grad(loss, [weight])
        assert (gradient - expected).norm() < 0.05 * expected.norm()
