"""Scores in tables."""

import pytest

from autoseg.cli.tables import mean_and_interval, show_cases, show_evaluation
from autoseg.evaluate.bootstrap import Interval
from autoseg.evaluate.scores import summarise
from tests.evaluate.test_scores import CASES, LABELS, RULES, case


def test_a_mean_stands_with_its_interval() -> None:
    assert mean_and_interval(None, None) == "not defined"
    assert mean_and_interval(0.5, None) == "0.5000"
    assert mean_and_interval(0.5, Interval(low=0.4, high=0.61)) == "0.5000 (0.4000 to 0.6100)"


def test_every_class_and_their_mean_have_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    show_evaluation("Task", summarise(CASES, LABELS, RULES))
    rows = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()[2:]}
    assert {name: " to " in row for name, row in rows.items()} == {
        "organ": True,
        "lesion": True,
        "mean of classes": True,
    }


def test_cases_are_listed_worst_first_and_those_that_are_not_defined_last(capsys: pytest.CaptureFixture[str]) -> None:
    cases = (case("empty", None, None), case("perfect", 1.0, 1.0), case("poor", 0.2, None))
    show_cases(summarise(cases, LABELS, RULES))
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert names[-3:] == ["poor", "perfect", "empty"]
