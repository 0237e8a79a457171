import pytest
import torch

from autoseg.core.errors import AutosegError
from autoseg.network.device import Precision, best_precision, choose_device, mixed_precision


def test_the_processor_is_always_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two CUDA devices, as far as torch tells: what would lie there lies nowhere."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "zeros", _on_a_fake_gpu)


class _OnFakeGpu:
    def __init__(self, device: torch.device) -> None:
        self.device = device

    def item(self) -> float:
        return 0.0


def _on_a_fake_gpu(size: int, device: str) -> _OnFakeGpu:
    named = torch.device(device)
    return _OnFakeGpu(torch.device(named.type, named.index or 0))


@pytest.mark.parametrize(("name", "number"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_gpus_are_counted(two_gpus: None, name: str, number: int) -> None:
    assert choose_device(name) == torch.device("cuda", number)


def test_a_gpu_too_many_is_refused_with_their_number(two_gpus: None) -> None:
    with pytest.raises(AutosegError, match="--device cuda:2: must be a device of this machine, got: 2 CUDA devices"):
        choose_device("cuda:2")


def test_a_gpu_that_cannot_be_used_says_why(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int, device: str) -> None:
        raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA to enable assertions.")

    monkeypatch.setattr(torch, "zeros", refuse)
    for name in ("auto", "cuda"):
        with pytest.raises(AutosegError, match=r"^--device cuda: .*, got: CUDA error: out of memory\. Use --device"):
            choose_device(name)


def test_without_a_gpu_auto_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:", "cpu:-1", "meta", "xpu", "hip", "privateuseone"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(AutosegError, match=f"--device {name}: must be a device of this machine, got: a name unlike"):
        choose_device(name)


@pytest.mark.parametrize(
    ("name", "reason"), [("cuda", "no CUDA device"), ("cuda:1", "no CUDA device"), ("mps", "no MPS device")]
)
def test_what_this_machine_lacks_is_named(monkeypatch: pytest.MonkeyPatch, name: str, reason: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(AutosegError) as raised:
        choose_device(name)
    assert str(raised.value) == (
        f"--device {name}: must be a device of this machine, got: {reason}. Use --device auto, or cpu."
    )


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


def test_single_precision_keeps_all_digits_on_a_gpu() -> None:
    assert torch.backends.cudnn.allow_tf32
    with mixed_precision(torch.device("cuda"), "float32"):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32
