import numpy as np
import pytest

from autoseg.core.errors import SelectionError
from autoseg.core.labels import declare_labels
from autoseg.evaluate.compare import Difference
from autoseg.evaluate.run import evaluation_rules
from autoseg.evaluate.scores import Evaluation, summarise
from autoseg.plan.schema import ConfigurationName
from autoseg.select.choose import Candidate, Selection, Together, candidates_of, class_weights, rank, stages_of
from autoseg.select.crossfit import Metric
from autoseg.select.explain import explain_selection
from autoseg.select.postprocess import Postprocessing, Treatment
from tests.evaluate.test_scores import case
from tests.preprocess.plans import configuration

LABELS = declare_labels({1: "organ", 4: "lesion"})
RULES = evaluation_rules()
STAGES: dict[ConfigurationName, int] = {"2d": 1, "3d_fullres": 1, "3d_cascade_fullres": 2}
EVEN = np.ones(2)


def evaluation_of(organ: float, lesion: float | None, surface: float | None = None) -> Evaluation:
    """Return scores of ten cases around the given Dice; the surface Dice is the same unless it is given."""
    cases = [case(str(number), organ + 0.01 * (number % 5 - 2), lesion) for number in range(10)]
    if surface is not None:
        cases = [
            found.model_copy(
                update={
                    "classes": {
                        name: scores.model_copy(update={"surface_dice": surface})
                        for name, scores in found.classes.items()
                    }
                }
            )
            for found in cases
        ]
    return summarise(cases, LABELS, RULES)


def _ranked(
    evaluations: dict[Together, Evaluation],
    metric: Metric = "dice",
    weights: np.ndarray | None = None,
    tie_margin: float = 0.0001,
) -> list[str]:
    weights = EVEN if weights is None else weights
    found = rank(evaluations, metric, weights, RULES, stages=STAGES, tie_margin=tie_margin)
    return [candidate.name for candidate in found]


def test_every_configuration_and_every_pair_is_tried() -> None:
    assert candidates_of(["2d", "3d_fullres", "3d_lowres"]) == [
        ("2d",),
        ("3d_fullres",),
        ("3d_lowres",),
        ("2d", "3d_fullres"),
        ("2d", "3d_lowres"),
        ("3d_fullres", "3d_lowres"),
    ]


def test_the_highest_score_wins() -> None:
    evaluations: dict[Together, Evaluation] = {
        ("2d",): evaluation_of(0.80, 0.6),
        ("3d_fullres",): evaluation_of(0.84, 0.6),
        ("2d", "3d_fullres"): evaluation_of(0.85, 0.6),
    }

    assert _ranked(evaluations) == ["2d + 3d_fullres", "3d_fullres", "2d"]


def test_ties_go_to_the_simpler() -> None:
    single, cascade, pair = evaluation_of(0.80, 0.6), evaluation_of(0.80, 0.60005), evaluation_of(0.80, 0.6001)
    evaluations: dict[Together, Evaluation] = {
        ("2d", "3d_fullres"): pair,
        ("3d_cascade_fullres",): cascade,
        ("3d_fullres",): single,
        ("2d",): single,
    }

    assert _ranked(evaluations)[:2] == ["2d", "2d + 3d_fullres"]
    assert _ranked(evaluations, tie_margin=0.00001)[0] == "2d + 3d_fullres"
    assert _ranked({key: evaluations[key] for key in list(evaluations)[:3]})[0] == "3d_fullres"
    assert _ranked({key: evaluations[key] for key in list(evaluations)[:2]})[0] == "3d_cascade_fullres"


def test_weights_and_metric_change_the_winner() -> None:
    evaluations: dict[Together, Evaluation] = {
        ("2d",): evaluation_of(0.9, 0.5, surface=0.6),
        ("3d_fullres",): evaluation_of(0.7, 0.65, surface=0.7),
    }

    assert _ranked(evaluations)[0] == "2d"
    assert _ranked(evaluations, weights=np.array([1.0, 3.0]))[0] == "3d_fullres"
    assert _ranked(evaluations, metric="nsd")[0] == "3d_fullres"


