"""Scores of folds that are trained one after another: kept, joined, and dropped with the networks that they were of."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from autoseg.core.artefact import digest_of_file
from autoseg.core.errors import PredictionError
from autoseg.core.geometry import Geometry
from autoseg.core.progress import Silent
from autoseg.core.workspace import ALL_DATA, Workspace
from autoseg.data.dataset import Case, Dataset
from autoseg.data.image import LabelImage, read_label, write_label
from autoseg.data.splits import Split, Splits
from autoseg.evaluate.pairs import Pair
from autoseg.evaluate.run import evaluate_sets
from autoseg.evaluate.scores import Evaluation
from autoseg.pipeline import ModelChoice, score_held_out
from autoseg.pipeline.heldout import scores
from autoseg.pipeline.heldout.maps import HeldOutPredictions, HeldOutRequest, candidate_folder
from autoseg.pipeline.heldout.scores import known_evaluation
from autoseg.select.choose import Together
from tests.pipeline.models import SPACING, leave_training
from tests.preprocess import plans

NAMES = tuple(f"pat{number}_scan{scan}" for number in range(3) for scan in range(2))
LAST: Together = ("2d",)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Three folds of 2d, trained as far as their files say; each holds out the two scans of a patient."""
    place = Workspace(tmp_path / "work")
    planned = plans.plan(configurations={"2d": plans.configuration((1.0, 1.0), (8, 8))})
    planned.save(place.plan)
    reference = np.zeros((4, 4, 4), np.uint16)
    reference[1], reference[2] = 1, 5
    for name in NAMES:
        write_label(tmp_path / f"{name}.nii.gz", LabelImage(reference, Geometry(spacing=SPACING)))
    files = {name: str(tmp_path / f"{name}.nii.gz") for name in NAMES}
    Dataset(
        name=planned.dataset,
        layout="folders",
        channels=planned.channels,
        labels=planned.labels,
        cases=tuple(Case(name=name, images=(files[name],), label=files[name], group=name[:4]) for name in NAMES),
    ).save(place.dataset)
    held_out = [NAMES[2 * fold : 2 * fold + 2] for fold in range(3)]
    splits = [Split(train=tuple(set(NAMES) - set(names)), validation=names) for names in held_out]
    Splits(folds=tuple(splits), seed=1).save(place.splits)
    for fold in range(3):
        leave_training(place, planned, "2d", fold)
    return place


