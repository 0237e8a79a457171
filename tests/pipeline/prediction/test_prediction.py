"""Which models there are and whether their files belong together; batches with broken scans, and broken-off ones."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.core.errors import ArtefactError, AutosegError, PlanError, PredictionError
from autoseg.core.labels import declare_labels
from autoseg.core.progress import Silent
from autoseg.core.temporary import temporary_prefix
from autoseg.core.workspace import Workspace
from autoseg.data.image import Image, read_image, read_label, write_image
from autoseg.infer import merging
from autoseg.infer.case import Settings
from autoseg.infer.outcome import Predictions
from autoseg.infer.predictor import Predictor
from autoseg.network.device import choose_device
from autoseg.pipeline import ModelChoice, Request, load_predictor, predict
from autoseg.pipeline.prediction.models import load_model
from autoseg.plan.schema import ConfigurationName, Plan
from tests.data.dicom_making import write_series
from tests.data.making import forbid
from tests.pipeline.models import SHAPE, SPACING, untrained
from tests.pipeline.prediction.making import CHOICE, GEOMETRY, write_scan
from tests.preprocess import plans

PLAN = plans.plan().model_copy(update={"channels": ("T1",), "labels": declare_labels({0: "background", 1: "organ"})})


def test_an_empty_workspace_asks_for_a_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="Run `autoseg plan DATA` first"):
        load_model(Workspace(tmp_path), CHOICE)


@pytest.mark.parametrize("folds", [None, (0, 3)])
def test_untrained_folds_are_named_with_the_command(tmp_path: Path, folds: tuple[int, ...] | None) -> None:
    PLAN.save(Workspace(tmp_path).plan)
    with pytest.raises(PredictionError, match="autoseg train --fold 0 --configuration 3d_fullres"):
        load_model(Workspace(tmp_path), ModelChoice("3d_fullres", folds, "cpu", mirror=True))


def test_a_predictor_is_loaded_from_a_folder(tmp_path: Path) -> None:
    workspace = untrained(tmp_path / "work")
    image = read_image([write_scan(tmp_path / "a.nii.gz")])
    both, first = load_predictor(workspace.root, device="cpu"), load_predictor(workspace.root, folds=[0], device="cpu")
    assert (len(both.model.networks), len(first.model.networks)) == (2, 1)
    assert both.predict(image).geometry == image.geometry
    with pytest.raises(PlanError, match="must be one of 3d_fullres, got 2d"):
        load_predictor(workspace.root, "2d")


class _Exploit:
    """Executes code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploited",)


def _truncate(workspace: Workspace) -> None:
    path = workspace.fold("3d_fullres", 0).weights
    path.write_bytes(path.read_bytes()[:-100])


def _swap(workspace: Workspace) -> None:
    first, second = (workspace.fold("3d_fullres", fold).weights for fold in range(2))
    first.rename(first.with_name("aside"))
    second.rename(first)
    first.with_name("aside").rename(second)


def _swap_folders(workspace: Workspace) -> None:
    first, second = (workspace.fold("3d_fullres", fold).root for fold in range(2))
    first.rename(first.with_name("aside"))
    second.rename(first)
    first.with_name("aside").rename(second)


def _pickle(workspace: Workspace) -> None:
    workspace.fold("3d_fullres", 0).weights.write_bytes(pickle.dumps(_Exploit()))


def _other_dataset(workspace: Workspace) -> None:
    planned = plans.plan(
        labels=declare_labels({0: "background", 1: "spleen", 5: "lesion"}),
        configurations={"3d_fullres": plans.configuration(SPACING)},
    )
    planned.save(workspace.plan)


def _damage_record(workspace: Workspace) -> None:
    workspace.fold("3d_fullres", 0).record.write_text("{")


def _lose_weights(workspace: Workspace) -> None:
    workspace.fold("3d_fullres", 0).weights.unlink()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (_truncate, r"fold_0/weights\.safetensors: must be the weights that training\.json was written with"),
        (_swap, r"fold_0/weights\.safetensors: must be the weights that training\.json was written with"),
        (_swap_folders, r"fold_0/training\.json: must be the record of fold 0 of 3d_fullres, got that of fold 1"),
        (_pickle, r"fold_0/weights\.safetensors: must be the weights"),
        (_other_dataset, "fold_0: networks must be of the plan and the dataset of this workspace"),
        (_damage_record, r"fold_0/training\.json: must be readable JSON"),
        (_lose_weights, r"fold_0/weights\.safetensors: "),
    ],
)
def test_model_files_that_do_not_belong_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, break_it: object, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = untrained(tmp_path / "work")
    assert callable(break_it)
    break_it(workspace)
    with pytest.raises(AutosegError, match=words):
        load_model(workspace, CHOICE)
    assert not (tmp_path / "exploited").exists()


@pytest.mark.parametrize("content", [pickle.dumps(_Exploit()), b"", b"\xff" * 64])
def test_weights_without_a_digest_are_read_without_running_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """As an imported model's; the format itself has no place for code."""
    monkeypatch.chdir(tmp_path)
    workspace = untrained(tmp_path / "work")
    folder = workspace.fold("3d_fullres", 0)
    document = json.loads(folder.record.read_text())
    folder.record.write_text(json.dumps({**document, "made_from": {}}))
    folder.weights.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"fold_0/weights\.safetensors: must be a safetensors file"):
        load_model(workspace, CHOICE)
    assert not (tmp_path / "exploited").exists()


