import pytest
import torch

from autoseg.core.errors import AutosegError
from autoseg.network.device import Precision, best_precision, choose_device, mixed_precision


def test_the_processor_is_always_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("available", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, available: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device("auto").type == expected


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:99", "meta"])
def test_what_is_no_device_here_is_refused(name: str) -> None:
    with pytest.raises(AutosegError, match=f"--device {name}: must be a device of this machine, got: .+ Use --device"):
        choose_device(name)


def test_precision_of_a_gpu_is_half() -> None:
    assert best_precision(torch.device("cuda")) == "float16"


@pytest.mark.parametrize(
    ("bf16", "amx", "expected"),
    [(True, False, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")],
)
def test_precision_of_a_processor(monkeypatch: pytest.MonkeyPatch, bf16: bool, amx: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert best_precision(torch.device("cpu")) == expected


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_convolutions_compute_in_the_precision(precision: Precision, dtype: torch.dtype) -> None:
    convolution, patches = torch.nn.Conv2d(1, 1, 1), torch.ones(1, 1, 4, 4)
    with mixed_precision(torch.device("cpu"), precision):
        assert convolution(patches).dtype == dtype
    assert convolution(patches).dtype == torch.float32
