"""Selection in a workspace: from networks that are there to `selection.json`, and what is wrong with others."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autoseg import pipeline
from autoseg.core.errors import PredictionError, SelectionError
from autoseg.core.progress import Silent
from autoseg.core.temporary import temporary_prefix
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.image import read_image, read_label
from autoseg.data.splits import Splits
from autoseg.evaluate.scores import Evaluation
from autoseg.infer.case import Model, Onlooker, Settings, predict_classes
from autoseg.network.checkpoint import save_weights
from autoseg.network.unet import UNet
from autoseg.pipeline.budget.schedule import Allocation
from autoseg.pipeline.heldout import scores
from autoseg.pipeline.heldout import selection as selection_stage
from autoseg.pipeline.heldout.maps import HeldOutPredictions, HeldOutRequest
from autoseg.pipeline.heldout.scores import held_out_pairs
from autoseg.pipeline.heldout.selection import SelectionRequest, find_held_out, make_selection
from autoseg.pipeline.prediction.models import load_model, load_selection
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import Plan
from autoseg.preprocess.case import Prepared
from autoseg.select import ensemble
from autoseg.select.choose import Selection
from autoseg.select.ensemble import Member, segment_together
from autoseg.select.measure import Trial, measure_outcomes, measure_postprocessed
from autoseg.select.postprocess import Postprocessing, Treatment, treatments
from autoseg.select.predictor import postprocessed
from autoseg.train.record import TrainingRecord
from tests.end_to_end.blobs import write_blobs, write_tiny_rules
from tests.pipeline.models import leave_training

NUM_FOLDS = 3
KEEPS_LARGEST = treatments(load_rulebook().empirical.postprocessing.min_volumes_mm3).index(
    Treatment(keeps_largest=True)
)
REQUEST = SelectionRequest(device="cpu", mirror=False)


def _plan(folder: Path) -> tuple[Workspace, Plan]:
    workspace = Workspace(folder / "work")
    planned = pipeline.plan(
        write_blobs(folder / "data", shape=(7, 16, 15)),
        workspace,
        pipeline.DataOptions(group_by=r"(pat\d+)_", num_folds=NUM_FOLDS, num_workers=0),
        pipeline.PlanOptions(preset="cpu", rules=write_tiny_rules(folder / "rules")),
        Silent(),
    )
    return workspace, planned


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which 2d and 3d_fullres are there in all folds, and selected from."""
    workspace, planned = _plan(tmp_path_factory.mktemp("selection"))
    assert set(planned.configurations) == {"2d", "3d_fullres"}
    for configuration in planned.configurations:
        for fold in range(NUM_FOLDS):
            leave_training(workspace, planned, configuration, fold)
    make_selection(workspace, REQUEST, Silent())
    return workspace


@pytest.fixture
def copied(trained: Workspace, tmp_path: Path) -> Workspace:
    """The same, to be spoilt."""
    shutil.copytree(trained.root, tmp_path / "work")
    return Workspace(tmp_path / "work")


def _before_each_prediction(monkeypatch: pytest.MonkeyPatch, act: Callable[[str, Model], None]) -> None:
    """Have `act` see the name of each case and the model that is about to predict it."""

    def predicting(
        prepared: Prepared, model: Model, settings: Settings, report: Callable[[float], None], onlooker: Onlooker
    ) -> NDArray[np.uint8 | np.uint16]:
        act(prepared.properties.name, model)
        return predict_classes(prepared, model, settings, report, onlooker)

    monkeypatch.setattr(ensemble, "predict_classes", predicting)


def test_every_candidate_is_scored_on_every_case(trained: Workspace) -> None:
    selection = Selection.load(trained.selection)

    assert {candidate.name for candidate in selection.candidates} == {"2d", "3d_fullres", "2d + 3d_fullres"}
    assert selection.configurations == selection.candidates[0].configurations
    assert (selection.num_cases, selection.num_groups, selection.folds) == (6, 3, (0, 1, 2))
    for candidate in selection.candidates:
        folder = trained.crossval("+".join(candidate.configurations))
        evaluation = Evaluation.load(folder / "evaluation.json")
        assert len(evaluation.cases) == 6
        assert {case.group for case in evaluation.cases} == {"pat0", "pat1", "pat2"}
        assert candidate.score == pytest.approx(evaluation.mean_foreground_dice)
        assert candidate.interval == evaluation.mean_foreground_interval


