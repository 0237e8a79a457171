"""One folder, one status: what is done, running, broken off, failed and why, missing."""

import os
import shutil
from pathlib import Path
from threading import Timer

import filelock
import pytest

from autoseg import pipeline
from autoseg.core.artefact import Artefact, digest_of, digest_of_file
from autoseg.core.errors import DatasetError, InterruptionError, PlanError, TrainingError
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.splits import Split, Splits
from autoseg.data.store import stored_properties
from autoseg.evaluate.scores import Evaluation
from autoseg.fingerprint import Fingerprint
from autoseg.pipeline.budget.schedule import Allocation
from autoseg.pipeline.heldout.maps import HeldOutPredictions
from autoseg.pipeline.planning.folds import load_split
from autoseg.pipeline.prediction.models import digest_of_networks
from autoseg.pipeline.running.request import RunResult
from autoseg.pipeline.running.status import TrainingStatus, noting_failure_of_run, status_of
from autoseg.pipeline.training.failure import noting_failure
from autoseg.plan.schema import ConfigurationName
from autoseg.preprocess.run import CONTENT
from autoseg.select.choose import Selection
from autoseg.train.loop import FoldData, TrainingRequest, train_fold
from autoseg.train.record import CASES, EARLIER_STAGE, RECIPE, TrainingRecord
from tests.end_to_end.blobs import write_blobs, write_tiny_rules
from tests.end_to_end.runs import tiny_run
from tests.pipeline.models import SPACING, leave_training, untrained
from tests.pipeline.packing.packable import packable, write_scores
from tests.preprocess import plans


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """One fold of four that is trained."""
    workspace = untrained(tmp_path, num_folds=1)
    split = Split(train=("a",), validation=("b",))
    Splits(folds=(split,) * 4, seed=0).save(workspace.splits)
    for fold in range(1, 4):
        workspace.fold("3d_fullres", fold).root.mkdir(parents=True)
    return workspace


def _trainings(workspace: Workspace) -> list[TrainingStatus]:
    return list(status_of(workspace).trainings)


def test_every_state_of_a_training_is_told(workspace: Workspace) -> None:
    first, second, third, _ = (workspace.fold("3d_fullres", fold) for fold in range(4))
    second.checkpoint.write_bytes(b"state")
    second.history.write_text("epoch,loss\n1,0.5\n2,0.4\n")
    with pytest.raises(TrainingError), noting_failure(third):
        raise TrainingError("loss: must be finite, got nan. Lower the learning rate.")
    found = _trainings(workspace)
    assert [training.state for training in found] == ["done", "broken off", "failed", "missing"]
    assert [training.num_epochs for training in found] == [0, 2, 0, 0]
    assert found[2].error == "loss: must be finite, got nan. Lower the learning rate."
    with filelock.FileLock(second.lock):
        assert _trainings(workspace)[1].state == "running"
    assert first.record.exists()


def test_what_is_done_stays_done_though_it_was_asked_for_in_vain(workspace: Workspace) -> None:
    folder = workspace.fold("3d_fullres", 0)
    with pytest.raises(TrainingError), noting_failure(folder):
        raise TrainingError("another length is asked for")
    found = _trainings(workspace)[0]
    assert (found.state, found.error) == ("done", "another length is asked for")


def test_folds_that_there_are_and_folders_that_are_seen_count_as_predicted(workspace: Workspace) -> None:
    place = workspace.crossval("3d_fullres")
    place.mkdir(parents=True)
    for fold in (0, 2, 7):
        (place / f"fold_{fold}.json").write_text("{}")
    (workspace.root / "crossval" / ".writing-1a2b-3-front").mkdir()
    assert status_of(workspace).held_out == {"3d_fullres": 2}


