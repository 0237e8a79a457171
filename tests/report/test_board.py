import sys
from pathlib import Path

import pytest

from autoseg.core.errors import AutosegError
from autoseg.core.workspace import Workspace
from autoseg.report.board import Board, board_folder

pytest.importorskip("tensorboard")
COLUMNS = "epoch,steps,training_loss,validation_loss,dice,dice_left organ,learning_rate"


def _write(workspace: Workspace, fold: int, num_epochs: int) -> None:
    rows = [f"{epoch},{4 * epoch},{epoch / 10},0.6,0.7,,0.01" for epoch in range(1, num_epochs + 1)]
    history = workspace.fold("3d_fullres", fold).history
    history.parent.mkdir(parents=True, exist_ok=True)
    history.write_text("\n".join([COLUMNS, *rows]) + "\n")


def _scalars(workspace: Workspace, fold: int, tag: str) -> list[tuple[int, object]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(board_folder(workspace) / f"3d_fullres_fold_{fold}"))
    events.Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]


def test_each_epoch_becomes_a_row_of_scalars(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    board = Board(workspace)
    for num_epochs in (1, 2):
        _write(workspace, 0, num_epochs)
        board.after_epoch("3d_fullres", 0)
    board.close()
    assert _scalars(workspace, 0, "loss/training") == [(1, 0.1), (2, 0.2)]
    assert _scalars(workspace, 0, "dice/mean") == [(1, 0.7), (2, 0.7)]
    assert [epoch for epoch, _ in _scalars(workspace, 0, "dice/left organ")] == [1, 2]
    assert _scalars(workspace, 0, "learning_rate") == [(1, 0.01), (2, 0.01)]


def test_a_training_that_goes_on_shows_its_whole_history_once(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for num_epochs in (2, 3):
        _write(workspace, 0, num_epochs)
        board = Board(workspace)
        board.after_epoch("3d_fullres", 0)
        board.close()
    assert _scalars(workspace, 0, "loss/training") == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_each_fold_has_its_own_scalars(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    board = Board(workspace)
    for fold in (0, 1):
        _write(workspace, fold, fold + 1)
        board.after_epoch("3d_fullres", fold)
    board.close()
    assert [len(_scalars(workspace, fold, "dice/mean")) for fold in (0, 1)] == [1, 2]


def test_what_cannot_be_written_does_not_end_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workspace = Workspace(tmp_path)
    _write(workspace, 0, 1)
    workspace.report.write_text("not a folder")
    board = Board(workspace)
    with caplog.at_level("WARNING", logger="autoseg"):
        board.after_epoch("3d_fullres", 0)
    assert "could not be written, got: " in caplog.text
    assert "The training goes on." in caplog.text
    workspace.report.unlink()
    board.after_epoch("3d_fullres", 0)
    board.close()
    assert _scalars(workspace, 0, "loss/training") == [(1, 0.1)]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(AutosegError, match=r"--tensorboard: .*must be installed, found none.*pip install tensorboard"):
        Board(Workspace(tmp_path))
