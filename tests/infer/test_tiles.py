from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoseg.core.geometry import Shape
from autoseg.infer import tiles
from autoseg.infer.tiles import Tiling, gaussian_weights, predict_logits, predict_slabs, tile_starts
from autoseg.network.unet import UNet
from tests.preprocess.plans import network

CPU = torch.device("cpu")


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


def test_a_tile_must_fit() -> None:
    with pytest.raises(ValueError, match="at least the patch of 8 voxels, got 7"):
        tile_starts(7, 8, 0.5)


def test_weights_peak_in_the_middle_and_never_vanish() -> None:
    weights = gaussian_weights(8, 0.125)
    assert torch.equal(weights, weights.flip(0))
    assert weights.argmax() in (3, 4)
    assert weights[0] == pytest.approx(float(torch.exp(torch.tensor(-0.5 * 3.5**2))), rel=1e-4)
    assert gaussian_weights(8, 0.01).min() > 0


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
    logits = predict_logits([Echo()], image, _tiling(patch, mirror=mirror, batch_size=batch_size), CPU, "float32")
    assert torch.allclose(logits, torch.cat((image, -image)), atol=1e-5)


def test_slabs_come_before_the_end_and_make_up_the_whole() -> None:
    recorder = Recorder()
    slabs = predict_slabs([recorder], _image(1, 33, 9, 9), _tiling((8, 8, 8)), CPU, "float32")
    depths, seen = [], []
    for slab in slabs:
        depths.append(slab.shape[1])
        seen.append(len(recorder.seen))
    assert sum(depths) == 33
    assert set(depths[:-1]) == {3, 4}
    assert seen == [4 * layer for layer in range(1, len(tile_starts(33, 8, 0.5)) + 1)]


def test_thick_slabs_are_handed_over_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SLAB_ROWS", 3)
    image = _image(1, 21, 9, 9)
    slabs = list(predict_slabs([Echo()], image, _tiling((16, 8, 8)), CPU, "float32"))
    assert [slab.shape[1] for slab in slabs] == [3, 2, 3, 3, 3, 3, 3, 1]
    assert torch.allclose(torch.cat(slabs, dim=1)[:1], image, atol=1e-5)


def test_slices_are_seen_in_batches() -> None:
    recorder = Recorder()
    predict_logits([recorder], _image(2, 10, 8, 8), _tiling((8, 8), batch_size=4), CPU, "float32")
    assert recorder.seen == [(4, 2, 8, 8), (4, 2, 8, 8), (2, 2, 8, 8)]


def test_every_mirror_image_is_seen() -> None:
    recorder = Recorder()
    predict_logits([recorder], _image(1, 8, 8, 8), _tiling((8, 8, 8), mirror=True), CPU, "float32")
    assert len(recorder.seen) == 8


@pytest.mark.parametrize(("patch", "forbidden"), [((8, 8, 8), 2), ((8, 8, 8), 0), ((8, 8), 1)])
def test_a_forbidden_axis_is_not_mirrored(patch: Shape, forbidden: int) -> None:
    """Mirroring the scan along the other axes mirrors the logits; along the forbidden one it does not."""
    unet, image = _network(len(patch)), _image(1, 8, 8, 8)
    allowed = tuple(axis for axis in range(len(patch)) if axis != forbidden)
    tiling = replace(_tiling(patch), mirror_axes=allowed)
    straight = predict_logits([unet], image, tiling, CPU, "float32")
    for axis in range(len(patch)):
        along = axis + 4 - len(patch)
        flipped = predict_logits([unet], image.flip(along), tiling, CPU, "float32").flip(along)
        assert torch.allclose(flipped, straight, atol=1e-5) == (axis != forbidden)


@pytest.mark.parametrize(("num_axes", "patch"), [(3, (8, 8, 8)), (2, (8, 8))])
def test_batched_equals_one_by_one(num_axes: int, patch: Shape) -> None:
    unet, image = _network(num_axes), _image(1, 11, 14, 9)
    one = predict_logits([unet], image, _tiling(patch), CPU, "float32")
    many = predict_logits([unet], image, _tiling(patch, batch_size=5), CPU, "float32")
    assert torch.allclose(one, many, atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_mirrored_in_mirrored_out(axis: int) -> None:
    unet, image = _network(), _image(1, 12, 16, 20)
    tiling = _tiling((8, 8, 8), mirror=True)
    straight = predict_logits([unet], image, tiling, CPU, "float32")
    mirrored = predict_logits([unet], image.flip(axis), tiling, CPU, "float32")
    assert torch.allclose(mirrored.flip(axis), straight, atol=1e-5)
    bare = predict_logits([unet], image.flip(axis), _tiling((8, 8, 8)), CPU, "float32")
    assert not torch.allclose(bare.flip(axis), straight, atol=1e-5)


def test_several_networks_give_the_mean_of_their_logits() -> None:
    first, second, image = _network(seed=1), _network(seed=2), _image(1, 12, 9, 8)
    tiling = _tiling((8, 8, 8))
    both = predict_logits([first, second], image, tiling, CPU, "float32")
    apart = [predict_logits([one], image, tiling, CPU, "float32") for one in (first, second)]
    assert torch.allclose(both, (apart[0] + apart[1]) / 2, atol=1e-5)


def test_bfloat16_is_close_and_merged_in_float32() -> None:
    unet, image = _network(), _image(1, 12, 9, 8)
    exact = predict_logits([unet], image, _tiling((8, 8, 8)), CPU, "float32")
    rough = predict_logits([unet], image, _tiling((8, 8, 8)), CPU, "bfloat16")
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_logits_of_the_cpu() -> None:
    cuda = torch.device("cuda")
    image, tiling = _image(1, 12, 9, 20), _tiling((8, 8, 8), mirror=True, batch_size=4)
    on_cpu = predict_logits([_network()], image, tiling, CPU, "float32")
    on_gpu = predict_logits([_network().to(cuda)], image, tiling, cuda, "float16")
    assert on_gpu.device.type == "cuda"
    assert (on_gpu.cpu() - on_cpu).abs().max() < 0.02 * on_cpu.abs().max()