def test_why_a_run_failed_is_told_until_the_next_one(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(DatasetError), noting_failure_of_run(workspace):
        raise DatasetError("images/a.nii.gz: must be readable.")
    found = status_of(workspace)
    assert found.error == "images/a.nii.gz: must be readable."
    assert (found.dataset, set(found.stages.values()), found.trainings) == (None, {"missing"}, ())
    with pytest.raises(InterruptionError), noting_failure_of_run(workspace):
        raise InterruptionError("left")
    with pytest.raises(PlanError, match="a workspace with a plan is needed"):
        status_of(workspace)


def test_stages_of_other_data_are_out_of_date(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    source = write_blobs(tmp_path / "data", num_cases=3)
    options = pipeline.DataOptions(None, 3, 0)
    pipeline.plan(source, workspace, options, pipeline.PlanOptions("cpu", None), Silent())
    prepared = ("check", "fingerprint", "splits", "plan")
    assert {name: status_of(workspace).stages[name] for name in prepared} == dict.fromkeys(prepared, "done")
    os.utime(min((source / "labels").iterdir()))
    pipeline.check(source, workspace, options, Silent())
    found = status_of(workspace).stages
    assert (found["check"], found["fingerprint"], found["splits"]) == ("done", "out of date", "out of date")
    label = min((source / "labels").iterdir())
    label.write_bytes(b"no label map")
    pipeline.check(source, workspace, options, Silent())
    assert status_of(workspace).stages["check"] == "failed"


def _prepared(workspace: Workspace) -> None:
    """Have the stages before the trainings be of the dataset, and all trainings of the plan."""
    made_from = {"dataset": Dataset.load(workspace.dataset).digest()}
    kinds: list[tuple[type[Artefact], Path]] = [(Fingerprint, workspace.fingerprint), (Splits, workspace.splits)]
    for kind, path in kinds:
        kind.load(path).model_copy(update={"made_from": made_from}).save(path)
    planned = pipeline.load_plan(workspace)
    for name in planned.configurations:
        for folder in workspace.folds(name).values():
            record = TrainingRecord.load(folder.record)
            recipe = {RECIPE: planned.recipe_digest(name)}
            record.model_copy(update={"made_from": {**record.made_from, **recipe}}).save(folder.record)


def _result(evaluation: Evaluation, selection: Selection | None, *reached: ConfigurationName) -> RunResult:
    return RunResult(
        dataset="phantom",
        trained=reached,
        folds=(0, 1),
        reached=reached,
        evaluation=evaluation,
        selection=selection,
        allocation=Allocation(shares=(), mirror=True),
        seconds={},
    )


def _stages(workspace: Workspace) -> tuple[str, str]:
    found = status_of(workspace).stages
    return found["selection"], found["run"]


def test_a_selection_of_other_networks_and_a_run_with_it_are_out_of_date(tmp_path: Path) -> None:
    workspace = packable(tmp_path)
    _prepared(workspace)
    selection = Selection.load(workspace.selection)
    result = _result(write_scores(workspace, ("2d", "3d_fullres")), selection, "2d", "3d_fullres")
    result.save(workspace.run)
    assert _stages(workspace) == ("done", "done")
    result.model_copy(update={"failed": {"2d fold 0": "loss: must be finite."}}).save(workspace.run)
    assert _stages(workspace) == ("done", "failed")
    result.model_copy(update={"selection": selection.model_copy(update={"num_cases": 9})}).save(workspace.run)
    assert _stages(workspace) == ("done", "out of date")
    result.save(workspace.run)
    splits = Splits.load(workspace.splits)
    for made_from in ({"splits": "other"}, {"plan": "other"}, {"2d fold 1": "other"}):
        changed = selection.model_copy(update={"made_from": {**selection.made_from, **made_from}})
        changed.save(workspace.selection)
        result.model_copy(update={"selection": changed}).save(workspace.run)
        assert _stages(workspace) == ("out of date", "out of date")
    known = selection.model_copy(update={"made_from": {**selection.made_from, "splits": splits.digest()}})
    known.save(workspace.selection)
    result.model_copy(update={"selection": known}).save(workspace.run)
    assert _stages(workspace) == ("done", "done")
    leave_training(workspace, pipeline.load_plan(workspace), "2d", 1, seed=99)
    assert _stages(workspace) == ("out of date", "out of date")


@pytest.mark.parametrize("loser", ["2d", "3d_fullres"])
def test_a_selection_is_of_those_that_lost_too(tmp_path: Path, loser: ConfigurationName) -> None:
    workspace = packable(tmp_path)
    _prepared(workspace)
    selection = Selection.load(workspace.selection)
    winner: tuple[ConfigurationName, ...] = ("2d",) if loser == "3d_fullres" else ("3d_fullres",)
    selection.model_copy(update={"configurations": winner}).save(workspace.selection)
    assert _stages(workspace)[0] == "done"
    workspace.fold(loser, 0).weights.unlink()
    assert _stages(workspace)[0] == "out of date"


def test_a_selection_of_other_data_than_was_checked_last_is_out_of_date(tmp_path: Path) -> None:
    workspace = packable(tmp_path)
    _prepared(workspace)
    assert _stages(workspace)[0] == "done"
    Dataset.load(workspace.dataset).model_copy(update={"made_from": {"files": "others"}}).save(workspace.dataset)
    assert _stages(workspace)[0] == "out of date"


def test_a_run_without_a_selection_is_of_networks_and_their_label_maps(tmp_path: Path) -> None:
    workspace = packable(tmp_path)
    _prepared(workspace)
    maps = [workspace.crossval("2d") / f"fold_{fold}.json" for fold in (0, 1)]
    dataset = Dataset.load(workspace.dataset).digest()

    def scored() -> RunResult:
        digests = {f"fold {fold}": HeldOutPredictions.load(path).digest() for fold, path in enumerate(maps)}
        written = {"dataset": dataset, **digests}
        return _result(write_scores(workspace, ("2d",)).model_copy(update={"made_from": written}), None, "2d")

    for path in maps:
        name = path.stem.removeprefix("fold_")
        weights = digest_of_file(workspace.fold("2d", int(name)).weights)
        known = HeldOutPredictions.load(path)
        known.model_copy(update={"made_from": {"2d": weights}}).save(path)
    result = scored()
    result.save(workspace.run)
    assert _stages(workspace)[1] == "done"
    other = result.evaluation.model_copy(update={"made_from": {**result.evaluation.made_from, "dataset": "other"}})
    result.model_copy(update={"evaluation": other}).save(workspace.run)
    assert _stages(workspace)[1] == "out of date"
    result.save(workspace.run)
    leave_training(workspace, pipeline.load_plan(workspace), "2d", 1, seed=99)
    assert _stages(workspace)[1] == "out of date"
    write_scores(workspace, ("2d",))
    assert _stages(workspace)[1] == "out of date"
    scored().save(workspace.run)
    assert _stages(workspace)[1] == "done"


@pytest.fixture
def preprocessed(tmp_path: Path) -> Workspace:
    """Three cases in three folds, preprocessed; fold 0 is trained on two of them."""
    workspace = Workspace(tmp_path / "work")
    options = pipeline.PlanOptions("cpu", write_tiny_rules(tmp_path / "rules"))
    source = write_blobs(tmp_path / "data", num_cases=3)
    planned = pipeline.plan(source, workspace, pipeline.DataOptions(None, 3, 0), options, Silent())
    _, folder = pipeline.preprocess(workspace, "3d_fullres", 0, Silent())
    leave_training(workspace, planned, "3d_fullres", 0)
    stored = {name: stored_properties(folder, name) for name in load_split(workspace, 0).train}
    contents = {name: found.made_from[CONTENT] for name, found in stored.items() if found is not None}
    assert len(contents) == 2
    path = workspace.fold("3d_fullres", 0).record
    record = TrainingRecord.load(path)
    data = {CASES: digest_of(contents), "dataset": Dataset.load(workspace.dataset).digest()}
    record.model_copy(update={"made_from": {**record.made_from, **data}}).save(path)
    return workspace


def _label(workspace: Workspace, name: str) -> Path:
    return next(Path(str(case.label)) for case in Dataset.load(workspace.dataset).cases if case.name == name)


def _state(workspace: Workspace) -> str:
    return next(found.state for found in _trainings(workspace) if found.configuration == "3d_fullres")


def test_a_training_whose_labels_have_changed_is_of_other_data(preprocessed: Workspace) -> None:
    """Until they are preprocessed, nobody knows whether files that were touched hold something else."""
    split = load_split(preprocessed, 0)
    assert _state(preprocessed) == "done"
    os.utime(_label(preprocessed, split.validation[0]))
    assert _state(preprocessed) == "done"
    label = _label(preprocessed, split.train[0])
    os.utime(label)
    assert _state(preprocessed) == "of other data"
    pipeline.preprocess(preprocessed, "3d_fullres", 0, Silent())
    assert _state(preprocessed) == "done"
    shutil.copy(_label(preprocessed, split.train[1]), label)
    pipeline.preprocess(preprocessed, "3d_fullres", 0, Silent())
    assert _state(preprocessed) == "of other data"
    with pytest.raises(TrainingError), noting_failure(preprocessed.fold("3d_fullres", 0)):
        raise TrainingError("loss: must be finite, got nan.")
    assert _state(preprocessed) == "failed"


def test_a_training_of_other_folds_is_of_other_data(preprocessed: Workspace) -> None:
    folds = Splits.load(preprocessed.splits).folds
    Splits(folds=(folds[1], folds[0], folds[2]), seed=0).save(preprocessed.splits)
    assert _state(preprocessed) == "of other data"
    for changed, state in ((folds, "done"), (folds[1:], "of other data"), ((), "done")):
        Splits(folds=changed, seed=0).save(preprocessed.splits)
        assert _state(preprocessed) == state


def test_without_its_preprocessed_cases_a_training_is_of_its_dataset(preprocessed: Workspace) -> None:
    shutil.rmtree(preprocessed.root / "preprocessed")
    assert _state(preprocessed) == "done"
    dataset = Dataset.load(preprocessed.dataset)
    dataset.model_copy(update={"made_from": {"files": "others"}}).save(preprocessed.dataset)
    assert _state(preprocessed) == "of other data"


def test_a_training_is_of_its_data_wherever_these_are_now(preprocessed: Workspace) -> None:
    _label(preprocessed, load_split(preprocessed, 0).train[0]).unlink()
    assert _state(preprocessed) == "done"


def test_a_cascade_that_has_learnt_from_other_networks_is_of_other_data(tmp_path: Path) -> None:
    full = plans.configuration(SPACING)
    later = full.model_copy(update={"previous_stage": "3d_lowres"})
    planned = plans.plan(configurations={"3d_lowres": full, "3d_cascade_fullres": later})
    workspace = untrained(tmp_path, plan=planned, configuration="3d_lowres")
    Splits(folds=(Split(train=("a",), validation=("b",)),) * 2, seed=0).save(workspace.splits)
    leave_training(workspace, planned, "3d_cascade_fullres", 0)
    path = workspace.fold("3d_cascade_fullres", 0).record
    record = TrainingRecord.load(path)
    digest = digest_of_networks(workspace, "3d_lowres")
    record.model_copy(update={"made_from": {**record.made_from, EARLIER_STAGE: digest}}).save(path)
    assert [found.state for found in _trainings(workspace)] == ["done", "done", "done", "missing"]
    leave_training(workspace, planned, "3d_lowres", 1, seed=99)
    assert [found.state for found in _trainings(workspace)] == ["done", "done", "of other data", "missing"]


@pytest.mark.slow
def test_what_a_run_would_do_again_is_not_done(tmp_path: Path) -> None:
    source = write_blobs(tmp_path / "data")
    workspace, _ = tiny_run(tmp_path, source, num_epochs=1)
    assert _state(workspace) == "done"
    assert _stages(workspace) == ("missing", "done")
    first, second = (_label(workspace, name) for name in load_split(workspace, 0).train[:2])
    before = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert _state(workspace) == "of other data"
    assert _stages(workspace)[1] == "out of date"
    first.write_bytes(before)
    weights = workspace.fold("3d_fullres", 0).weights.stat().st_mtime_ns
    tiny_run(tmp_path, source, num_epochs=1)
    assert workspace.fold("3d_fullres", 0).weights.stat().st_mtime_ns == weights
    assert _state(workspace) == "done"
    assert _stages(workspace)[1] == "done"


def test_a_training_that_begins_while_status_looks_waits_a_moment(workspace: Workspace) -> None:
    """It comes as far as the training that is there, which is another one."""
    folder = workspace.fold("3d_fullres", 0)
    data = FoldData(load_split(workspace, 0), workspace.root, "")
    request = TrainingRequest("3d_fullres", 0, 1, None, "cpu", 0, 0, restart=False)
    look = filelock.FileLock(folder.lock, thread_local=False)
    look.acquire()
    Timer(0.3, look.release).start()
    with pytest.raises(TrainingError, match="a training is continued with the plan"):
        train_fold(pipeline.load_plan(workspace), data, folder, request, Silent())


def test_a_training_that_ends_well_has_not_failed(workspace: Workspace) -> None:
    folder = workspace.fold("3d_fullres", 3)
    with pytest.raises(TrainingError), noting_failure(folder):
        raise TrainingError("disk: must have space, got none. Free some.")
    with noting_failure(folder):
        pass
    assert _trainings(workspace)[3].state == "missing"


def test_an_interruption_is_no_failure(workspace: Workspace) -> None:
    folder = workspace.fold("3d_fullres", 3)
    with pytest.raises(InterruptionError), noting_failure(folder):
        raise InterruptionError("training left in epoch 3")
    assert not folder.failure.exists()


def test_who_comes_second_does_not_call_the_running_training_failed(workspace: Workspace) -> None:
    folder = workspace.fold("3d_fullres", 3)
    with filelock.FileLock(folder.lock), pytest.raises(TrainingError), noting_failure(folder):
        raise TrainingError("locked")
    assert not folder.failure.exists()


def test_a_workspace_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="a workspace with a plan is needed"):
        status_of(Workspace(tmp_path))
