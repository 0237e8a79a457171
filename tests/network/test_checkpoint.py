import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autoseg.core.errors import ArtefactError
from autoseg.network.checkpoint import load_network, save_weights
from autoseg.network.unet import UNet
from tests.network.plans import FLAT, network_plan


@pytest.mark.parametrize("change", [{}, FLAT, {"kind": "residual"}])
def test_a_saved_network_computes_the_same(tmp_path: Path, change: dict[str, object]) -> None:
    plan = network_plan(**change)
    network = UNet(plan).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    save_weights(network.state_dict(), tmp_path / "weights.safetensors")
    loaded = load_network(tmp_path / "weights.safetensors", plan)
    patches = torch.randn(1, plan.num_input_channels, *(8,) * plan.num_axes)
    with torch.no_grad():
        assert torch.equal(loaded(patches), network(patches))
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())


LOAD = """
import sys
from pathlib import Path
from autoseg.network.checkpoint import load_network
from autoseg.pipeline.prediction import predict
from tests.network.plans import network_plan

load_network(Path(sys.argv[1]), network_plan())
print(*sorted({"torch._dynamo", "pandas", "matplotlib"} & sys.modules.keys()))
"""
"""Loads what a prediction does."""


@pytest.mark.slow
def test_what_prediction_can_do_without_is_not_imported(tmp_path: Path) -> None:
    """torch's compiler takes a second to import, and came with the first random weight of a network without values."""
    save_weights(UNet(network_plan()).state_dict(), tmp_path / "weights.safetensors")
    command = [sys.executable, "-c", LOAD, str(tmp_path / "weights.safetensors")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


def test_weights_hold_no_code(tmp_path: Path) -> None:
    save_weights(UNet(network_plan()).state_dict(), tmp_path / "weights.safetensors")
    header = (tmp_path / "weights.safetensors").read_bytes()[8:]
    assert header.startswith(b'{"')
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": (4, 6)}, r"must have shape .* by the plan, got"),
        ({"kind": "residual"}, r"encoder\.0\.0\.0\.bias must have shape None by the plan, got \(4,\)"),
        ({"encoder_blocks": (2, 1)}, r"encoder\.0\.1\.0\.bias must have shape \(4,\) by the plan, got None"),
        ({"num_outputs": 4}, r"outputs\.0\.bias must have shape \(4,\) by the plan, got \(3,\)"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    save_weights(UNet(network_plan()).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ArtefactError, match=message):
        load_network(tmp_path / "weights.safetensors", network_plan(**change))


def test_weights_of_a_larger_network_are_refused(tmp_path: Path) -> None:
    save_weights(UNet(network_plan(encoder_blocks=(2, 1))).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ArtefactError, match=r"must have shape None by the plan, got \(4,\)"):
        load_network(tmp_path / "weights.safetensors", network_plan())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"weights\.safetensors: weights must be there, found no file"):
        load_network(tmp_path / "weights.safetensors", network_plan())


@pytest.mark.parametrize("num_bytes", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, num_bytes: int) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(UNet(network_plan()).state_dict(), path)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ArtefactError, match="must be a safetensors file"):
        load_network(path, network_plan())
