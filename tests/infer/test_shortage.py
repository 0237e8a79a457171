"""Memory that does not suffice: the scan is done in smaller steps, to the same result, and the log says how."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoseg.core.errors import PredictionError
from autoseg.core.geometry import Geometry
from autoseg.data.image import Image
from autoseg.infer import merging
from autoseg.infer.case import Model, Settings, leaner_settings, segment
from autoseg.infer.shortage import copies_on_cpu
from autoseg.network.unet import UNet
from autoseg.preprocess.case import prepare_image
from tests.preprocess.plans import configuration, network, plan

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SETTINGS = Settings(device=CPU, precision="float32", mirror=True, batch_size=8)
NO_MORE = RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried to ...")


class Hungry(nn.Module):
    """Needs more memory than there is for more than so many tiles at once."""

    def __init__(self, most_tiles: int, error: Exception) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.unet = UNet(network()).eval()
        self.most_tiles = most_tiles
        self.error = error
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.most_tiles:
            raise self.error
        found: Tensor = self.unet(x)
        return found


def _image() -> Image:
    return Image(np.random.default_rng(0).normal(0, 1, (1, 30, 14, 13)).astype(np.float32), Geometry(spacing=(1, 1, 1)))


def _segment(
    network_used: nn.Module, settings: Settings, report: Callable[[float], None] = lambda _: None
) -> np.ndarray:
    model = Model(plan(), configuration(), (network_used,))
    return segment(prepare_image(_image(), model.plan, model.configuration, "la_1"), model, settings, report).array


@pytest.mark.parametrize("error", [MemoryError(), NO_MORE, torch.OutOfMemoryError("CUDA out of memory.")])
def test_fewer_tiles_at_once_give_the_same(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    expected = _segment(Hungry(1, error), replace(SETTINGS, batch_size=1))
    caplog.clear()
    hungry, shares = Hungry(2, error), list[float]()
    with caplog.at_level("WARNING", logger="autoseg"):
        assert np.array_equal(_segment(hungry, SETTINGS, shares.append), expected)
    assert hungry.seen[:2] == [8, 4]
    assert set(hungry.seen[2:]) <= {1, 2}
    assert [record.message.split("Continues ")[1] for record in caplog.records] == [
        "with 4 tiles at once.",
        "with 2 tiles at once.",
    ]
    assert "la_1: memory must suffice, got: " in caplog.text
    assert sum(shares) == pytest.approx(1)


def test_waiting_tiles_go_to_disk_and_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """More cells than those of one tile cannot be had; the sums of those that wait are on disk."""
    settings = replace(SETTINGS, batch_size=1, scratch=tmp_path)
    expected = _segment(Hungry(1, MemoryError()), settings)
    most: list[int] = []

    def few_cells(front: merging.Front, keys: set[tuple[int, int]], num_classes: int) -> None:
        fetch(front, keys, num_classes)
        most.append(len(front.sums))
        if len(front.sums) > 12:
            raise MemoryError

    fetch = merging.Front._fetch
    monkeypatch.setattr(merging.Front, "_fetch", few_cells)
    with caplog.at_level("WARNING", logger="autoseg"):
        assert np.array_equal(_segment(Hungry(1, MemoryError()), settings), expected)
    assert caplog.messages == ["la_1: memory must suffice, got: MemoryError. Continues with waiting tiles on disk."]
    assert max(most) > 12
    assert not list(tmp_path.iterdir())


def test_no_memory_for_a_single_tile_is_an_error() -> None:
    with pytest.raises(PredictionError, match=r"la_1: memory must suffice for one tile .*, got: \[enforce fail .* End"):
        _segment(Hungry(0, NO_MORE), SETTINGS)


def test_other_errors_are_not_taken_for_shortage() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        _segment(Hungry(0, RuntimeError("shapes differ")), SETTINGS)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_gpu_gives_up_little_by_little(error: Exception) -> None:
    """Batch, then merging, then the device; what does not help against the kind of shortage is left out."""
    settings = Settings(CUDA, "float16", mirror=True, batch_size=3)
    said = []
    while settings.device == CUDA:
        settings, how = leaner_settings(settings, error, "la_1")
        said.append(how.split(" in bfloat16")[0].split(" in float32")[0])
    assert said == ["with 1 tiles at once", "with tiles merged in the machine's memory", "on the CPU"]
    assert settings.precision in ("bfloat16", "float32")
    settings, how = leaner_settings(Settings(CUDA, "float16", mirror=True, batch_size=1), MemoryError(), "la_1")
    assert (settings.device, how) == (CUDA, "with waiting tiles on disk")


def test_copies_share_nothing_and_give_the_same() -> None:
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)).eval()
    (copied,) = copies_on_cpu((original,))
    x = torch.randn(1, 1, 5, 5, 5)
    assert torch.equal(copied(x), original(x))
    for parameter in original.parameters():
        parameter.data.zero_()
    assert not torch.equal(copied(x), original(x))
    assert not copied.training


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_full_gpu_is_left_for_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    unet = UNet(network()).eval()
    expected = _segment(unet, replace(SETTINGS, batch_size=1))
    unet.to(CUDA)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with caplog.at_level("WARNING", logger="autoseg"):
            found = _segment(unet, replace(SETTINGS, device=CUDA))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "Continues on the CPU in float32" in caplog.text
    assert (found != expected).mean() < 1e-3
    assert next(unet.parameters()).device.type == "cuda"
