"""`autoseg select` as a user meets it; what it does is tested in tests/pipeline/test_selection.py."""

from pathlib import Path

import pytest
import typer

from autoseg.cli.selection import parse_weight, show_selection
from autoseg.evaluate.scores import Evaluation
from autoseg.select.choose import Together, rank
from autoseg.select.postprocess import Treatment
from tests.cli.commands import run_command
from tests.select.test_choose import EVEN, RULES, STAGES, evaluation_of, selection_of


def test_weights_are_read() -> None:
    assert parse_weight("lesion=2") == ("lesion", 2.0)
    assert parse_weight("a=b=0.5") == ("a=b", 0.5)


@pytest.mark.parametrize("text", ["lesion", "=2", "lesion=", "lesion=two"])
def test_wrong_weights_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="must be a class and its weight"):
        parse_weight(text)


def test_the_table_shows_the_winner_first(capsys: pytest.CaptureFixture[str]) -> None:
    evaluations: dict[Together, Evaluation] = {
        ("2d",): evaluation_of(0.7, 0.6),
        ("3d_fullres",): evaluation_of(0.8, 0.6),
    }
    candidates = rank(evaluations, "dice", EVEN, RULES, stages=STAGES, tie_margin=0.0001)
    show_selection(selection_of(candidates, 0.02, classes={"organ": Treatment(fills_holes=True)}))
    lines = capsys.readouterr().out.splitlines()

    assert lines[0].startswith("Mean Dice of 10 held-out cases (95 % interval)")
    ranked = [line for line in lines if line.startswith(("2d", "3d"))]
    assert ranked[0].startswith("3d_fullres")
    assert ranked[1].startswith("2d")
    assert "-0.0500" in ranked[1]
    assert "Chosen: 3d_fullres" in lines
    assert "Postprocessing: organ: fill holes, +0.0200 on cases without a part in it" in lines


def test_weights_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    evaluations: dict[Together, Evaluation] = {("2d",): evaluation_of(0.7, 0.6)}
    candidates = rank(evaluations, "dice", EVEN, RULES, stages=STAGES, tie_margin=0.0001)
    found = selection_of(candidates, 0.0, classes={})
    show_selection(found.model_copy(update={"weights": {"organ": 1.0, "lesion": 3.0}}))
    out = capsys.readouterr().out

    assert out.startswith("Weighted mean Dice of 10 held-out cases")
    assert "lesion (weight 3)" in out


@pytest.mark.parametrize("options", [(), ("--explain",), ("--metric", "nsd", "--explain")])
def test_without_a_plan_the_command_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...]
) -> None:
    code, out, errors = run_command(monkeypatch, capsys, "select", *options, "--workspace", tmp_path)

    assert (code, out) == (1, "")
    assert "Run `autoseg plan DATA` first" in errors
