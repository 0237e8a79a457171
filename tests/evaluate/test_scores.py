from pathlib import Path

import pytest

from autoseg.core.labels import declare_labels
from autoseg.evaluate.run import evaluation_rules
from autoseg.evaluate.scores import CaseScores, ClassScores, Evaluation, spread_of, summarise

LABELS = declare_labels({1: "organ", 4: "lesion"})
RULES = evaluation_rules()


def scores(dice: float | None) -> ClassScores:
    return ClassScores(
        dice=dice,
        iou=dice,
        true_positives=1,
        false_positives=2,
        false_negatives=3,
        prediction_ml=0.5,
        reference_ml=0.5,
        volume_error_ml=0.0,
        relative_volume_error=0.0,
        hd95_mm=None if dice is None else 10 * (1 - dice),
        average_surface_distance_mm=None,
        surface_dice=dice,
        predicted_lesions=2,
        reference_lesions=2,
        matched_lesions=1,
        lesion_precision=0.5,
        lesion_recall=0.5,
        lesion_f1=0.5,
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
    evaluation = summarise(CASES, LABELS, RULES)

    assert evaluation.per_class["organ"].dice.mean == pytest.approx(0.7)
    assert evaluation.per_class["lesion"].dice.mean == pytest.approx(0.25)
    assert evaluation.per_class["lesion"].dice.num_cases == 2
    assert evaluation.per_class["organ"].hd95_mm.mean == pytest.approx(3.0)
    assert evaluation.mean_foreground_dice == pytest.approx((0.7 + 0.25) / 2)
    assert evaluation.foreground_dice.mean == pytest.approx((0.7 + 0.8 + 0.2) / 3)


def test_class_that_never_occurs_is_left_out_of_the_mean() -> None:
    evaluation = summarise([case("a", 0.9, None)], LABELS, RULES)

    assert evaluation.mean_foreground_dice == pytest.approx(0.9)


def test_evaluation_survives_the_disk(tmp_path: Path) -> None:
    evaluation = summarise(CASES, LABELS, RULES)
    evaluation.save(tmp_path / "evaluation.json")

    assert Evaluation.load(tmp_path / "evaluation.json") == evaluation


def test_intervals_lie_around_their_means() -> None:
    cases = [case(str(number), 0.5 + 0.05 * (number % 5), None if number % 3 else 0.2) for number in range(30)]
    evaluation = summarise(cases, LABELS, RULES)

    organ, lesion = evaluation.per_class["organ"].dice, evaluation.per_class["lesion"].dice
    assert organ.interval is not None
    assert organ.mean is not None
    assert organ.interval.low < organ.mean < organ.interval.high
    assert organ.interval.high - organ.interval.low == pytest.approx(2 * 1.96 * 0.0707 / 30**0.5, rel=0.1)
    assert lesion.interval is not None
    assert (lesion.interval.low, lesion.interval.high) == pytest.approx((0.2, 0.2))
    assert evaluation.mean_foreground_interval is not None
    assert evaluation.per_class["lesion"].hd95_mm.interval is not None


def test_patients_and_not_their_scans_are_drawn() -> None:
    """Ten alike scans of each of two patients are no more than two scores."""
    cases = [case(f"{patient}_{scan}", float(patient), None) for patient in (0, 1) for scan in range(10)]
    apart = summarise(cases, LABELS, RULES).per_class["organ"].dice.interval
    together = summarise(cases, LABELS, RULES, {found.name: found.name[0] for found in cases})

    assert apart is not None
    assert apart.low == pytest.approx(0.3, abs=0.1)
    found = together.per_class["organ"].dice.interval
    assert found is not None
    assert (found.low, found.high) == (0.0, 1.0)
    assert {case.group for case in together.cases} == {"0", "1"}


@pytest.mark.parametrize("groups", [None, {"a": "one", "b": "one", "c": "one"}])
def test_one_group_has_no_interval(groups: dict[str, str] | None) -> None:
    cases = CASES[:1] if groups is None else CASES
    evaluation = summarise(cases, LABELS, RULES, groups)

    assert evaluation.mean_foreground_interval is None
    assert evaluation.per_class["organ"].dice.interval is None
