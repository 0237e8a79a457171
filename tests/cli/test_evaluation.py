"""`autoseg evaluate` as a user meets it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from autoseg.core.geometry import Geometry
from autoseg.data.image import LabelImage, write_label
from autoseg.evaluate.compare import Comparison
from autoseg.evaluate.pairs import UNCERTAINTIES
from autoseg.infer.maps import Uncertainty
from tests.cli.commands import run_command

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The command, in a folder with references `ref`, predictions `ours` and worse ones, `theirs`, of six cases."""
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        reference = np.zeros((4, 12, 12), dtype=np.uint8)
        reference[1:3, 2:9, 2 : 8 + number % 3] = 1
        reference[1:3, 9:11, 3:6] = 2
        ours, theirs = reference.copy(), reference.copy()
        ours[1, 2] = 0
        theirs[1:3, 2 : 3 + number % 4] = 0
        for name, array in (("ref", reference), ("ours", ours), ("theirs", theirs)):
            write_label(Path(name) / f"p{number // 2}_{number}.nii.gz", LabelImage(array, Geometry(spacing=(3, 1, 1))))
    description = {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    Path("dataset.json").write_text(json.dumps(description))
    return lambda *arguments: run_command(monkeypatch, capsys, "evaluate", *arguments, "--workers", 0)


def test_every_score_has_its_interval(evaluate: Run) -> None:
    code, out, _ = evaluate("ours", "ref")

    assert code == 0
    for title in ("Dice", "IoU", "surface Dice", "HD95 (mm)", "volume error (ml)", "lesions: F1"):
        assert title in out
    assert "Mean over 6 cases (95 % interval); surfaces within 1 mm" in " ".join(out.split())
    assert "Mean Dice over classes: 0.9" in out
    assert " to " in out


def test_regions_are_classes(evaluate: Run) -> None:
    code, out, _ = evaluate("ours", "ref", "--labels", "dataset.json", "--json")
    classes = json.loads(out)["per_class"]

    assert code == 0
    assert list(classes) == ["whole", "core"]
    assert classes["core"]["dice"]["mean"] == 1.0


def test_the_tolerance_is_an_option(evaluate: Run) -> None:
    shares = [
        json.loads(evaluate("theirs", "ref", "--tolerance", tolerance, "--json")[1])["per_class"]["class 1"][
            "surface_dice"
        ]["mean"]
        for tolerance in (0.5, 5)
    ]

    assert shares[0] < shares[1] == 1.0


def test_a_comparison_shows_the_difference_with_its_interval(evaluate: Run) -> None:
    code, out, _ = evaluate("ours", "ref", "--versus", "theirs", "--save", "compared.json")
    found = Comparison.load(Path("compared.json")).mean_foreground_dice

    assert code == 0
    assert found.difference is not None
    assert found.interval is not None
    assert 0 < found.interval.low < found.difference < found.interval.high
    assert f"{found.difference:+.4f} ({found.interval.low:+.4f} to {found.interval.high:+.4f})" in out


def test_groups_are_drawn_together(evaluate: Run) -> None:
    intervals = [
        json.loads(evaluate("theirs", "ref", "--json", *more)[1])["mean_foreground_interval"]
        for more in ((), ("--group-by", r"(p\d)_"), ("--group-by", "p"))
    ]

    assert intervals[0] != intervals[1]
    assert intervals[2] is None


def test_a_table_of_groups_may_be_that_of_a_larger_dataset(evaluate: Run) -> None:
    rows = [f"p{number // 2}_{number},p{number // 2}" for number in range(9)]
    Path("groups.csv").write_text("\n".join(["case,group", *rows]))
    by_table, by_pattern = (
        json.loads(evaluate("theirs", "ref", "--json", "--group-by", groups)[1])["mean_foreground_interval"]
        for groups in ("groups.csv", r"(p\d)_")
    )
    assert by_table == by_pattern


def test_images_of_uncertainty_are_no_predictions(evaluate: Run) -> None:
    before = evaluate("ours", "ref", "--json")
    assert get_args(Uncertainty) == UNCERTAINTIES
    for kind in UNCERTAINTIES:
        shutil.copy("ours/p0_0.nii.gz", f"ours/p0_0.{kind}.nii.gz")
    assert evaluate("ours", "ref", "--json") == before

    Path("ours/p0_0.nii.gz").unlink()
    code, _, err = evaluate("ours", "ref")
    assert code == 1
    assert "a reference must have a prediction of its name" in err


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("few", "p0_0.nii.gz: a reference must have a prediction of its name"),
        ("many", "more.nii.gz: a prediction must have a reference of its name"),
        ("other", "label values must be among (0, 1, 2), got 7"),
    ],
)
def test_what_does_not_match_is_named_with_the_remedy(evaluate: Run, spoil: str, words: str) -> None:
    array = np.full((4, 12, 12), 7, dtype=np.uint8)
    if spoil == "few":
        Path("ours/p0_0.nii.gz").unlink()
    else:
        name = "more" if spoil == "many" else "p0_0"
        write_label(Path(f"ours/{name}.nii.gz"), LabelImage(array, Geometry(spacing=(3, 1, 1))))
    code, out, errors = evaluate("ours", "ref", "--labels", "dataset.json")

    assert (code, out) == (1, "")
    assert words in " ".join(errors.split())
