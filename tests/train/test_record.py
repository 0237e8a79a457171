import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autoseg.core.errors import TrainingError
from autoseg.core.workspace import FoldFolder
from autoseg.train.record import Begun, TrainingState, begun_in, load_state, save_state

STATE = TrainingState(
    identity="identity",
    epoch=2,
    step=8,
    spent_s=1.5,
    history=[{"epoch": 1, "dice": float("nan")}, {"epoch": 2, "dice": 0.1 + 0.2}],
    tensors={"network": {"weight": torch.arange(3.0)}},
)


def test_a_state_is_read_back(tmp_path: Path) -> None:
    folder = FoldFolder(tmp_path)
    save_state(STATE, folder)
    state = load_state("identity", folder)
    assert (state.epoch, state.step, state.spent_s) == (2, 8, 1.5)
    assert state.history[1] == STATE.history[1]
    assert torch.equal(state.tensors["network"]["weight"], torch.arange(3.0))
    with folder.history.open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [{"epoch": "1", "dice": ""}, {"epoch": "2", "dice": "0.3"}]


def test_it_says_which_training_it_is_of(tmp_path: Path) -> None:
    folder = FoldFolder(tmp_path)
    assert begun_in(folder) is None
    save_state(replace(STATE, recipe="recipe"), folder)
    assert begun_in(folder) == Begun("identity", "recipe")
    assert load_state("identity", folder).recipe == "recipe"
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:500])
    assert begun_in(folder) is None


def test_nothing_there_is_the_beginning(tmp_path: Path) -> None:
    state = load_state("identity", FoldFolder(tmp_path))
    assert (state.epoch, state.step, state.history, state.tensors) == (0, 0, [], {})


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    save_state(STATE, FoldFolder(tmp_path))
    with pytest.raises(TrainingError, match="continued with the plan, split, cases, seed, length and initial weights"):
        load_state("another", FoldFolder(tmp_path))


@pytest.mark.parametrize("num_bytes", [0, 10, 500, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, num_bytes: int) -> None:
    folder = FoldFolder(tmp_path)
    save_state(STATE, folder)
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:num_bytes])
    with pytest.raises(TrainingError, match=r"last\.checkpoint: must be a checkpoint, got"):
        load_state("identity", folder)


@pytest.mark.parametrize("content", [b"not a checkpoint", b"\x80\x02.", bytes(1000)])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = FoldFolder(tmp_path)
    folder.checkpoint.write_bytes(content)
    with pytest.raises(TrainingError, match=r"last\.checkpoint: must be a checkpoint, got"):
        load_state("identity", folder)


def test_a_checkpoint_with_code_is_not_run(tmp_path: Path) -> None:
    folder = FoldFolder(tmp_path)
    torch.save({"identity": Path("code")}, folder.checkpoint)
    with pytest.raises(TrainingError, match="must be a checkpoint"):
        load_state("identity", folder)


def test_a_document_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = FoldFolder(tmp_path)
    torch.save({"weight": torch.zeros(3)}, folder.checkpoint)
    with pytest.raises(TrainingError, match="must be a checkpoint"):
        load_state("identity", folder)
