from pathlib import Path

import numpy as np
import pytest

from autoseg.core.errors import EvaluationError
from autoseg.core.geometry import Geometry
from autoseg.core.labels import declare_labels
from autoseg.data.image import LabelImage, write_label
from autoseg.evaluate.compare import compare, compare_files
from autoseg.evaluate.run import Scoring, evaluation_rules
from autoseg.evaluate.scores import CaseScores, Evaluation, summarise
from tests.evaluate.test_scores import LABELS, RULES, case


def _evaluation(organ: list[float], lesion: list[float | None], names: str = "abcdefghij") -> Evaluation:
    cases: list[CaseScores] = [
        case(name, first, second) for name, first, second in zip(names, organ, lesion, strict=False)
    ]
    return summarise(cases, LABELS, RULES)


ORGAN = [0.1, 0.3, 0.5, 0.7, 0.9, 0.2, 0.4, 0.6, 0.8, 1.0]
NONE: list[float | None] = [None] * 10


def test_a_constant_gain_is_certain_however_much_cases_differ() -> None:
    """Cases are drawn for both at once, so that what they share cancels out."""
    found = compare(_evaluation([dice - 0.05 for dice in ORGAN], NONE), _evaluation(ORGAN, NONE), RULES)

    organ = found.per_class["organ"]["dice"]
    assert organ.difference == pytest.approx(-0.05)
    assert organ.interval is not None
    assert (organ.interval.low, organ.interval.high) == pytest.approx((-0.05, -0.05))
    assert found.mean_foreground_dice.difference == pytest.approx(-0.05)
    assert found.per_class["lesion"]["dice"].difference is None
    assert found.num_cases == 10


def test_a_difference_of_single_cases_is_uncertain() -> None:
    """The differences are +-0.1 in turn: the mean is 0, its standard error 0.1 / sqrt(10)."""
    signs = [0.1 * (-1) ** number for number in range(10)]
    theirs = [dice + sign for dice, sign in zip(ORGAN, signs, strict=True)]
    found = compare(_evaluation(ORGAN, NONE), _evaluation(theirs, NONE), RULES).per_class["organ"]["dice"]

    assert found.difference == pytest.approx(0, abs=1e-9)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((-0.062, 0.062), abs=0.012)


def test_a_difference_is_that_of_the_reported_means() -> None:
    ours, theirs = _evaluation([0.8, 0.6], [None, 0.4]), _evaluation([0.7, 0.7], [0.0, 0.4])
    found = compare(ours, theirs, RULES)

    assert found.per_class["lesion"]["dice"].difference == pytest.approx(0.4 - 0.2)
    assert found.mean_foreground_dice.ours == pytest.approx(ours.mean_foreground_dice)
    assert found.mean_foreground_dice.theirs == pytest.approx(theirs.mean_foreground_dice)


def test_a_score_that_one_group_alone_has_differs_by_an_unknown_amount() -> None:
    """Drawn again and again, one case is always itself: an interval of no width would claim to be certain."""
    ours, theirs = (_evaluation(ORGAN, [dice, *NONE[1:]]) for dice in (0.4, 0.2))
    lesion = compare(ours, theirs, RULES).per_class["lesion"]["dice"]

    assert lesion.difference == pytest.approx(0.2)
    assert lesion.interval is None


def test_the_order_of_cases_does_not_matter() -> None:
    ours, theirs = _evaluation([0.8, 0.6], [None, 0.4]), _evaluation([0.7, 0.1], [0.3, 0.4])
    turned = theirs.model_copy(update={"cases": theirs.cases[::-1]})

    assert compare(ours, turned, RULES) == compare(ours, theirs, RULES)


def test_what_cannot_be_compared_is_named() -> None:
    ours = _evaluation(ORGAN, NONE)
    with pytest.raises(EvaluationError, match=r"must score the same cases, got x, y in one alone"):
        compare(
            ours,
            _evaluation([*ORGAN, 0.1], [*NONE, None], "abcdefghixy"[:11]).model_copy(
                update={"cases": (*ours.cases, case("x", 0.1, None), case("y", 0.1, None))}
            ),
            RULES,
        )
    with pytest.raises(EvaluationError, match="the same tolerance"):
        compare(ours, ours.model_copy(update={"tolerance_mm": 9.0}), RULES)
    with pytest.raises(EvaluationError, match="the same classes"):
        compare(ours, ours.model_copy(update={"labels": declare_labels({1: "else"})}), RULES)


def test_files_are_compared_on_the_classes_of_both(tmp_path: Path) -> None:
    """The first prediction alone has a value 3."""
    arrays = {name: np.zeros((3, 6, 6), dtype=np.uint8) for name in ("ours", "theirs", "references")}
    for array in arrays.values():
        array[:, 1:4, 1:5] = 1
    arrays["ours"][0, 0, 0] = 3
    arrays["theirs"][:, 1, :] = 0
    for name, array in arrays.items():
        for number in range(2):
            write_label(tmp_path / name / f"{number}.nii.gz", LabelImage(array, Geometry(spacing=(2, 1, 1))))
    found = compare_files(
        (tmp_path / "ours", tmp_path / "theirs"),
        tmp_path / "references",
        None,
        scoring=Scoring(evaluation_rules(), {"0": "a", "1": "a"}),
    )

    assert found.ours.labels == found.theirs.labels
    assert found.comparison.per_class["class 1"]["dice"].difference == pytest.approx(0.2)
    assert found.comparison.per_class["class 1"]["dice"].interval is None
    assert found.comparison.per_class["class 3"]["dice"].theirs is None
