"""Our scores stand beside the published ones of the same folds."""

import numpy as np
import pytest

from autoseg.benchmark.registry import DiceScore, Entry, Published, PublishedDice
from autoseg.benchmark.run import compare
from autoseg.core.labels import declare_labels
from autoseg.evaluate.case import score_case
from autoseg.evaluate.run import evaluation_rules
from autoseg.evaluate.scores import CaseScores, summarise
from autoseg.pipeline import RunResult
from autoseg.pipeline.budget.schedule import Allocation

LABELS = declare_labels({0: "background", 1: "organ", 4: "lesion"})


def _result(folds: tuple[int, ...]) -> RunResult:
    """Return a run with one case: Dice 2/3 for the organ, 1 for the lesion."""
    prediction, reference = np.array([[[1, 1, 0, 2]]]), np.array([[[0, 1, 0, 2]]])
    rules = evaluation_rules()
    case = CaseScores(name="a", classes=score_case(prediction, reference, (1.0, 1.0, 1.0), LABELS, rules))
    evaluation = summarise([case], LABELS, rules)
    return RunResult(
        dataset="d",
        trained=("3d_fullres",),
        reached=("3d_fullres",),
        folds=folds,
        evaluation=evaluation,
        allocation=Allocation(shares=(), mirror=True),
        seconds={},
    )


def _entry(**networks: PublishedDice) -> Entry:
    published = Published(source="a paper", dice_percent=networks)
    return Entry(name="d", title="", licence="", citation="", num_cases=1, published=published)


def test_classes_and_mean_stand_beside_the_published_ones() -> None:
    plain = PublishedDice(
        all_folds=DiceScore(mean=90.0),
        folds=(DiceScore(mean=80.0, per_class=(70.0, 90.0)), DiceScore(mean=100.0, per_class=(100.0, 100.0))),
    )
    rows = compare(_result((0,)), _entry(plain=plain))
    assert [row.name for row in rows] == ["organ", "lesion", "mean of classes"]
    assert [row.ours for row in rows] == [pytest.approx(200 / 3), pytest.approx(100), pytest.approx(500 / 6)]
    assert [row.published["plain"] for row in rows] == [70.0, 90.0, 80.0]


def test_a_network_without_scores_of_these_folds_is_left_out() -> None:
    whole = PublishedDice(all_folds=DiceScore(mean=90.0))
    assert compare(_result((0,)), _entry(whole=whole))[-1].published == {}


def test_a_dataset_without_published_scores_is_compared_with_nothing() -> None:
    entry = Entry(name="d", title="", licence="", citation="", num_cases=1)
    assert [row.published for row in compare(_result((0,)), entry)] == [{}, {}, {}]