@pytest.mark.parametrize("reason", ["CUDA out of memory. Tried to allocate 2.00 MiB.", "another error"])
def test_networks_without_room_on_the_gpu_predict_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    """A GPU that other programs have filled, without one: the device is made up, and so is its shortage."""
    load = Predictor.load
    error = torch.OutOfMemoryError(reason) if "memory" in reason else RuntimeError(reason)

    def full(planned: Plan, name: ConfigurationName, weights: Sequence[Path], settings: Settings) -> Predictor:
        if settings.device.type == "cuda":
            raise error
        return load(planned, name, weights, settings)

    monkeypatch.setattr(
        "autoseg.pipeline.prediction.models.choose_device",
        lambda name: torch.device(name) if name == "cuda" else choose_device(name),
    )
    monkeypatch.setattr(Predictor, "load", full)
    workspace = untrained(tmp_path / "work")
    on_cuda = replace(CHOICE, device="cuda")
    if "memory" not in reason:
        with pytest.raises(RuntimeError, match="another error"):
            load_model(workspace, on_cuda)
        return
    assert load_model(workspace, on_cuda).settings == load_model(workspace, CHOICE).settings
    assert "cuda: must have memory for the networks, got: CUDA out of memory." in caplog.text


def test_a_gpu_without_room_for_anything_is_left_for_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is full before the first network comes."""
    zeros = torch.zeros

    def full(size: int, device: str = "cpu") -> torch.Tensor:
        if device == "cuda":
            raise RuntimeError("CUDA error: out of memory")
        return zeros(size, device=device)

    workspace = untrained(tmp_path / "work")
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch, "zeros", full)
        assert load_model(workspace, replace(CHOICE, device="auto")).settings.device == torch.device("cpu")
    assert "auto: must have memory for the networks, got: CUDA error: out of memory." in caplog.text


def test_six_broken_scans_of_twenty_leave_fourteen_label_maps(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    for number in range(15):
        write_scan(scans / f"good_{number:02d}.nii.gz", number)
    (scans / "good_14.nii.gz").rename(scans / "misnamed.nrrd")
    (scans / "text.nii.gz").write_bytes(b"not an image")
    whole = (scans / "good_00.nii.gz").read_bytes()
    (scans / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    write_scan(scans / "two_channels.mha", num_channels=2)
    lost = write_series(scans / "gap", np.ones((6, 8, 8), np.int16), GEOMETRY)
    (lost / "017").unlink()
    infinite = Image(np.full((1, *SHAPE), np.inf, np.float32), GEOMETRY)
    write_image(scans / "infinite.nrrd", infinite)
    predictions = predict(untrained(tmp_path / "work"), CHOICE, Request(scans, tmp_path / "out"), Silent())
    assert len(predictions.cases) == 20
    reasons = {case.image.name: case.error for case in predictions.cases if case.error is not None}
    expected = {
        "misnamed.nrrd": "must be readable",
        "text.nii.gz": "must have a NIfTI header",
        "truncated.nii.gz": "must be whole",
        "two_channels.mha": "must have the channels of the model, scan (1), got 2",
        "gap": "got a gap of 4 mm",
        "infinite.nrrd": "finite",
    }
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in str(reasons[name])
        assert name in str(reasons[name])
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [*(f"good_{number:02d}.nii.gz" for number in range(14)), "predictions.json"]
    assert Predictions.load(tmp_path / "out" / "predictions.json") == predictions


def test_a_scan_that_may_not_be_read_stays_with_its_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.nii.gz", "b.nii.gz", "secret/c.nii.gz"):
        write_scan(tmp_path / "scans" / name)
    workspace = untrained(tmp_path / "work")
    for name in ("a.nii.gz", "secret"):
        forbid(monkeypatch, name)
    cases = predict(workspace, CHOICE, Request(tmp_path / "scans", tmp_path / "out"), Silent()).cases
    errors = {case.image.name: case.error for case in cases}
    assert errors["b.nii.gz"] is None
    for name in ("a.nii.gz", "secret"):
        assert f"{name}: must be readable, got: " in str(errors[name])
        assert "Permission denied" in str(errors[name])


def test_what_does_not_fit_into_memory_waits_beside_the_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Image(np.random.default_rng(0).normal(1, 1, (1, 60, 40, 12)).astype(np.float32), GEOMETRY)
    write_image(tmp_path / "scans" / "a.nii.gz", large)
    workspace, seen = untrained(tmp_path / "work"), set[Path]()
    expected = load_predictor(workspace.root, device="cpu", mirror=False).predict(large)
    write = merging.Front._write

    def noting(front: merging.Front, key: tuple[int, int]) -> None:
        write(front, key)
        assert front.folder is not None
        seen.add(front.folder.parent)

    monkeypatch.setattr(merging.Front, "_write", noting)
    monkeypatch.setattr("autoseg.infer.case.available_memory_bytes", lambda: 0)
    predict(workspace, CHOICE, Request(tmp_path / "scans", tmp_path / "out"), Silent())
    assert seen == {tmp_path / "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.nii.gz", "predictions.json"}
    np.testing.assert_array_equal(read_label(tmp_path / "out" / "a.nii.gz").array, expected.array)


def test_what_a_killed_call_left_is_removed(tmp_path: Path) -> None:
    """Also in the folders below OUT, where the masks of a recursive search lie."""
    write_scan(tmp_path / "scans" / "ward" / "a.nii.gz")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    ours = temporary_prefix().replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    left = [tmp_path / "out" / f"{ours}1.json", tmp_path / "out" / "ward" / f"{ours}2.nii.gz"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    request = Request(tmp_path / "scans", tmp_path / "out", recursive=True)
    predict(untrained(tmp_path / "work"), CHOICE, request, Silent())
    assert not any(path.exists() for path in left)
    assert (tmp_path / "out" / "ward" / "a.nii.gz").exists()
