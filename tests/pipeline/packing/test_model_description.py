"""What is said of a model: how many cases have a class, how big regions are, whose scores these are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli.packing import show_model
from autoseg.core.labels import declare_regions
from autoseg.core.workspace import ALL_DATA, Workspace
from autoseg.evaluate.case import score_case
from autoseg.evaluate.run import evaluation_rules
from autoseg.evaluate.scores import CaseScores, summarise
from autoseg.fingerprint.schema import Fingerprint
from autoseg.infer.unlike import Familiar, training_volumes_ml, unlike_result
from autoseg.pipeline import Networks, choose_networks, describe, load_plan
from autoseg.pipeline.heldout.maps import HeldOutPredictions
from autoseg.pipeline.packing.model_card import model_card
from autoseg.pipeline.packing.model_description import ModelDescription, _scores, _targets
from autoseg.plan.rulebook import load_rulebook
from autoseg.select.choose import Selection
from tests.pipeline.models import SPACING, fingerprint, untrained
from tests.pipeline.packing.packable import TOGETHER, train
from tests.preprocess import plans

REGIONS = declare_regions({"whole": (1, 5), "core": (5,)}, (1, 5))


@pytest.fixture
def model(workspace: Workspace) -> ModelDescription:
    return describe(workspace, choose_networks(workspace))


def _of_regions() -> Fingerprint:
    """Volumes of label 1 are 200 and 300 mm3, of label 5 they are 0 and 20 mm3."""
    seen = fingerprint()
    names = ("label 1", "label 5")
    cases = tuple(
        case.model_copy(
            update={
                "classes": tuple(
                    one.model_copy(update={"name": name}) for one, name in zip(case.classes, names, strict=True)
                )
            }
        )
        for case in seen.cases
    )
    return seen.model_copy(update={"cases": cases, "frequencies": ()})


def test_a_region_is_as_frequent_and_as_big_as_its_classes_together() -> None:
    targets = list(_targets(plans.plan().model_copy(update={"labels": REGIONS}), _of_regions()))
    assert [(one.name, one.case_share) for one in targets] == [("whole", 1.0), ("core", 0.5)]
    assert [one.median_volume_ml for one in targets] == pytest.approx([(0.2 + 0.32) / 2, 0.02])


def test_volumes_of_regions_are_compared_with_those_of_training() -> None:
    planned = plans.plan().model_copy(update={"labels": REGIONS})
    familiar = Familiar(planned, _of_regions(), load_rulebook().empirical.unlike)
    assert "no whole was found" in unlike_result({"whole": 0.0, "core": 0.0}, familiar)["volume of whole"]
    assert unlike_result({"whole": 0.25, "core": 500.0}, familiar).keys() == {"volume of core"}


def test_where_the_classes_of_the_cases_are_not_known_there_are_no_volumes() -> None:
    seen = fingerprint()
    bare = seen.model_copy(update={"cases": tuple(case.model_copy(update={"classes": ()}) for case in seen.cases)})
    assert training_volumes_ml(bare, plans.LABELS) == {"organ": (), "lesion": ()}
    assert [target.case_share for target in _targets(plans.plan(), bare)] == [None, None]


def test_a_case_has_a_class_if_its_reference_has() -> None:
    with_lesion, without = np.zeros((2, 4, 4, 4), np.uint16)
    with_lesion[0], with_lesion[1], without[0] = 1, 2, 1
    maps = {"found": (with_lesion, with_lesion), "missed": (without, with_lesion), "false": (with_lesion, without)}
    cases = [
        CaseScores(name=name, classes=score_case(*pair, SPACING, plans.LABELS, evaluation_rules()))
        for name, pair in maps.items()
    ]
    found = summarise(cases, plans.LABELS, evaluation_rules())
    assert found.per_class["lesion"].dice.num_cases == 3, "or this test proves nothing"
    assert [(one.name, one.num_cases) for one in _scores(found).classes] == [("organ", 3), ("lesion", 2)]


def test_card_and_screen_say_how_many_references_have_a_class(
    model: ModelDescription, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model.held_out is not None
    classes = tuple(one.model_copy(update={"num_cases": 7}) for one in model.held_out.classes)
    counted = model.model_copy(update={"held_out": model.held_out.model_copy(update={"classes": classes})})
    assert next(line for line in model_card(counted, "a.zip").splitlines() if line.startswith("| lesion")).endswith(
        " 7 |"
    )
    show_model(counted)
    assert "cases that have it" in " ".join(capsys.readouterr().out.split())


def test_a_weighted_choice_is_said_to_be_one(
    workspace: Workspace, model: ModelDescription, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model.weights == {}
    assert "Chosen by the mean Dice out of:" in model_card(model, "a.zip")
    selection = Selection.load(workspace.selection)
    selection.model_copy(update={"weights": {"organ": 1.0, "lesion": 5.0}}).save(workspace.selection)
    weighted = describe(workspace, choose_networks(workspace))
    assert weighted.weights == {"organ": 1.0, "lesion": 5.0}
    assert "Chosen by the weighted mean Dice (weights: organ 1, lesion 5) out of:" in model_card(weighted, "a.zip")
    show_model(weighted)
    assert "weighted mean Dice" in " ".join(capsys.readouterr().out.split())


def test_scores_are_those_of_the_folds_that_predict(workspace: Workspace) -> None:
    networks = choose_networks(workspace)
    both, first = describe(workspace, networks), describe(workspace, replace(networks, folds=(0,)))
    assert both.held_out is not None
    assert first.held_out is not None
    assert (both.held_out.num_cases, first.held_out.num_cases) == (2, 1)
    assert (both.held_out.mean_dice, first.held_out.mean_dice) == (0.625, 1.0)
    assert (len(both.compared), first.compared, first.metric, first.gain) == (2, (), None, None)
    assert first.postprocessing == both.postprocessing


def test_networks_that_have_seen_all_cases_have_no_scores(workspace: Workspace) -> None:
    for name in TOGETHER:
        train(workspace, load_plan(workspace), name, ALL_DATA)
    assert describe(workspace, replace(choose_networks(workspace), folds=(ALL_DATA,))).held_out is None


def test_scores_of_other_label_maps_than_are_there_are_left_out(workspace: Workspace) -> None:
    """As after a training that was killed between prediction and scores."""
    assert describe(workspace, Networks("2d", (0, 1))).held_out is not None
    record = workspace.crossval("2d") / "fold_1.json"
    maps = HeldOutPredictions.load(record)
    maps.model_copy(update={"made_from": {**maps.made_from, "mirrored": "False"}}).save(record)
    assert describe(workspace, Networks("2d", (0, 1))).held_out is None
    assert describe(workspace, Networks("2d", (0,))).held_out is not None


def test_a_model_that_was_never_scored_has_no_scores(tmp_path: Path) -> None:
    place = untrained(tmp_path)
    assert describe(place, choose_networks(place)).held_out is None
