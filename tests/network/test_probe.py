import time

import pytest
import torch

from autoseg.core.errors import PlanError
from autoseg.network.probe import _fastest_s, _warn_of_others, free_gpu_memory_gb, probe_device
from autoseg.plan.duration import Layer

LAYERS = (
    Layer(channels=8, kernel=(3, 3, 3), shape=(1, 8, 8, 8)),
    Layer(channels=16, kernel=(1, 3, 3), shape=(2, 4, 8, 8)),
    Layer(channels=8, kernel=(3, 3), shape=(2, 16, 16)),
)


def test_every_layer_is_timed_once() -> None:
    began = time.perf_counter()
    speed = probe_device(torch.device("cpu"), (*LAYERS, *LAYERS), 10_000)
    spent = time.perf_counter() - began
    assert tuple(found.layer for found in speed.layers) == LAYERS
    assert all(0 < found.prediction_s < spent and 0 < found.training_s < spent for found in speed.layers)
    assert 0 < speed.norm_prediction_s < speed.norm_training_s < spent
    assert speed.number_bytes == (4 if speed.precision == "float32" else 2)


def test_a_larger_layer_takes_longer() -> None:
    small, large = (
        probe_device(torch.device("cpu"), [Layer(channels=16, kernel=(3, 3), shape=(1, edge, edge))], 1000).layers[0]
        for edge in (8, 128)
    )
    assert large.training_s > small.training_s
    assert large.prediction_s > small.prediction_s


def test_a_measurement_is_taken_again_until_it_is_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([50.0, 9.0, 5.0, 3.0, 2.99, 3.5, 3.0, 4.0, 3.0])
    now = 0.0

    def work() -> None:
        nonlocal now
        now += next(durations)

    monkeypatch.setattr("autoseg.network.probe.time.perf_counter", lambda: now)
    assert _fastest_s(work, torch.device("cpu")) == pytest.approx(2.99)
    assert next(durations, None) is None


@pytest.mark.parametrize(("share", "is_told"), [(0.59, True), (0.61, False)])
def test_other_work_on_the_processor_is_told(share: float, is_told: bool, caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_others(passed_s=2.0, worked_s=2.0 * share * torch.get_num_threads())
    assert ("only 59 % of it was left" in caplog.text) == is_told


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_memory_cannot_be_read_without_a_gpu() -> None:
    with pytest.raises(PlanError, match="--gpu-memory auto: a GPU must be there"):
        free_gpu_memory_gb()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_is_read_from_the_gpu() -> None:
    assert 0 < free_gpu_memory_gb() <= torch.cuda.get_device_properties(0).total_memory / 2**30
