from pathlib import Path

import pytest

from autoseg.core.labels import declare_labels
from autoseg.evaluate.scores import CaseScores, ClassScores, Evaluation, spread_of, summarise

LABELS = declare_labels({1: "organ", 4: "lesion"})


def scores(dice: float | None) -> ClassScores:
    return ClassScores(
        dice=dice,
        iou=dice,
        true_positives=1,
        false_positives=2,
        false_negatives=3,
        prediction_ml=0.5,
        reference_ml=0.5,
        hd95_mm=None if dice is None else 10 * (1 - dice),
        average_surface_distance_mm=None,
        surface_dice=dice,
    )


def case(name: str, organ: float | None, lesion: float | None) -> CaseScores:
    return CaseScores(name=name, classes={"organ": scores(organ), "lesion": scores(lesion)})


CASES = (case("a", 0.9, 0.5), case("b", 0.8, None), case("c", 0.4, 0.0))


def test_spread_by_hand() -> None:
    spread = spread_of([0.2, None, 0.4, 0.9])

    assert spread.mean == pytest.approx(0.5)
    assert spread.median == pytest.approx(0.4)
    assert spread.standard_deviation == pytest.approx(0.13**0.5)
    assert spread.num_cases == 3


def test_spread_of_one_has_no_deviation() -> None:
    spread = spread_of([0.7])

    assert (spread.mean, spread.standard_deviation, spread.median) == (0.7, None, 0.7)


def test_spread_of_nothing_is_undefined() -> None:
    spread = spread_of([None, None])

    assert (spread.mean, spread.standard_deviation, spread.median, spread.num_cases) == (None, None, None, 0)


def test_case_dice_leaves_out_undefined_classes() -> None:
    assert [case.dice for case in CASES] == pytest.approx([0.7, 0.8, 0.2])


def test_mean_foreground_dice_weighs_classes_equally() -> None:
    evaluation = summarise(CASES, LABELS, 1.0)

    assert evaluation.per_class["organ"].dice.mean == pytest.approx(0.7)
    assert evaluation.per_class["lesion"].dice.mean == pytest.approx(0.25)
    assert evaluation.per_class["lesion"].dice.num_cases == 2
    assert evaluation.per_class["organ"].hd95_mm.mean == pytest.approx(3.0)
    assert evaluation.mean_foreground_dice == pytest.approx((0.7 + 0.25) / 2)
    assert evaluation.foreground_dice.mean == pytest.approx((0.7 + 0.8 + 0.2) / 3)


def test_class_that_never_occurs_is_left_out_of_the_mean() -> None:
    evaluation = summarise([case("a", 0.9, None)], LABELS, 1.0)

    assert evaluation.mean_foreground_dice == pytest.approx(0.9)


def test_evaluation_survives_the_disk(tmp_path: Path) -> None:
    evaluation = summarise(CASES, LABELS, 2.0)
    evaluation.save(tmp_path / "evaluation.json")

    assert Evaluation.load(tmp_path / "evaluation.json") == evaluation
