"""Which held-out cases are drawn."""

from autoseg.report.run import telling_cases
from tests.evaluate.test_scores import case


def _names(*dice: float | None) -> dict[str, str]:
    cases = tuple(case(f"case_{number}", score, score) for number, score in enumerate(dice))
    return {place: found.name for place, found in telling_cases(cases).items()}


def test_median_worst_and_best_are_drawn() -> None:
    assert _names(0.5, 0.9, 0.7) == {"median": "case_2", "worst": "case_0", "best": "case_1"}
    assert _names(0.5, None, 0.7) == {"median": "case_0", "worst": "case_1", "best": "case_2"}


def test_no_case_is_drawn_twice() -> None:
    assert _names(0.5) == {"median": "case_0"}
    assert _names(0.5, 0.9) == {"median": "case_1", "worst": "case_0"}
