import logging
import os
import time
from pathlib import Path

import pytest

from autoseg.core.errors import ArtefactError
from autoseg.core.workspace import Workspace
from autoseg.report import live
from autoseg.report.live import LiveCurves, curves_path

HISTORY = "epoch,training_loss,validation_loss,dice,dice_organ,learning_rate\n1,0.5,0.6,0.7,0.7,0.01\n"


class Drawing:
    """Stands in for the drawing and the clock: notes when it draws, and takes its time."""

    def __init__(self, takes_s: float) -> None:
        self.now, self.takes_s = 1000.0, takes_s
        self.drawn: list[float] = []

    def write_curves(self, path: Path, history: Path) -> None:
        self.drawn.append(self.now)
        self.now += self.takes_s


@pytest.mark.parametrize(("takes_s", "wait_s"), [(0.1, 30.0), (2.0, 200.0)])
def test_curves_are_drawn_at_once_and_then_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_s: float, wait_s: float
) -> None:
    drawing = Drawing(takes_s)
    monkeypatch.setattr(live, "write_curves", drawing.write_curves)
    monkeypatch.setattr(time, "monotonic", lambda: drawing.now)
    curves = LiveCurves(Workspace(tmp_path))
    curves.after_epoch("3d_fullres", 0)
    assert drawing.drawn == [1000.0]
    for waited_s, num_drawn in ((wait_s - 0.01, 1), (0.02, 2)):
        drawing.now += waited_s
        curves.after_epoch("3d_fullres", 0)
        assert len(drawing.drawn) == num_drawn


def test_the_picture_lies_in_the_report(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    history = workspace.fold("2d", 3).history
    history.parent.mkdir(parents=True)
    history.write_text(HISTORY)
    LiveCurves(workspace).after_epoch("2d", 3)
    assert curves_path(workspace, "2d", 3).read_bytes().startswith(b"\x89PNG")
    assert curves_path(workspace, "2d", 3).parent == workspace.report


@pytest.mark.parametrize("error", [OSError(28, os.strerror(28)), ArtefactError("history.csv: broken")])
def test_a_picture_that_cannot_be_drawn_is_only_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def refuse(path: Path, history: Path) -> None:
        raise error

    monkeypatch.setattr(logging.getLogger("autoseg"), "propagate", True)
    monkeypatch.setattr(live, "write_curves", refuse)
    LiveCurves(Workspace(tmp_path)).after_epoch("3d_fullres", 0)
    assert "The training goes on" in caplog.text
    assert str(error) in caplog.text
