"""What `autoseg plan` says about costs."""

import json
import sys
from pathlib import Path

import pytest
import torch

from autoseg.cli import main
from autoseg.cli.options import duration_text, parse_duration
from autoseg.core.workspace import Workspace
from autoseg.plan.costs import Costs
from autoseg.plan.schema import Plan
from tests.end_to_end.blobs import write_blobs, write_tiny_rules


def _run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["autoseg", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def plan_command(tmp_path: Path) -> list[str]:
    rules, data = write_tiny_rules(tmp_path / "rules"), write_blobs(tmp_path / "data", num_cases=3)
    options = ["--rules", rules, "--num-folds", "3", "--workers", "1", "--workspace", tmp_path / "work"]
    return ["plan", str(data), *map(str, options)]


def test_a_plan_ends_with_its_costs(
    plan_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run([*plan_command, "--preset", "cpu"], monkeypatch) == 0
    shown = capsys.readouterr().out
    for row in ("memory, training", "a training step", "an epoch", "a training", "a fold", "all folds", "disk, models"):
        assert row in shown
    assert "No GPU here" not in shown
    costs = Costs.load(Workspace(tmp_path / "work").costs)
    found = costs.configurations["3d_fullres"]
    assert costs.num_folds == 3
    assert found.cross_validation_s == pytest.approx(3 * found.fold_s)
    assert found.fold_s > found.epoch_s > found.step_s > 0
    assert found.preprocessed_bytes == pytest.approx(3 * 9 * 22 * 19 * (4 + 1), rel=0.2)


def test_a_plan_for_a_budget_says_what_it_buys(
    plan_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert _run([*plan_command, "--budget", "1m30s"], monkeypatch) == 0
    shown = " ".join(capsys.readouterr().out.split())
    place = Workspace(tmp_path / "work")
    assert "preset cpu" in shown
    recipe = Plan.load(place.plan).training
    assert f"A training: {recipe.num_epochs} epochs of {recipe.steps_per_epoch} steps" in shown
    assert f"Next: autoseg train --fold 0 --budget 1m30s --workspace {place.root}" in shown
    assert Costs.load(place.costs).configurations["3d_fullres"].training_s == pytest.approx(90, rel=0.1)
    assert _run(["plan", "--workspace", str(place.root), "--explain", "base_features"], monkeypatch) == 0
    assert "90 s of 3d_fullres on cpu" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["90s", "1m30s", "8h", "1h30m", "2d", "1.5s"])
def test_lengths_of_time_are_written_as_they_are_read(text: str) -> None:
    assert parse_duration(duration_text(parse_duration(text))) == parse_duration(text)


def test_costs_stay_out_of_the_printed_plan(
    plan_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run([*plan_command, "--preset", "cpu", "--json"], monkeypatch) == 0
    place = Workspace(tmp_path / "work")
    assert json.loads(capsys.readouterr().out) == json.loads(place.plan.read_text())
    assert place.costs.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_plan_for_a_gpu_says_what_it_takes_without_one(
    plan_command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run([*plan_command, "--preset", "plain", "--gpu-memory", "1GB"], monkeypatch) == 0
    assert "No GPU here: 3 folds of this plan take" in capsys.readouterr().out
    assert _run([*plan_command, "--gpu-memory", "auto"], monkeypatch) == 1
    assert "--gpu-memory auto: a GPU must be there" in capsys.readouterr().err
