"""The main job on small scans: every stage, resumed, repeated, and broken in several ways."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg import pipeline
from autoseg.core.errors import DatasetError, TrainingError
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.train.loop import TrainingRequest
from tests.end_to_end.blobs import LARGE, SMALL, write_blobs, write_tiny_rules


def request_for(folder: Path, source: Path, **changed: object) -> pipeline.RunRequest:
    """Return a run of one fold in a few seconds."""
    values: dict[str, object] = {
        "source": source,
        "data": pipeline.DataOptions(group_by=r"(pat\d+)_", num_folds=3, num_workers=1),
        "planning": pipeline.PlanOptions(preset="cpu", rules=write_tiny_rules(folder / "rules")),
        "configurations": None,
        "folds": (0,),
        "num_epochs": 20,
        "budget_s": None,
        "device": "cpu",
        "seed": 1,
    }
    return pipeline.RunRequest(**{**values, **changed})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, pipeline.RunRequest, pipeline.RunResult]:
    """A run of one fold."""
    folder = tmp_path_factory.mktemp("run")
    workspace = Workspace(folder / "work")
    request = request_for(folder, write_blobs(folder / "data"))
    return workspace, request, pipeline.run(workspace, request, Silent())


Finished = tuple[Workspace, pipeline.RunRequest, pipeline.RunResult]


@pytest.mark.slow
def test_a_run_learns_the_held_out_cases(finished: Finished) -> None:
    workspace, _, result = finished
    assert {case.name for case in result.evaluation.cases} == _held_out(workspace, 0)
    assert result.evaluation.per_class["large"].dice.mean is not None
    assert result.evaluation.per_class["large"].dice.mean > 0.8
    assert result.evaluation.mean_foreground_dice is not None
    assert result.evaluation.mean_foreground_dice > 0.75


@pytest.mark.slow
def test_patients_stay_together(finished: Finished) -> None:
    workspace, _, _ = finished
    for split in json.loads(workspace.splits.read_text())["folds"]:
        assert not {name[:4] for name in split["train"]} & {name[:4] for name in split["validation"]}


@pytest.mark.slow
def test_the_same_run_again_changes_nothing(finished: Finished) -> None:
    workspace, request, result = finished
    before = _files_and_times(workspace)
    again = pipeline.run(workspace, request, Silent())
    assert again.evaluation == result.evaluation
    after = _files_and_times(workspace)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {"run.json"}


@pytest.mark.slow
def test_predictions_lie_on_the_original_grid_with_the_original_values(finished: Finished, tmp_path: Path) -> None:
    workspace, request, _ = finished
    name = min(_held_out(workspace, 0))
    image = request.source / "images" / f"{name}.nii.gz"
    output = tmp_path / "mask.nii.gz"
    model = pipeline.ModelChoice("3d_fullres", None, "cpu", mirror=False)
    (outcome,) = pipeline.predict(workspace, model, pipeline.Request(image, output), Silent()).cases
    assert outcome.error is None
    scan, mask = sitk.ReadImage(str(image)), sitk.ReadImage(str(output))
    assert mask.GetSize() == scan.GetSize()
    np.testing.assert_allclose(mask.GetSpacing(), scan.GetSpacing(), rtol=1e-5)
    np.testing.assert_allclose(mask.GetOrigin(), scan.GetOrigin(), atol=1e-4)
    assert mask.GetDirection() == scan.GetDirection()
    assert mask.GetPixelID() == sitk.sitkUInt8
    assert set(np.unique(sitk.GetArrayFromImage(mask))) == {0, LARGE, SMALL}


@pytest.mark.slow
def test_one_bad_scan_does_not_stop_the_others(finished: Finished, tmp_path: Path) -> None:
    workspace, request, _ = finished
    scans = tmp_path / "scans"
    scans.mkdir()
    for path in sorted((request.source / "images").iterdir())[:2]:
        (scans / path.name).write_bytes(path.read_bytes())
    (scans / "broken.nii.gz").write_bytes(b"not an image")
    model = pipeline.ModelChoice("3d_fullres", (0,), "cpu", mirror=False)
    outcomes = pipeline.predict(workspace, model, pipeline.Request(scans, tmp_path / "out"), Silent()).cases
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert [outcome.image.name for outcome in failed] == ["broken.nii.gz"]
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


@pytest.mark.slow
def test_another_dataset_is_refused_in_the_same_workspace(finished: Finished, tmp_path: Path) -> None:
    workspace, request, _ = finished
    other = write_blobs(tmp_path / "other", num_cases=3)
    with pytest.raises(DatasetError, match="a workspace holds one dataset"):
        pipeline.check(other, workspace, request.data, Silent())


@pytest.mark.slow
def test_a_training_of_another_length_is_refused_until_restarted(finished: Finished) -> None:
    workspace, _, _ = finished
    request = TrainingRequest(
        configuration="3d_fullres",
        fold=0,
        num_epochs=21,
        budget_s=None,
        device="cpu",
        seed=1,
        num_workers=0,
        restart=False,
    )
    with pytest.raises(TrainingError, match="--restart"):
        pipeline.train(workspace, request, 0, Silent())


@pytest.mark.slow
def test_a_budget_is_kept_and_shared_by_the_folds(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    request = request_for(
        tmp_path, write_blobs(tmp_path / "data"), num_epochs=None, budget_s=15.0, folds=(0, 1), seed=2
    )
    began = time.monotonic()
    result = pipeline.run(workspace, request, Silent())
    assert time.monotonic() - began < 25
    shares = json.loads(workspace.allocation.read_text())
    assert 2 <= shares["shares"][0]["training_s"] < 15 / 2
    assert len(result.evaluation.cases) == 4
    before = _files_and_times(workspace)
    assert pipeline.run(workspace, request, Silent()).evaluation == result.evaluation
    after = _files_and_times(workspace)
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} <= {"run.json"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_killed_training_goes_on_to_the_same_weights(finished: Finished, tmp_path: Path) -> None:
    """Kill the process at three random moments, ask it twice to leave: it ends with the weights of the unbroken run."""
    workspace, request, _ = finished
    again = tmp_path / "work"
    rules = write_tiny_rules(tmp_path / "rules")
    command = [sys.executable, "-m", "autoseg", "run", str(request.source), "--workspace", str(again)]
    command += ["--rules", str(rules), "--preset", "cpu", "--group-by", r"(pat\d+)_", "--num-folds", "3"]
    command += ["--folds", "0", "--epochs", "20", "--seed", "1", "--device", "cpu", "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    history = Workspace(again).fold("3d_fullres", 0).history
    moments = np.random.default_rng(0)
    for wanted, number, code in (
        (0, signal.SIGKILL, -9),
        (2, signal.SIGKILL, -9),
        (6, signal.SIGKILL, -9),
        (9, signal.SIGTERM, 143),
        (13, signal.SIGINT, 130),
    ):
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
            _wait_for_epochs(history, wanted, child)
            time.sleep(moments.uniform(0, 0.2) if wanted else moments.uniform(0, 3))
            child.send_signal(number)
            _, said = child.communicate(timeout=60)
        assert child.returncode == code
        assert (b"training left in epoch" in said) == (code > 0)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert (
        Workspace(again).fold("3d_fullres", 0).weights.read_bytes()
        == workspace.fold("3d_fullres", 0).weights.read_bytes()
    )
    assert _epochs(history) == list(range(1, 21))


def _wait_for_epochs(history: Path, wanted: int, child: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while len(_epochs(history)) < wanted:
        assert child.poll() is None, f"the training ended before it could be killed: {child.communicate()[1].decode()}"
        assert time.monotonic() < deadline, "the training did not get far enough to be killed"
        time.sleep(0.02)


def _epochs(history: Path) -> list[int]:
    if not history.exists():
        return []
    with history.open(newline="") as stream:
        return [int(row["epoch"]) for row in csv.DictReader(stream)]


def _held_out(workspace: Workspace, fold: int) -> set[str]:
    return set(json.loads(workspace.splits.read_text())["folds"][fold]["validation"])


def _files_and_times(workspace: Workspace) -> dict[str, int]:
    return {
        str(path.relative_to(workspace.root)): path.stat().st_mtime_ns
        for path in workspace.root.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }
