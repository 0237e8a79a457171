"""Trainings that make room for others, and come back."""

from pathlib import Path

import pytest
import torch

from autoseg.core.workspace import FoldFolder
from autoseg.train.keeping import make_room, set_aside
from autoseg.train.record import TrainingRecord

FILES = {"weights.safetensors", "history.csv"}


def _begun(folder: FoldFolder, identity: str) -> None:
    """Leave what a training leaves that was broken off."""
    folder.root.mkdir(parents=True, exist_ok=True)
    torch.save({"identity": identity}, folder.checkpoint)
    folder.history.write_text(f"epoch\n{identity}\n")


def _finished(folder: FoldFolder, identity: str) -> None:
    """Leave what a training leaves that is over."""
    folder.root.mkdir(parents=True, exist_ok=True)
    record = TrainingRecord(
        configuration="2d",
        fold=0,
        identity=identity,
        num_epochs=1,
        num_steps=1,
        seed=0,
        seconds=1.0,
        device="cpu",
        precision="float32",
        versions={},
        validation_dice={},
    )
    record.save(folder.record)
    folder.weights.write_text(identity)
    folder.history.write_text(f"epoch\n{identity}\n")


def _names(folder: FoldFolder) -> set[str]:
    return {path.name for path in folder.root.iterdir()} if folder.root.exists() else set()


@pytest.fixture
def folder(tmp_path: Path) -> FoldFolder:
    return FoldFolder(tmp_path / "2d" / "fold_0")


def test_the_training_that_is_asked_for_stays(folder: FoldFolder) -> None:
    make_room(folder, "a")
    assert _names(folder) == set()
    _finished(folder, "a")
    make_room(folder, "a")
    assert _names(folder) == {*FILES, "training.json"}
    assert not folder.aside("a").root.exists()


def test_a_finished_one_is_kept_and_comes_back(folder: FoldFolder) -> None:
    _finished(folder, "a")
    make_room(folder, "b")
    assert _names(folder) == set()
    assert _names(folder.aside("a")) == {*FILES, "training.json"}
    _finished(folder, "b")
    make_room(folder, "a")
    assert folder.weights.read_text() == "a"
    assert TrainingRecord.load(folder.record).identity == "a"
    assert _names(folder.aside("b")) == {*FILES, "training.json"}


def test_one_that_was_broken_off_is_kept_and_comes_back(folder: FoldFolder) -> None:
    _begun(folder, "a")
    make_room(folder, "b")
    assert _names(folder) == set()
    _finished(folder, "b")
    make_room(folder, "a")
    assert _names(folder) == {"last.checkpoint", "history.csv"}


def test_a_damaged_checkpoint_is_left_to_who_goes_on_with_it(folder: FoldFolder) -> None:
    folder.root.mkdir(parents=True)
    folder.checkpoint.write_bytes(b"no checkpoint")
    make_room(folder, "b")
    assert _names(folder) == {"last.checkpoint"}


def test_a_fold_that_there_is_no_longer_comes_back_with_it(folder: FoldFolder) -> None:
    set_aside(folder)
    _finished(folder, "a")
    set_aside(folder)
    assert _names(folder) == set()
    assert _names(folder.aside("a")) == {*FILES, "training.json"}
    make_room(folder, "a")
    assert _names(folder) == {*FILES, "training.json"}
