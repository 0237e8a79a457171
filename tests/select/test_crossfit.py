"""Postprocessing is accepted where it helps cases that it was not chosen on, and its gain is what it helps them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg.core.labels import declare_labels
from autoseg.evaluate.run import evaluation_rules
from autoseg.select.crossfit import OutcomeTable, fit_postprocessing, honest_scores, mask_score, outcomes
from autoseg.select.postprocess import Postprocessing, Treatment, postprocess, treatments

LABELS = declare_labels({1: "organ", 4: "lesion"})
SPACING = (2.0, 1.0, 1.0)
TRIED = treatments((5.0, 20.0))
RULES = evaluation_rules()
LARGEST = TRIED.index(Treatment(keeps_largest=True))


def _maps(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a noisy prediction and its reference: two boxes, specks and holes."""
    rng = np.random.default_rng(seed)
    reference = np.zeros((6, 16, 16), dtype=np.uint8)
    reference[1:5, 2:9, 2:9], reference[2:4, 9:13, 5:13] = 1, 2
    prediction = reference.copy()
    prediction[rng.random(reference.shape) < 0.02] = 1
    prediction[rng.random(reference.shape) < 0.01] = 2
    prediction[rng.random(reference.shape) < 0.02] = 0
    return prediction, reference


def _dice(prediction: NDArray[np.integer], reference: NDArray[np.integer]) -> list[float]:
    score = mask_score("dice", SPACING, RULES)
    return [score(prediction == index, reference == index) for index in (1, 2)]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("treatment", TRIED)
def test_outcomes_are_those_of_the_treated_map(treatment: Treatment, whole: bool) -> None:
    prediction, reference = _maps(3)
    table = outcomes(prediction, reference, SPACING, LABELS, TRIED, mask_score("dice", SPACING, RULES))
    for number, name in enumerate(("organ", "lesion")):
        chosen = Postprocessing(keeps_largest_foreground=whole, classes={name: treatment})
        after = postprocess(prediction, SPACING, LABELS, chosen)
        assert table[int(whole), number, TRIED.index(treatment)] == pytest.approx(_dice(after, reference)[number])


def test_outcomes_count_annotated_voxels_alone() -> None:
    prediction, reference = _maps(4)
    reference[:, :8] = LABELS.num_classes
    table = outcomes(prediction, reference, SPACING, LABELS, TRIED, mask_score("dice", SPACING, RULES))
    seen = np.where(reference == LABELS.num_classes, 0, prediction)

    assert table[0, :, 0] == pytest.approx(_dice(seen, np.where(reference == LABELS.num_classes, 0, reference)))


def test_outcomes_by_surface_dice() -> None:
    prediction, reference = _maps(5)
    score = mask_score("nsd", SPACING, RULES)
    table = outcomes(prediction, reference, SPACING, LABELS, TRIED, score)

    assert table[0, 0, 0] == pytest.approx(score(prediction == 1, reference == 1))
    assert table[0, 0].max() > table[0, 0, 0] + 0.05


def test_an_absent_class_has_no_score() -> None:
    empty = np.zeros((3, 4, 5), dtype=np.uint8)

    assert np.isnan(outcomes(empty, empty, SPACING, LABELS, TRIED, mask_score("dice", SPACING, RULES))).all()


def _table(gains: NDArray[np.float64], num_folds: int = 5) -> OutcomeTable:
    """Return a table of cases in which keeping a class's largest component gains (cases, classes); the rest nothing."""
    scores = np.full((len(gains), 2, gains.shape[1], len(TRIED)), 0.5)
    scores[:, :, :, LARGEST] += gains[:, None]
    return OutcomeTable(
        scores=scores,
        folds=np.arange(len(gains)) % num_folds,
        weights=np.ones(gains.shape[1]),
        names=tuple(f"class {number}" for number in range(gains.shape[1])),
        tried=TRIED,
        min_gain=0.0001,
    )


def test_what_helps_every_case_is_chosen_for_its_class_alone() -> None:
    table = _table(np.array([[0.1, -0.1]] * 20))

    assert fit_postprocessing(table) == Postprocessing(classes={"class 0": Treatment(keeps_largest=True)})
    np.testing.assert_allclose(honest_scores(table), [[0.6, 0.5]] * 20)


def test_what_helps_nothing_is_not_chosen() -> None:
    for gain in (0.0, -0.2, 0.0001):
        table = _table(np.full((20, 2), gain))
        assert fit_postprocessing(table) == Postprocessing()
        assert (honest_scores(table) == 0.5).all()


def test_what_one_case_gains_alone_is_not_accepted() -> None:
    """On all cases the mean rises; but without its fold nothing says so, and its fold is where the gain would be."""
    gains = np.full((20, 1), -0.01)
    gains[3] = 0.9
    table = _table(gains)

    assert table.scores[:, 0, 0, LARGEST].mean() > 0.53
    assert fit_postprocessing(table) == Postprocessing()


def test_the_reported_gain_of_noise_is_none() -> None:
    """Of eleven treatments that do nothing but noise, the best looks good on the cases that it was chosen on."""
    rng = np.random.default_rng(0)
    seen, honest = [], []
    for _ in range(60):
        scores = np.full((25, 2, 1, len(TRIED)), 0.5) + rng.normal(0, 0.1, (25, 1, 1, len(TRIED)))
        scores[..., 0] = 0.5
        table = OutcomeTable(scores, np.arange(25) % 5, np.ones(1), ("organ",), TRIED, 0.0001)
        seen.append(scores[:, 0, 0].mean(axis=0).max() - 0.5)
        honest.append(honest_scores(table).mean() - 0.5)

    assert np.mean(seen) > 0.025
    assert abs(np.mean(honest)) < 0.006


def test_the_whole_foreground_must_harm_no_class() -> None:
    helps, harms = (np.full((20, 2, 2, len(TRIED)), 0.5) for _ in range(2))
    helps[:, 1, 0], harms[:, 1, 0], harms[:, 1, 1] = 0.7, 0.7, 0.49
    tables = [
        OutcomeTable(scores, np.arange(20) % 5, np.ones(2), ("a", "b"), TRIED, 0.0001) for scores in (helps, harms)
    ]

    assert fit_postprocessing(tables[0]).keeps_largest_foreground
    assert not fit_postprocessing(tables[1]).keeps_largest_foreground


def test_a_class_without_weight_is_left_alone() -> None:
    table = _table(np.full((20, 2), 0.1))
    weighted = OutcomeTable(table.scores, table.folds, np.array([1.0, 0.0]), table.names, TRIED, 0.0001)

    assert list(fit_postprocessing(weighted).classes) == ["class 0"]


def test_ties_go_to_the_simpler_treatment() -> None:
    table = _table(np.full((20, 1), 0.1))
    table.scores[..., 1:] = 0.6

    assert fit_postprocessing(table).classes == {"class 0": TRIED[1]}