def test_scores_intervals_and_distances_from_the_winner() -> None:
    evaluations: dict[Together, Evaluation] = {
        ("2d",): evaluation_of(0.9, None),
        ("3d_fullres",): evaluation_of(0.8, None),
    }
    first, second = rank(evaluations, "dice", EVEN, RULES, stages=STAGES, tie_margin=0.0)

    assert first.score == pytest.approx(0.9)
    assert first.classes["organ"] == pytest.approx(0.9)
    assert first.classes["lesion"] is None
    assert first.interval is not None
    assert first.interval.low == pytest.approx(0.9 - 1.96 * 0.01414 / 10**0.5, abs=0.002)
    assert second.behind.difference == pytest.approx(-0.1)
    assert second.behind.interval is not None
    assert second.behind.interval.high == pytest.approx(-0.1)


def test_no_score_is_refused() -> None:
    nothing = summarise([case("a", None, None)], LABELS, RULES)

    with pytest.raises(SelectionError, match="dice must be defined in a held-out case"):
        rank({("2d",): nothing}, "dice", EVEN, RULES, stages=STAGES, tie_margin=0.0)


def test_weights_are_one_unless_asked_for() -> None:
    assert class_weights(LABELS, {"lesion": 2.5}).tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"tumour": 1.0}, "must name a class, organ, lesion, got tumour"),
        ({"organ": -1.0}, "must be 0 or more"),
        ({"organ": 0.0, "lesion": 0.0}, "more than 0 for a class, got organ=0, lesion=0"),
        ({"organ": float("nan")}, "must be 0 or more"),
    ],
)
def test_wrong_weights_are_named(asked: dict[str, float], words: str) -> None:
    with pytest.raises(SelectionError, match=words):
        class_weights(LABELS, asked)


def test_a_score_that_one_case_alone_has_lies_in_no_interval() -> None:
    scored, other = evaluation_of(0.9, 0.6), evaluation_of(0.9, None)
    lonely = scored.model_copy(update={"cases": (scored.cases[0], *other.cases[1:])})
    (winner,) = rank({("2d",): lonely}, "dice", np.array([0.0, 1.0]), RULES, stages=STAGES, tie_margin=0.0001)

    assert winner.score == pytest.approx(0.6)
    assert winner.interval is None


def test_a_cascade_is_two_stages() -> None:
    plans: dict[ConfigurationName, object] = {
        "3d_lowres": configuration(),
        "3d_cascade_fullres": configuration().model_copy(update={"previous_stage": "3d_lowres"}),
    }

    assert stages_of(plans, ["3d_lowres", "3d_cascade_fullres"]) == {"3d_lowres": 1, "3d_cascade_fullres": 2}  # type: ignore[arg-type]


def selection_of(candidates: tuple[Candidate, ...], gain: float, **postprocessing: object) -> Selection:
    return Selection(
        metric="dice",
        tolerance_mm=1.0,
        weights={"organ": 1.0, "lesion": 1.0},
        folds=(0, 1),
        num_cases=10,
        num_groups=10,
        configurations=candidates[0].configurations,
        candidates=candidates,
        tie_margin=0.0001,
        postprocessing=Postprocessing.model_validate(postprocessing),
        gain=Difference(ours=0.8 + gain, theirs=0.8, difference=gain, interval=None),
    )


def test_a_selection_explains_itself() -> None:
    evaluations: dict[Together, Evaluation] = {
        ("2d",): evaluation_of(0.9, 0.6),
        ("3d_fullres",): evaluation_of(0.8, 0.6),
        ("2d", "3d_fullres"): evaluation_of(0.90005, 0.6),
    }
    candidates = rank(evaluations, "dice", EVEN, RULES, stages=STAGES, tie_margin=0.0001)
    text = explain_selection(selection_of(candidates, 0.01, classes={"lesion": Treatment(keeps_largest=True)}))

    assert text.startswith("Configuration: 2d\n")
    assert "of equals the simpler one wins" in text
    assert (
        "3d_fullres: 0.7000, -0.0500 (-0.0500 to -0.0500). The interval leaves out 0: more than the choice of" in text
    )
    assert "Postprocessing: lesion: keep the largest component" in text
    assert "+0.0100" in text
    assert "None helped" in explain_selection(selection_of(candidates, 0.0))
    assert "changed the score on that one by -0.0100" in explain_selection(selection_of(candidates, -0.01))
    dropped = Postprocessing(classes={"lesion": Treatment(keeps_largest=True)})
    story = explain_selection(selection_of(candidates, 0.01).model_copy(update={"dropped": dropped}))
    assert "Left out: lesion: keep the largest component. Each helped" in story
    assert "None helped" not in story