@pytest.fixture(autouse=True)
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of cases that are scored; their label maps are the reference, moved as the fold's weights say."""

    def predicting(workspace: Workspace, request: HeldOutRequest, _: Silent) -> None:
        for together in request.candidates:
            for fold in request.folds:
                _predict(workspace, together, fold)

    seen: list[str] = []

    def noting(sets: Mapping[Together, Sequence[Pair]], *rest: object) -> dict[Together, Evaluation]:
        seen.extend(name for pairs in sets.values() for name, *_ in pairs)
        return evaluate_sets(sets, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(scores, "predict_held_out", predicting)
    monkeypatch.setattr(scores, "evaluate_sets", noting)
    return seen


def _predict(workspace: Workspace, together: Together, fold: int) -> None:
    folder = candidate_folder(workspace, together)
    weights: dict[str, str] = {one: digest_of_file(workspace.fold(one, fold).weights) for one in together}
    cases = {case.name: case for case in Dataset.load(workspace.dataset).cases}
    names = Splits.load(workspace.splits).folds[fold].validation
    for number, name in enumerate(names):
        label = read_label(Path(str(cases[name].label)))
        moved = np.roll(label.array, int(weights[together[0]], 16) % 2 + number, axis=1)
        write_label(folder / f"{name}.nii.gz", LabelImage(moved, label.geometry))
    files = {name: f"{name}.nii.gz" for name in names}
    HeldOutPredictions(made_from=weights, outputs=files).save(folder / f"fold_{fold}.json")


def _score(workspace: Workspace, *folds: int) -> Evaluation:
    return score_held_out(workspace, ModelChoice("2d", folds or None, "cpu", mirror=True), 0, Silent())


def _file(workspace: Workspace) -> Path:
    return workspace.crossval("2d") / "evaluation.json"


def _names(found: Evaluation | None) -> list[str]:
    return [] if found is None else [case.name for case in found.cases]


def test_folds_that_are_scored_one_by_one_end_in_one_file(workspace: Workspace, scored: list[str]) -> None:
    for fold in range(3):
        scored.clear()
        found = _score(workspace, fold)
        own = list(NAMES[2 * fold : 2 * fold + 2])
        assert _names(found) == own
        assert scored == own, "those of other folds are kept"
        assert known_evaluation(workspace, LAST, (fold,)) == found
    one_by_one = known_evaluation(workspace, LAST, (0, 1, 2))
    assert one_by_one is not None
    assert _names(one_by_one) == list(NAMES)
    assert {case.group for case in one_by_one.cases} == {"pat0", "pat1", "pat2"}
    assert one_by_one.mean_foreground_interval is not None
    _file(workspace).unlink()
    assert _score(workspace) == one_by_one


def test_a_fold_that_is_scored_again_keeps_the_others(workspace: Workspace, scored: list[str]) -> None:
    whole = _score(workspace)
    before = _file(workspace).read_bytes()
    scored.clear()
    part = _score(workspace, 1)
    assert (scored, _names(part)) == ([], list(NAMES[2:4]))
    assert part.made_from.keys() == {"dataset", "rules", "fold 1"}
    assert _file(workspace).read_bytes() == before
    assert known_evaluation(workspace, LAST, (0, 1, 2)) == whole


def test_label_maps_that_were_never_scored_are_scored_with_the_next_fold(
    workspace: Workspace, scored: list[str]
) -> None:
    """As those of a version that kept the scores of one fold alone, or of a training that was killed."""
    whole = _score(workspace)
    _file(workspace).unlink()
    scored.clear()
    assert _names(_score(workspace, 1)) == list(NAMES[2:4])
    assert scored == list(NAMES)
    assert known_evaluation(workspace, LAST, (0, 1, 2)) == whole


def test_scores_of_networks_that_are_gone_are_dropped(workspace: Workspace, scored: list[str]) -> None:
    _score(workspace)
    leave_training(workspace, plans.plan(configurations={"2d": plans.configuration((1.0, 1.0), (8, 8))}), "2d", 2, 99)
    assert known_evaluation(workspace, LAST, (0, 1, 2)) is None
    assert _names(known_evaluation(workspace, LAST, (0, 1))) == list(NAMES[:4])
    scored.clear()
    _score(workspace, 0)
    assert scored == []
    assert _names(Evaluation.load(_file(workspace))) == list(NAMES[:4])
    _score(workspace, 2)
    assert scored == list(NAMES[4:])
    assert _names(known_evaluation(workspace, LAST, (0, 1, 2))) == list(NAMES)


def test_scores_of_label_maps_that_were_replaced_are_not_given(workspace: Workspace) -> None:
    """As after a training that was killed between prediction and scores."""
    _score(workspace)
    leave_training(workspace, plans.plan(configurations={"2d": plans.configuration((1.0, 1.0), (8, 8))}), "2d", 0, 98)
    _predict(workspace, LAST, 0)
    assert known_evaluation(workspace, LAST, (0, 1, 2)) is None
    assert known_evaluation(workspace, LAST, (0,)) is None


def test_other_groups_score_all_again(workspace: Workspace, scored: list[str]) -> None:
    _score(workspace)
    dataset = Dataset.load(workspace.dataset)
    cases = tuple(case.model_copy(update={"group": case.name}) for case in dataset.cases)
    dataset.model_copy(update={"cases": cases}).save(workspace.dataset)
    scored.clear()
    _score(workspace, 0)
    assert scored == list(NAMES)
    assert [case.group for case in Evaluation.load(_file(workspace)).cases] == list(NAMES)


def test_label_maps_that_were_deleted_stop_no_other_fold(workspace: Workspace, scored: list[str]) -> None:
    _score(workspace)
    _file(workspace).unlink()
    shutil.move(workspace.crossval("2d") / f"{NAMES[5]}.nii.gz", workspace.root)
    scored.clear()
    _score(workspace, 0)
    assert scored == list(NAMES[:4])


def test_a_fold_that_holds_no_case_out_is_named(workspace: Workspace) -> None:
    _score(workspace, 1)
    assert known_evaluation(workspace, LAST, (1, ALL_DATA)) is None
    splits = Splits.load(workspace.splits)
    empty = splits.folds[0].model_copy(update={"validation": ()})
    splits.model_copy(update={"folds": (empty, *splits.folds[1:])}).save(workspace.splits)
    with pytest.raises(PredictionError, match=r"folds 0: a case must be held out to be scored, got none"):
        _score(workspace, 0)
