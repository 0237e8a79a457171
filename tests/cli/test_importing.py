import json
import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli import main
from autoseg.core.geometry import Geometry
from autoseg.data.image import LabelImage, read_label, write_label
from tests.interop.nnunet_networks import configuration, plans, write_model


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    monkeypatch.setattr(sys, "argv", ["autoseg", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_an_imported_model_predicts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres")
    workspace, scan, output = tmp_path / "workspace", tmp_path / "scan.nii.gz", tmp_path / "label.nii.gz"
    voxels = np.random.default_rng(0).integers(1, 100, (12, 9, 21)).astype(np.uint8)
    write_label(scan, LabelImage(voxels, Geometry(spacing=(1.0, 4.0, 1.25))))

    assert _run(monkeypatch, "import-nnunet", tmp_path / "model", "--workspace", workspace) == 0
    assert f"Next: autoseg predict SCANS OUT --workspace {workspace}" in " ".join(capsys.readouterr().out.split())
    assert _run(monkeypatch, "predict", scan, output, "--workspace", workspace) == 0

    assert read_label(output).array.shape == voxels.shape


def test_an_import_tells_machines_what_it_did(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres", folds=(0, 1))
    assert _run(monkeypatch, "import-nnunet", tmp_path / "model", "--workspace", tmp_path / "workspace", "--json") == 0
    (model,) = json.loads(capsys.readouterr().out)
    assert (model["configuration"], model["folds"]) == ("3d_fullres", [0, 1])


def test_a_model_that_cannot_be_used_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert _run(monkeypatch, "import-nnunet", tmp_path, "--workspace", tmp_path / "workspace") == 1
    assert capsys.readouterr().err.startswith(f"Error: {tmp_path}: a folder or archive of a trained nnU-Net v2 model")
