"""`autoseg pack`, `autoseg info` and `autoseg predict --model`."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from autoseg.data.image import read_label
from tests.cli.commands import run_command
from tests.pipeline.packing.packable import LICENCE, packable, write_scan


def test_a_model_is_packed_shown_and_used_where_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    packable(here / "autoseg_work")
    scan = write_scan(there / "scan.nii.gz")
    monkeypatch.chdir(here)
    code, out, err = run_command(monkeypatch, capsys, "pack", "model.zip", "--licence", "MIT")
    assert code == 0, err
    assert "phantom: 2d + 3d_fullres, folds 0, 1" in out
    assert "Next: autoseg predict --model model.zip SCANS OUT" in out
    code, out, err = run_command(monkeypatch, capsys, "predict", scan, "mask.nii.gz", "--device", "cpu")
    assert code == 0, err
    shutil.move("model.zip", there / "model.zip")
    monkeypatch.chdir(there)
    code, out, err = run_command(monkeypatch, capsys, "info", "model.zip")
    assert code == 0, err
    for words in (
        "Channels: scan (as they are)",
        "5 lesion 50% 0.2 ml",
        "Training data: 2 scans",
        "mean of classes 0.625 0.250 to 1.000",
        "Postprocessing: organ: keep the largest component, +0.1250 on cases without a part in it",
        "Licence: MIT. Given by whoever packed the model.",
        "Next: autoseg predict --model model.zip SCANS OUT",
    ):
        assert words in " ".join(out.split())
    code, out, err = run_command(
        monkeypatch, capsys, "predict", "--model", "model.zip", "scan.nii.gz", "out", "--device", "cpu"
    )
    assert code == 0, err
    assert "1 of 1 scans segmented" in out
    assert sorted(path.name for path in there.iterdir()) == ["model.zip", "out", "scan.nii.gz"]
    np.testing.assert_array_equal(
        read_label(there / "out" / "scan.nii.gz").array, read_label(here / "mask.nii.gz").array
    )


def test_json_and_workspaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    packable(tmp_path / "autoseg_work")
    code, out, err = run_command(monkeypatch, capsys, "pack", "--configuration", "2d", "--folds", "1", "--json")
    assert code == 0, err
    packed = json.loads(out)
    assert packed["file"] == "autoseg_work/phantom.zip"
    assert (packed["configurations"], packed["folds"]) == (["2d"], [1])
    assert packed["licence"] == {"text": LICENCE, "source": "dataset"}
    written = sha256(Path("autoseg_work/phantom.zip").read_bytes()).hexdigest()
    code, out, err = run_command(monkeypatch, capsys, "info", "autoseg_work/phantom.zip", "--json")
    assert code == 0, err
    assert json.loads(out) == packed
    assert packed["sha256"] == written
    code, out, err = run_command(monkeypatch, capsys, "info", "--json")
    assert code == 0, err
    assert json.loads(out)["configurations"] == ["2d", "3d_fullres"]
    code, out, err = run_command(monkeypatch, capsys, "info")
    assert "Next: autoseg predict --workspace autoseg_work SCANS OUT" in out


def test_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run_command(monkeypatch, capsys, "predict", "a", "b", "--model", "m.zip", "--workspace", "w")
    assert code == 2
    assert "--model, --workspace: one of them must be chosen, got both" in err
    (tmp_path / "there.zip").write_bytes(b"")
    code, _, err = run_command(monkeypatch, capsys, "predict", "a", "b", "--workspace", "there.zip")
    assert code == 2
    assert "got a file; name packed models with --model there.zip" in err
    code, _, err = run_command(monkeypatch, capsys, "info", "m.zip")
    assert code == 1
    assert "m.zip: must be a model that autoseg pack wrote, found no file. Check the path." in err
    code, _, err = run_command(monkeypatch, capsys, "predict", "a", "b", "--model", "m.zip")
    assert code == 1
    assert "found no file" in err
