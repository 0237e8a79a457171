"""`torchrun` and the command line: what two processes train together, one of them killed on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autoseg import pipeline
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.network.unet import UNet
from autoseg.train import trainer
from autoseg.train.loop import TrainingRequest
from autoseg.train.record import TrainingRecord
from tests.end_to_end.blobs import write_blobs, write_tiny_rules

ROOT = Path(__file__).resolve().parent.parent.parent
NUM_EPOCHS, STEPS = 2, 12
KILLED_AFTER = STEPS + 3
REQUEST = TrainingRequest(
    configuration="3d_fullres",
    fold=0,
    num_epochs=NUM_EPOCHS,
    budget_s=None,
    device="cpu",
    seed=0,
    num_workers=0,
    restart=False,
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A planned dataset. AdamW would make steps of what is nothing but rounding."""
    folder = tmp_path_factory.mktemp("torchrun")
    workspace, rules = Workspace(folder / "work"), write_tiny_rules(folder / "rules")
    with (rules / "presets.toml").open("a") as stream:
        stream.write('[cpu.training.optimizer]\nvalue = "sgd"\n[cpu.training.learning_rate]\nvalue = 0.02\n')
    options = pipeline.PlanOptions("cpu", rules)
    data = pipeline.DataOptions(group_by=None, num_folds=3, num_workers=1)
    pipeline.plan(write_blobs(folder / "data", num_cases=3), workspace, data, options, Silent())
    return workspace


@pytest.fixture
def alone(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What one process trains, moved away."""
    monkeypatch.setattr(trainer, "best_precision", lambda device: "float32")
    pipeline.train(workspace, REQUEST, 1, Silent())
    trained = workspace.fold("3d_fullres", 0).root
    return trained.rename(workspace.root / "alone")


def _launched(workspace: Workspace, killed_after: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [
        "-m",
        "tests.end_to_end.launched",
        str(killed_after),
        "train",
        "--fold",
        "0",
        "--epochs",
        str(NUM_EPOCHS),
    ]
    command += ["--device", "cpu", "--workers", "1", "--workspace", str(workspace.root), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)


@pytest.mark.slow
def test_when_one_process_is_killed_all_end_and_the_same_command_goes_on(workspace: Workspace, alone: Path) -> None:
    folder = workspace.fold("3d_fullres", 0)
    broken = _launched(workspace, KILLED_AFTER)
    assert broken.returncode != 0
    assert broken.stdout == ""
    assert broken.stderr.count("Error: torchrun: all processes must live as long as the training") == 1
    assert "the last checkpoint is intact, and the same command goes on from it" in broken.stderr
    assert torch.load(folder.checkpoint, weights_only=True)["step"] == STEPS
    assert not folder.weights.exists()

    done = _launched(workspace, 0)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)
    assert done.stderr.count("3d_fullres, fold 0: 100%") == 1
    record = TrainingRecord.load(folder.record)
    assert (record.num_processes, record.num_steps) == (2, NUM_EPOCHS * STEPS)
    assert record.identity in done.stdout
    assert not folder.checkpoint.exists()

    found, expected = (load_file(root / folder.weights.name) for root in (folder.root, alone))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4)
    torch.manual_seed(REQUEST.seed)
    untrained = UNet(pipeline.load_plan(workspace).configurations["3d_fullres"].network).state_dict()
    assert max(float((weight - untrained[name]).abs().max()) for name, weight in expected.items()) > 0.01
