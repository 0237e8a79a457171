from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from autoseg.core.geometry import Shape
from autoseg.infer.merging import Shelter
from autoseg.infer.tiles import (
    Computing,
    Tiling,
    gaussian_weights,
    predict_parts,
    sweep_order,
    tile_starts,
)
from autoseg.network.unet import UNet
from tests.infer.logits import predict_logits
from tests.preprocess.plans import network

CPU = torch.device("cpu")
EXACT = Computing(CPU, "float32", Shelter(CPU))


class Echo(nn.Module):
    """Gives the input and its negative back, with as many axes as it saw."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, -x), dim=1)


class Recorder(Echo):
    """Remembers the shapes that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Shape] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return super().forward(x)


class Ramp(nn.Module):
    """Tells each voxel's place along the last axis of its tile."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(x.shape[-1], dtype=x.dtype).expand(x.shape)


def _tiling(patch_size: Shape, *, mirror: bool = False, batch_size: int = 1) -> Tiling:
    axes = tuple(range(len(patch_size))) if mirror else ()
    return Tiling(patch_size=patch_size, step=0.5, gaussian_sigma=0.125, mirror_axes=axes, batch_size=batch_size)


def _image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _network(num_axes: int = 3, seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(network(num_axes)).eval()


@pytest.mark.parametrize(
    ("size", "patch", "expected"),
    [
        (8, 8, (0,)),
        (9, 8, (0, 1)),
        (12, 8, (0, 4)),
        (13, 8, (0, 2, 5)),
        (20, 8, (0, 4, 8, 12)),
        (7, 7, (0,)),
        (11, 7, (0, 2, 4)),
    ],
)
def test_tiles_are_few_and_even(size: int, patch: int, expected: tuple[int, ...]) -> None:
    assert tile_starts(size, patch, 0.5) == expected


@pytest.mark.parametrize("size", [3, 4, 5, 9])
def test_tiles_of_few_voxels_do_not_fall_together(size: int) -> None:
    assert tile_starts(size, 2, 0.34) == tuple(range(size - 1))


def test_a_tile_must_fit() -> None:
    with pytest.raises(ValueError, match="at least the patch of 8 voxels, got 7"):
        tile_starts(7, 8, 0.5)


def test_weights_peak_in_the_middle_and_never_vanish() -> None:
    weights = gaussian_weights(8, 0.125)
    assert torch.equal(weights, weights.flip(0))
    assert weights.argmax() in (3, 4)
    assert weights[0] == pytest.approx(float(torch.exp(torch.tensor(-0.5 * 3.5**2))), rel=1e-4)
    assert gaussian_weights(8, 0.01).min() > 0


def test_the_weights_of_an_imported_model_peak_where_nnunets_do() -> None:
    """As its filter of a single one at voxel n/2 does, up to rounding and to what it cuts off far away."""
    for size in (8, 9, 40):
        one = np.zeros(size)
        one[size // 2] = 1
        filtered = gaussian_filter(one, size / 8, mode="constant")
        np.testing.assert_allclose(gaussian_weights(size, 1 / 8, "half"), filtered / filtered.max(), rtol=1e-5)
    assert torch.equal(gaussian_weights(9, 1 / 8, "half"), gaussian_weights(9, 1 / 8))


def test_the_peak_of_the_weights_moves_where_tiles_disagree() -> None:
    """The network says where a voxel lies in its tile: in the overlap, the mean of both shows whose weight it is."""
    image = torch.zeros(1, 1, 1, 12)
    image[..., 0] = 1  # or the two tiles would be alike, and seen once
    tiling = replace(_tiling((1, 1, 8)), gaussian_centre="half")
    weights = gaussian_weights(8, 1 / 8, "half")
    (found,) = predict_logits([Ramp()], image, tiling, EXACT)
    own, other = weights[4:], weights[:4]
    expected = (own * torch.arange(4, 8) + other * torch.arange(4)) / (own + other)
    torch.testing.assert_close(found[0, 0], torch.cat([torch.arange(4.0), expected, torch.arange(4.0, 8.0)]))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((20, 33, 17), (8, 16, 8)),
        ((8, 16, 8), (8, 16, 8)),
        ((3, 5, 40), (8, 16, 8)),
        ((1, 1, 1), (8, 16, 8)),
        ((20, 33, 17), (16, 8)),
        ((2, 5, 3), (16, 8)),
    ],
)
def test_an_echo_is_merged_to_the_image(shape: Shape, patch: Shape, batch_size: int, mirror: bool) -> None:
    image = _image(1, *shape)
    logits = predict_logits([Echo()], image, _tiling(patch, mirror=mirror, batch_size=batch_size), EXACT)
    assert torch.allclose(logits, torch.cat((image, -image)), atol=1e-5)


def test_parts_come_as_soon_as_no_tile_can_change_them() -> None:
    recorder = Recorder()
    image = _image(1, 33, 9, 9)
    found, seen = torch.zeros(33, 9), []
    for part in predict_parts([recorder], image, _tiling((8, 8, 8)), EXACT):
        found[part.rows, part.columns] += 1
        seen.append((part.rows.stop, part.columns.stop, len(recorder.seen)))
        assert torch.allclose(part.logits[:1], image[:, part.rows, part.columns], atol=1e-5)
    assert (found == 1).all()
    starts = tile_starts(33, 8, 0.5)
    for last_row, last_column, num_tiles in seen:
        layer = sum(start < last_row for start in starts) - 1
        strip = sum(start < last_column for start in (0, 1)) - 1
        assert num_tiles == 4 * layer + 2 * (strip + 1)


def test_slices_are_seen_in_batches() -> None:
    recorder = Recorder()
    predict_logits([recorder], _image(2, 10, 8, 8), _tiling((8, 8), batch_size=4), EXACT)
    assert recorder.seen == [(4, 2, 8, 8), (4, 2, 8, 8), (2, 2, 8, 8)]


def test_every_mirror_image_is_seen() -> None:
    recorder = Recorder()
    predict_logits([recorder], _image(1, 8, 8, 8), _tiling((8, 8, 8), mirror=True), EXACT)
    assert len(recorder.seen) == 8


@pytest.mark.parametrize(("patch", "forbidden"), [((8, 8, 8), 2), ((8, 8, 8), 0), ((8, 8), 1)])
def test_a_forbidden_axis_is_not_mirrored(patch: Shape, forbidden: int) -> None:
    """Mirroring the scan along the other axes mirrors the logits; along the forbidden one it does not."""
    unet, image = _network(len(patch)), _image(1, 8, 8, 8)
    allowed = tuple(axis for axis in range(len(patch)) if axis != forbidden)
    tiling = replace(_tiling(patch), mirror_axes=allowed)
    straight = predict_logits([unet], image, tiling, EXACT)
    for axis in range(len(patch)):
        along = axis + 4 - len(patch)
        flipped = predict_logits([unet], image.flip(along), tiling, EXACT).flip(along)
        assert torch.allclose(flipped, straight, atol=1e-5) == (axis != forbidden)


@pytest.mark.parametrize(("num_axes", "patch"), [(3, (8, 8, 8)), (2, (8, 8))])
def test_batched_equals_one_by_one(num_axes: int, patch: Shape) -> None:
    unet, image = _network(num_axes), _image(1, 11, 14, 9)
    one = predict_logits([unet], image, _tiling(patch), EXACT)
    many = predict_logits([unet], image, _tiling(patch, batch_size=5), EXACT)
    assert torch.allclose(one, many, atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_mirrored_in_mirrored_out(axis: int) -> None:
    unet, image = _network(), _image(1, 12, 16, 20)
    tiling = _tiling((8, 8, 8), mirror=True)
    straight = predict_logits([unet], image, tiling, EXACT)
    mirrored = predict_logits([unet], image.flip(axis), tiling, EXACT)
    assert torch.allclose(mirrored.flip(axis), straight, atol=1e-5)
    bare = predict_logits([unet], image.flip(axis), _tiling((8, 8, 8)), EXACT)
    assert not torch.allclose(bare.flip(axis), straight, atol=1e-5)


def test_several_networks_give_the_mean_of_their_logits() -> None:
    first, second, image = _network(seed=1), _network(seed=2), _image(1, 12, 9, 8)
    tiling = _tiling((8, 8, 8))
    both = predict_logits([first, second], image, tiling, EXACT)
    apart = [predict_logits([one], image, tiling, EXACT) for one in (first, second)]
    assert torch.allclose(both, (apart[0] + apart[1]) / 2, atol=1e-5)


def test_bfloat16_is_close_and_merged_in_float32() -> None:
    unet, image = _network(), _image(1, 12, 9, 8)
    exact = predict_logits([unet], image, _tiling((8, 8, 8)), EXACT)
    rough = predict_logits([unet], image, _tiling((8, 8, 8)), replace(EXACT, precision="bfloat16"))
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_logits_of_the_cpu() -> None:
    cuda = torch.device("cuda")
    image, tiling = _image(1, 12, 9, 20), _tiling((8, 8, 8), mirror=True, batch_size=4)
    on_cpu = predict_logits([_network()], image, tiling, EXACT)
    on_gpu = predict_logits([_network().to(cuda)], image, tiling, Computing(cuda, "float16", Shelter(cuda)))
    assert on_gpu.device.type == "cuda"
    assert (on_gpu.cpu() - on_cpu).abs().max() < 0.02 * on_cpu.abs().max()


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_a_scan_can_be_swept_along_any_axis(order: tuple[int, int, int], patch: Shape) -> None:
    unet, image = _network(len(patch)), _image(1, 11, 14, 9)
    tiling = _tiling(patch, mirror=True, batch_size=3)
    straight = predict_logits([unet], image, tiling, EXACT)
    swept = torch.empty(3, *(image.shape[1 + axis] for axis in order))
    for part in predict_parts([unet], image, tiling, EXACT, order):
        swept[:, part.rows, part.columns] = part.logits
    assert torch.allclose(swept, straight.permute(0, *(1 + axis for axis in order)), atol=1e-5)


def test_the_least_front_is_swept_where_memory_is_short() -> None:
    tiling = _tiling((8, 8, 8))
    assert sweep_order((12, 40, 20), tiling, 3, None) == (0, 1, 2)
    assert sweep_order((12, 40, 20), tiling, 3, 10**9) == (0, 1, 2)
    assert sweep_order((12, 40, 20), tiling, 3, 1000)[0] == 1
    assert sweep_order((12, 40, 20), _tiling((8, 8)), 3, 1000)[0] == 0


def test_tiles_of_one_value_are_seen_once_and_change_nothing() -> None:
    image = torch.full((2, 33, 9, 9), 0.5)
    image[1] = -2
    image[:, :6] = _image(2, 6, 9, 9)
    recorder = Recorder()
    tiling = _tiling((8, 8, 8), mirror=True, batch_size=3)
    logits = predict_logits([recorder], image, tiling, EXACT)
    assert torch.allclose(logits, torch.cat((image, -image)), atol=1e-5)
    num_varied = sum(start < 6 for start in tile_starts(33, 8, 0.5)) * 4 * 8
    assert sum(shape[0] for shape in recorder.seen) == num_varied + 1


def test_a_constant_scan_gives_the_logits_of_its_tiles() -> None:
    unet = _network()
    tiling = _tiling((8, 8, 8), mirror=True)
    logits = predict_logits([unet], torch.full((1, 8, 8, 8), 0.25), tiling, EXACT)
    with torch.inference_mode():
        tile = unet(torch.full((1, 1, 8, 8, 8), 0.25))[0]
    views = [tile.flip(axes) if axes else tile for axes in [(), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]]
    assert torch.allclose(logits, torch.stack(views).mean(dim=0), atol=1e-5)


def test_the_reported_shares_sum_to_one() -> None:
    shares: list[float] = []
    list(predict_parts([Echo()], _image(1, 20, 9, 9), _tiling((8, 8, 8), batch_size=3), EXACT, report=shares.append))
    assert len(shares) == 6
    assert sum(shares) == pytest.approx(1)