def test_an_ensemble_keeps_what_its_members_agree_on(trained: Workspace) -> None:
    maps = [
        read_label(trained.crossval(name) / "pat0_scan0.nii.gz").array for name in ("2d", "3d_fullres", "2d+3d_fullres")
    ]
    agreed = maps[0] == maps[1]

    assert 0 < agreed.mean() < 1
    assert (maps[2] == maps[0])[agreed].all()


def test_only_label_maps_and_scores_are_left(trained: Workspace) -> None:
    left = {path.suffix for path in (trained.root / "crossval").rglob("*") if path.is_file()}

    assert left == {".gz", ".json"}


def test_each_case_is_predicted_once_by_each_configuration(copied: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone and together; of a run that was broken off, only what is missing."""
    before = Selection.load(copied.selection)
    seen: list[tuple[str, str]] = []

    def note(name: str, model: Model) -> None:
        seen.append((name, "2d" if len(model.configuration.patch_size) == 2 else "3d"))

    _before_each_prediction(monkeypatch, note)
    shutil.rmtree(copied.root / "crossval")
    copied.selection.unlink()
    assert make_selection(copied, REQUEST, Silent()) == before
    assert sorted(seen) == sorted(
        (case.name, name) for case in Dataset.load(copied.dataset).cases for name in ("2d", "3d")
    )

    kept = copied.crossval("2d+3d_fullres") / "pat0_scan0.nii.gz"
    written = kept.stat().st_mtime_ns
    for together in ("2d+3d_fullres", "3d_fullres"):
        (copied.crossval(together) / "pat1_scan2.nii.gz").unlink()
    copied.selection.unlink()
    seen.clear()
    assert make_selection(copied, REQUEST, Silent()) == before
    assert sorted(seen) == [("pat1_scan2", "2d"), ("pat1_scan2", "3d")]
    assert kept.stat().st_mtime_ns == written


def test_predictions_that_were_broken_off_go_on_with_the_next_case(
    copied: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Selection.load(copied.selection)
    shutil.rmtree(copied.root / "crossval")
    copied.selection.unlink()
    held_out = Splits.load(copied.splits).folds[0].validation

    def break_off(name: str, _: Model) -> None:
        if name == held_out[1]:
            raise MemoryError

    _before_each_prediction(monkeypatch, break_off)
    with pytest.raises(PredictionError, match=rf"{held_out[1]}.*MemoryError: no more memory. Check"):
        make_selection(copied, REQUEST, Silent())
    assert {path.name for path in copied.crossval("2d").iterdir()} == {
        f"{held_out[0]}.nii.gz",
        "unfinished_fold_0.json",
    }
    monkeypatch.setattr(ensemble, "predict_classes", predict_classes)
    written = (copied.crossval("2d") / f"{held_out[0]}.nii.gz").stat().st_mtime_ns
    assert make_selection(copied, REQUEST, Silent()) == before
    assert (copied.crossval("2d") / f"{held_out[0]}.nii.gz").stat().st_mtime_ns == written
    assert not list(copied.crossval("2d").glob("unfinished*"))


def _predicted_anew(workspace: Workspace) -> set[str]:
    """Select again; return the label maps that are written for that."""
    maps = {path: path.stat().st_mtime_ns for path in (workspace.root / "crossval").glob("*/*.nii.gz")}
    workspace.selection.unlink()
    make_selection(workspace, REQUEST, Silent())
    return {f"{path.parent.name}/{path.name[:10]}" for path, when in maps.items() if path.stat().st_mtime_ns != when}


def test_a_touched_image_is_predicted_again_alone(copied: Workspace) -> None:
    image = Path(Dataset.load(copied.dataset).cases[0].images[0])
    status = image.stat()
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    try:
        together = ("2d", "3d_fullres", "2d+3d_fullres")
        assert _predicted_anew(copied) == {f"{name}/{image.name[:10]}" for name in together}
        assert _predicted_anew(copied) == set()
    finally:  # Others look at the same image.
        os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_other_rules_of_inference_predict_all_again(copied: Workspace) -> None:
    planned = pipeline.load_plan(copied)
    inference = planned.inference.model_copy(update={"tile_step": 0.9})
    planned.model_copy(update={"inference": inference}).save(copied.plan)
    assert len(_predicted_anew(copied)) == 3 * len(Dataset.load(copied.dataset).cases)


def test_what_killed_processes_left_is_removed(copied: Workspace) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    machine = temporary_prefix().split("-")[1]
    left = copied.crossval("2d") / f".writing-{machine}-{ended.pid}-x.nii.gz"
    left.touch()
    make_selection(copied, REQUEST, Silent())
    assert not left.exists()


def test_another_metric_scores_nothing_again(copied: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(scores, "evaluate_sets", refusing)
    assert make_selection(copied, replace(REQUEST, metric="nsd"), Silent()).metric == "nsd"


def test_scores_of_one_fold_draw_patients_too(copied: Workspace) -> None:
    choice = pipeline.ModelChoice("2d", (0,), "cpu", mirror=False)
    cases = pipeline.score_held_out(copied, choice, 0, Silent()).cases
    assert [case.group for case in cases] == [case.name.partition("_")[0] for case in cases]


def test_disk_stays_far_below_that_of_the_images(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is left are label maps; what waits meanwhile is one case's probabilities, within the bound."""
    waiting: list[tuple[int, int]] = []
    give_up = ensemble._Field.__exit__

    def weighing(field: ensemble._Field, *error: object) -> None:
        field.probabilities.flush()
        waiting.append((os.fstat(field._file.fileno()).st_blocks * 512, field.probabilities.nbytes))
        give_up(field, *error)

    monkeypatch.setattr(ensemble._Field, "__exit__", weighing)
    shutil.rmtree(trained.root / "crossval")
    trained.selection.unlink()
    make_selection(trained, REQUEST, Silent())

    planned = pipeline.load_plan(trained)
    cases = Dataset.load(trained.dataset).cases
    voxels = [int(np.prod(read_label(Path(str(case.label))).array.shape)) for case in cases]
    assert len(waiting) == 2 * len(cases)
    assert all(0 < found <= bound + 4096 for found, bound in waiting)
    assert max(bound for _, bound in waiting) <= 2 * planned.labels.num_outputs * max(voxels)

    images = sum(Path(path).stat().st_size for case in cases for path in case.images)
    left = sum(path.stat().st_size for path in (trained.root / "crossval").rglob("*.nii.gz"))
    assert left < images / 2


@pytest.mark.slow
def test_new_weights_are_predicted_anew(copied: Workspace) -> None:
    before = Selection.load(copied.selection)
    leave_training(copied, pipeline.load_plan(copied), "2d", 1, seed=99)
    after = make_selection(copied, REQUEST, Silent())

    assert after.made_from != before.made_from
    scores = [{found.name: found.score for found in selection.candidates} for selection in (before, after)]
    assert scores[0]["3d_fullres"] == scores[1]["3d_fullres"]
    assert scores[0]["2d"] != scores[1]["2d"]
    assert scores[0]["2d + 3d_fullres"] != scores[1]["2d + 3d_fullres"]


@pytest.mark.slow
def test_metric_and_weights_are_the_users(trained: Workspace, tmp_path: Path) -> None:
    shutil.copytree(trained.root, tmp_path / "work")
    request = SelectionRequest("nsd", {"small": 0.0}, "cpu", mirror=False)
    selection = make_selection(Workspace(tmp_path / "work"), request, Silent())
    winner = selection.candidates[0]
    scores = Evaluation.load(trained.crossval("+".join(winner.configurations)) / "evaluation.json").per_class["large"]

    assert winner.score == pytest.approx(scores.surface_dice.mean)
    assert selection.weights == {"large": 1.0, "small": 0.0}


@pytest.mark.parametrize("mirror", [True, False])
def test_scans_are_mirrored_as_the_run_did(copied: Workspace, mirror: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (copied.root / "crossval").glob("*/fold_*.json"):
        known = HeldOutPredictions.load(path)
        known.model_copy(update={"made_from": {**known.made_from, "mirrored": str(mirror)}}).save(path)
    Allocation(shares=(), mirror=not mirror).save(copied.allocation)  # Of a run before the last one.
    asked: list[bool] = []

    def noting(_: Workspace, request: HeldOutRequest, *__: object) -> None:
        asked.append(request.mirror)
        raise InterruptedError

    monkeypatch.setattr(selection_stage, "score_candidates", noting)
    for wanted in (None, not mirror):
        with pytest.raises(InterruptedError):
            make_selection(copied, replace(REQUEST, mirror=wanted, metric="nsd"), Silent())
    assert asked == [mirror, not mirror]


@pytest.mark.parametrize(("after", "is_kept"), [(1.0, True), (0.0, False)])
def test_postprocessing_must_help_when_its_steps_follow_each_other(
    copied: Workspace, monkeypatch: pytest.MonkeyPatch, after: float, is_kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fitted = Postprocessing(classes={"large": Treatment(keeps_largest=True)})
    monkeypatch.setattr(selection_stage, "fit_postprocessing", lambda _: fitted)
    monkeypatch.setattr(selection_stage, "measure_postprocessed", lambda pairs, *_: np.full((len(pairs), 2), after))
    copied.selection.unlink()
    found = make_selection(copied, REQUEST, Silent()).postprocessing
    assert found == (fitted if is_kept else Postprocessing())
    assert ("Postprocessing is left out" in caplog.text) != is_kept


def test_scores_after_postprocessing_are_those_of_the_treated_maps(copied: Workspace) -> None:
    planned, cases = pipeline.load_plan(copied), Dataset.load(copied.dataset).cases
    trial = Trial(planned.labels, "dice", load_rulebook().empirical)
    pairs = held_out_pairs(copied, ("2d",), cases[:2])
    tables = [measure_outcomes(pairs, trial, 0, Silent())[:, 0, :, column] for column in (0, KEEPS_LARGEST)]
    both = Postprocessing(classes={name: Treatment(keeps_largest=True) for name in ("large", "small")})
    for chosen, expected in ((Postprocessing(), tables[0]), (both, tables[1])):
        np.testing.assert_allclose(measure_postprocessed(pairs, trial, chosen, 0, Silent()), expected)


def test_one_configuration_is_selected_as_well(copied: Workspace) -> None:
    shutil.rmtree(copied.root / "models" / "2d")

    assert make_selection(copied, REQUEST, Silent()).configurations == ("3d_fullres",)


def test_prediction_uses_the_selection(copied: Workspace, tmp_path: Path) -> None:
    """Both configurations and the postprocessing; the same as members by themselves, joined and treated."""
    chosen = Postprocessing(classes={"large": Treatment(keeps_largest=True)})
    found = Selection.load(copied.selection).model_copy(
        update={"configurations": ("2d", "3d_fullres"), "postprocessing": chosen}
    )
    found.save(copied.selection)
    selection = load_selection(copied)
    assert selection is not None
    choice = pipeline.ModelChoice("2d", None, "cpu", mirror=False)
    image = Path(Dataset.load(copied.dataset).cases[0].images[0])
    request = pipeline.Request(image, tmp_path / "mask.nii.gz")
    predictions = pipeline.predict(copied, choice, request, Silent(), selection)
    assert predictions.configuration == "2d + 3d_fullres"
    assert [case.error for case in predictions.cases] == [None]

    predictors = [load_model(copied, replace(choice, configuration=name)) for name in selection.configurations]
    members = [
        Member(predictor.prepare(read_image([image])), predictor.model, predictor.settings) for predictor in predictors
    ]
    (label,) = segment_together(members, [(0, 1)])
    expected = postprocessed(label, predictors[0].model.plan.labels, chosen)
    assert np.array_equal(read_label(tmp_path / "mask.nii.gz").array, expected.array)


def test_a_selection_of_other_networks_is_refused(copied: Workspace) -> None:
    name = Selection.load(copied.selection).configurations[0]
    planned = pipeline.load_plan(copied)
    torch.manual_seed(98)
    save_weights(UNet(planned.configurations[name].network).state_dict(), copied.fold(name, 1).weights)

    with pytest.raises(PredictionError, match="Run `autoseg select` again"):
        load_selection(copied)


def test_missing_folds_and_folds_of_other_plans_are_all_named(copied: Workspace) -> None:
    shutil.rmtree(copied.fold("2d", 1).root)
    record = TrainingRecord.load(copied.fold("3d_fullres", 2).record)
    record.model_copy(update={"made_from": {"recipe": "another"}}).save(copied.fold("3d_fullres", 2).record)

    with pytest.raises(SelectionError) as caught:
        find_held_out(copied)

    message = str(caught.value)
    assert "got 2 problems" in message
    assert "fold 1 of 2d must be trained, found no record. Run `autoseg train --fold 1 --configuration 2d`" in message
    assert "or choose among others: --configuration." in message
    assert "fold 2 of 3d_fullres must be trained as the plan of the workspace says, got another plan" in message
    assert "--fold 2 --configuration 3d_fullres --restart`" in message


def test_a_selection_survives_the_disk(trained: Workspace) -> None:
    selection = Selection.load(trained.selection)

    assert selection.postprocessing == Selection.model_validate_json(selection.model_dump_json()).postprocessing
    assert np.isfinite(selection.candidates[0].score)
