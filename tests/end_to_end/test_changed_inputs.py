"""A changed input reruns what depends on it, and nothing else."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoseg import pipeline
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.data.image import read_label, write_label
from autoseg.data.splits import Splits
from tests.end_to_end.blobs import LARGE, write_blobs, write_tiny_rules

Finished = tuple[Workspace, pipeline.RunRequest]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of two folds of two cases each."""
    folder = tmp_path_factory.mktemp("changed")
    request = pipeline.RunRequest(
        source=write_blobs(folder / "data", num_cases=4),
        data=pipeline.DataOptions(group_by=None, num_folds=2, num_workers=0),
        planning=pipeline.PlanOptions(preset="cpu", rules=write_tiny_rules(folder / "rules")),
        configurations=("2d",),
        folds=None,
        num_epochs=1,
        budget_s=None,
        device="cpu",
        seed=1,
    )
    workspace = Workspace(folder / "work")
    pipeline.run(workspace, request, Silent())
    return workspace, request


def _rewritten(workspace: Workspace, work: Callable[[], object]) -> set[str]:
    """Return what some work writes, of what a run spends its time on: cases, networks, label maps."""

    def times() -> dict[str, int]:
        folders = {"preprocessed": "*/*.image.b2nd", "models": "2d/fold_*/*.safetensors", "crossval": "2d/*.nii.gz"}
        found = [path for name, pattern in folders.items() for path in (workspace.root / name).glob(pattern)]
        return {f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns for path in found}

    before = times()
    work()
    after = times()
    data_keys = {path.name for path in (workspace.root / "preprocessed").iterdir()}
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    return {name.split("/")[1].split(".")[0] if name.split("/")[0] in data_keys else name for name in changed}


def _networks(*folds: int) -> set[str]:
    return {f"fold_{fold}/weights.safetensors" for fold in folds}


def _maps(workspace: Workspace, *folds: int) -> set[str]:
    splits = Splits.load(workspace.splits).folds
    return {f"2d/{name}.nii.gz" for fold in folds for name in splits[fold].validation}


def _run(finished: Finished, **changed: object) -> set[str]:
    workspace, request = finished
    asked = replace(request, **changed)  # type: ignore[arg-type]
    return _rewritten(workspace, lambda: pipeline.run(workspace, asked, Silent()))


@pytest.mark.slow
def test_a_changed_label_reruns_its_case_and_what_has_learnt_from_it(finished: Finished) -> None:
    workspace, request = finished
    holding_out, learning = 0, 1
    name = Splits.load(workspace.splits).folds[holding_out].validation[0]
    path = request.source / "labels" / f"{name}.nii.gz"
    label = read_label(path)
    label.array[np.unravel_index(np.flatnonzero(label.array == 0)[:3], label.array.shape)] = LARGE
    write_label(path, label)
    before = workspace.selection.read_bytes()
    assert _run(finished) == {name} | _networks(learning) | _maps(workspace, learning)
    assert workspace.selection.read_bytes() != before
    assert _run(finished) == set()


@pytest.mark.slow
def test_a_touched_file_reruns_no_training(finished: Finished) -> None:
    workspace, request = finished
    name = Splits.load(workspace.splits).folds[0].validation[0]
    os.utime(request.source / "labels" / f"{name}.nii.gz")
    assert _run(finished) == {name}


@pytest.mark.slow
def test_other_networks_are_trained_from_the_same_cases_and_the_first_ones_come_back(
    finished: Finished, tmp_path: Path
) -> None:
    workspace, request = finished
    weights = [workspace.fold("2d", fold).weights.read_bytes() for fold in (0, 1)]
    rules = write_tiny_rules(tmp_path / "rules")
    presets = rules / "presets.toml"
    presets.write_text(presets.read_text().replace("value = 6", "value = 4"))
    everything = _networks(0, 1) | _maps(workspace, 0, 1)
    assert _run(finished, planning=replace(request.planning, rules=rules)) == everything
    assert [workspace.fold("2d", fold).weights.read_bytes() for fold in (0, 1)] != weights
    assert _run(finished) == everything
    assert [workspace.fold("2d", fold).weights.read_bytes() for fold in (0, 1)] == weights
    assert len(list((workspace.root / "models" / "2d" / "earlier").iterdir())) >= 2


@pytest.mark.slow
def test_fewer_folds_leave_none_behind_and_come_back(finished: Finished) -> None:
    workspace, request = finished
    three = replace(request.data, num_folds=3)
    assert _networks(2) <= _run(finished, data=three)
    assert list(workspace.folds("2d")) == [0, 1, 2]
    assert _networks(2) <= _run(finished)
    assert list(workspace.folds("2d")) == [0, 1]
    assert len(list((workspace.root / "models" / "2d" / "earlier").glob("fold_2_*"))) == 1
    weights = [path.read_bytes() for path in (workspace.root / "models" / "2d" / "earlier").glob("fold_2_*/weights*")]
    _run(finished, data=three)
    assert [workspace.fold("2d", 2).weights.read_bytes()] == weights
    _run(finished)


@pytest.mark.slow
def test_a_case_more_is_preprocessed_alone(finished: Finished, tmp_path: Path) -> None:
    _, request = finished
    more = write_blobs(tmp_path / "more", num_cases=5)
    for kind in ("images", "labels"):
        added = more / kind / "pat2_scan4.nii.gz"
        (request.source / kind / added.name).write_bytes(added.read_bytes())
    rerun = _run(finished)
    assert {name for name in rerun if "/" not in name} == {"pat2_scan4"}
    assert _networks(0, 1) <= rerun
    assert "2d/pat2_scan4.nii.gz" in rerun
