"""Packed models: what is in them, that they predict the same, and what becomes of files that are there."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from autoseg.core.artefact import digest_of_file
from autoseg.core.errors import ArtefactError, AutosegError, PlanError, PredictionError
from autoseg.core.progress import Silent
from autoseg.core.temporary import temporary_prefix
from autoseg.core.workspace import ALL_DATA, Workspace
from autoseg.data.image import read_image, read_label
from autoseg.data.splits import Splits
from autoseg.evaluate.scores import Evaluation
from autoseg.fingerprint import Fingerprint
from autoseg.infer.maps import Extras, read_probabilities
from autoseg.pipeline import (
    Networks,
    PackRequest,
    Request,
    choose_networks,
    describe,
    load_plan,
    load_predictor,
    open_model,
    pack,
    predict,
)
from autoseg.pipeline.packing.packed_model import MEMBER, read_manifest
from autoseg.select.choose import Selection
from autoseg.select.predictor import SelectedPredictor
from autoseg.train.record import TrainingRecord
from tests.pipeline.models import SPACING, untrained
from tests.pipeline.packing.packable import LICENCE, NAMES, POSTPROCESSING, TOGETHER, train, write_scan
from tests.preprocess import plans


@pytest.fixture(scope="module")
def packed(whole: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The selection, packed."""
    return pack(whole, PackRequest(tmp_path_factory.mktemp("packed") / "phantom.zip"))


def _segmented(workspace: Workspace, networks: Networks, scan: Path, out: Path) -> np.ndarray:
    choice = networks.choice("cpu")
    request = Request(scan, out / "mask.nii.gz", extras=Extras(save_probabilities=True))
    predictions = predict(workspace, choice, request, Silent(), networks.selection)
    assert [case.error for case in predictions.cases] == [None]
    probabilities = read_probabilities(predictions.cases[0].further["probabilities"], "organ")
    return np.stack([read_label(out / "mask.nii.gz").array, probabilities])


def test_an_ensemble_with_postprocessing_predicts_the_same_after_packing(
    whole: Workspace, packed: Path, tmp_path: Path
) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    networks = choose_networks(whole)
    assert (networks.together, networks.folds) == (TOGETHER, (0, 1))
    before = _segmented(whole, networks, scan, tmp_path / "before")
    with open_model(packed) as place:
        assert place.root != whole.root
        after = _segmented(place, choose_networks(place), scan, tmp_path / "after")
        going_on = Request(scan, tmp_path / "before" / "mask.nii.gz", skip_existing=True)
        (kept,) = predict(place, networks.choice("cpu"), going_on, Silent(), networks.selection).cases
    assert kept.is_kept, "a batch that was begun with the workspace goes on with the packed model"
    np.testing.assert_array_equal(before, after)
    raw = _segmented(whole, replace(networks, selection=None), scan, tmp_path / "raw")
    assert (raw[0] != before[0]).any(), "ensemble and postprocessing must show, or this test proves nothing"
    records = [(tmp_path / name / "mask.predictions.json").read_text() for name in ("before", "after")]
    made_from = [re.findall(r'"made_from": \{[^}]*\}', text) for text in records]
    assert made_from[0] == made_from[1]


def test_a_model_is_unpacked_where_it_is_asked_for(packed: Path, tmp_path: Path) -> None:
    with open_model(packed, tmp_path) as place:
        assert place.root.parent == tmp_path
    assert not place.root.exists()


def test_a_predictor_is_loaded_from_one_file_that_is_not_needed_afterwards(packed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(packed, tmp_path / "copy.zip"))
    image = read_image([write_scan(tmp_path / "scan.nii.gz")])
    predictor = load_predictor(copy, device="cpu")
    copy.unlink()
    assert isinstance(predictor, SelectedPredictor)
    assert predictor.postprocessing == POSTPROCESSING
    label = predictor.predict(image)
    assert label.geometry == image.geometry
    written = predictor.predict_file([tmp_path / "scan.nii.gz"], tmp_path / "mask.nrrd")
    np.testing.assert_array_equal(written.array, label.array)


def test_some_of_what_is_packed_can_be_asked_for(whole: Workspace, packed: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    before = _segmented(whole, choose_networks(whole, "2d", (1,)), scan, tmp_path / "before")
    with open_model(packed) as place:
        after = _segmented(place, choose_networks(place, "2d", (1,)), scan, tmp_path / "after")
        assert choose_networks(place, folds=(0,)) == Networks("2d", (0,), Selection.load(place.selection))
        with pytest.raises(PredictionError, match=r"in the model of phantom, 0, 1 of 2d, got 4\. Leave --folds out"):
            choose_networks(place, folds=(4,))
        with pytest.raises(PlanError, match="must be one of 2d, 3d_fullres, got 3d_lowres"):
            choose_networks(place, "3d_lowres")
    np.testing.assert_array_equal(before, after)


def test_equal_models_give_equal_bytes(whole: Workspace, packed: Path, tmp_path: Path) -> None:
    again = pack(whole, PackRequest(tmp_path / "elsewhere" / "another name.zip"))
    assert again.read_bytes() == packed.read_bytes()


def test_a_file_holds_what_it_says_and_nothing_that_can_run(packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        members = {info.filename: info for info in archive.infolist()}
        weights = {name: archive.read(name) for name in members if name.endswith(".safetensors")}
    manifest = read_manifest(packed)
    assert members.keys() == {"model.json", *manifest.files}
    assert all(MEMBER.fullmatch(name) for name in manifest.files)
    assert {name.rpartition(".")[2] for name in members} == {"json", "md", "safetensors"}
    assert {(info.date_time, info.compress_type, info.external_attr >> 16) for info in members.values()} == {
        ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED, 0o100644)
    }
    assert len(weights) == 4
    assert (manifest.configurations, manifest.folds) == (TOGETHER, (0, 1))


def test_plan_folds_selection_fingerprint_and_scores_come_along_without_the_names_of_cases(
    whole: Workspace, packed: Path
) -> None:
    content = packed.read_bytes()
    assert not any(name.encode() in content for name in (*NAMES, NAMES[0].upper(), "/secret"))
    with open_model(packed) as place:
        assert load_plan(place) == load_plan(whole)
        assert Selection.load(place.selection) == Selection.load(whole.selection)
        seen, known = Fingerprint.load(place.fingerprint), Fingerprint.load(whole.fingerprint)
        assert [case.name for case in seen.cases] == ["case_1", "case_2"]
        assert seen.cases[1].model_copy(update={"name": NAMES[1]}) == known.cases[1]
        assert [fold.validation for fold in Splits.load(place.splits).folds] == [("case_1",), ("case_2",)]
        scores = Evaluation.load(place.crossval("2d+3d_fullres") / "evaluation.json")
        assert [(case.name, case.group) for case in scores.cases] == [("case_1", "group_1"), ("case_2", "group_2")]
        assert scores.mean_foreground_dice == 0.625


def test_what_does_not_predict_stays_at_home(workspace: Workspace, tmp_path: Path) -> None:
    with open_model(pack(workspace, PackRequest(tmp_path / "a.zip", "2d", (1,)))) as place:
        assert set(load_plan(place).configurations) == {"2d"}
        assert choose_networks(place) == Networks("2d", (1,))
        assert not place.selection.exists()
        scores = describe(place, choose_networks(place)).held_out
        assert scores is not None
        assert scores.num_cases == 1, "that of the other fold stays at home"
    with open_model(pack(workspace, PackRequest(tmp_path / "b.zip", "2d"))) as place:
        found = describe(place, choose_networks(place))
    assert found.held_out is not None
    assert (found.held_out.num_cases, found.postprocessing, found.compared) == (2, (), ())


def test_a_network_that_has_learnt_from_all_cases_is_packed_without_a_score(
    workspace: Workspace, tmp_path: Path
) -> None:
    train(workspace, load_plan(workspace), "3d_fullres", ALL_DATA)
    with open_model(pack(workspace, PackRequest(tmp_path / "a.zip", "3d_fullres", (ALL_DATA,)))) as place:
        networks = choose_networks(place)
        assert networks == Networks("3d_fullres", (ALL_DATA,))
        assert describe(place, networks).held_out is None


def test_scores_of_other_networks_are_left_out(workspace: Workspace, tmp_path: Path) -> None:
    folder = workspace.fold("2d", 0)
    shutil.copy(workspace.fold("2d", 1).weights, folder.weights)
    known = TrainingRecord.load(folder.record)
    made_from = {**known.made_from, "weights": digest_of_file(folder.weights)}
    known.model_copy(update={"made_from": made_from}).save(folder.record)
    with open_model(pack(workspace, PackRequest(tmp_path / "a.zip", "2d"))) as place:
        assert describe(place, choose_networks(place)).held_out is None


def test_a_selection_of_other_networks_is_not_packed(workspace: Workspace, tmp_path: Path) -> None:
    shutil.copytree(workspace.fold("2d", 1).root, workspace.fold("2d", 0).root, dirs_exist_ok=True)
    with pytest.raises(PredictionError, match="Run `autoseg select` again"):
        pack(workspace, PackRequest(tmp_path / "a.zip"))
    with pytest.raises(PredictionError, match="must be the record of fold 0 of 2d, got that of fold 1"):
        pack(workspace, PackRequest(tmp_path / "a.zip", "2d"))
    assert not (tmp_path / "a.zip").exists()


def test_nothing_trained_and_nothing_planned_are_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="Run `autoseg plan DATA` first"):
        pack(Workspace(tmp_path / "none"), PackRequest())
    with pytest.raises(PredictionError, match="trained networks of 3d_fullres are needed"):
        pack(untrained(tmp_path / "work", num_folds=0), PackRequest())
    with pytest.raises(PredictionError, match="trained networks of 3d_fullres are needed"):
        choose_networks(Workspace(tmp_path / "work"))


def test_a_model_without_fingerprint_folds_and_scores_is_packed(tmp_path: Path) -> None:
    workspace = untrained(tmp_path / "work")
    workspace.fingerprint.unlink()
    with open_model(pack(workspace, PackRequest())) as place:
        found = describe(place, choose_networks(place))
    assert (found.training_data, found.held_out, found.licence.source) == (None, None, "none")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, (LICENCE, "dataset")),
        ("MIT", ("MIT", "given")),
        ("https://example.org/by.html", ("https://example.org/by.html", "given")),
        ("terms.txt", ("First line\n\n  second", "given")),
        (
            "a text that is far too long to be a path " * 200,
            (("a text that is far too long to be a path " * 200).strip(), "given"),
        ),
    ],
)
def test_the_licence_is_the_one_given_or_that_of_the_data(
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    expected: tuple[str, str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "terms.txt").write_text("\ufeff\nFirst line  \n\n  second\n", encoding="utf-8")
    target = pack(workspace, PackRequest(licence=given))
    licence = read_manifest(target).licence
    assert (licence.text, licence.source) == expected
    with zipfile.ZipFile(target) as archive:
        assert expected[0].splitlines()[0] in archive.read("MODEL_CARD.md").decode()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (" \n", "--licence: must be a text"),
        ("licnce.txt", "licnce.txt: must be a readable text, got: .*No such file"),
        ("image.png", "image.png: must be a readable text"),
        ("x" * 300_000, "300000"),
        ("CC BY \x1b[2J", r"licence: terms must hold no control characters.*got 'CC BY \\x1b\[2J'\. Give them without"),
        ("CC BY \udc80", r"licence: terms must hold no control characters.*got 'CC BY \\udc80'"),
    ],
)
def test_a_licence_that_is_no_text_is_refused(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ArtefactError, match=words):
        pack(workspace, PackRequest(licence=given))


def test_a_no_break_space_is_packed_and_opened(workspace: Workspace, tmp_path: Path) -> None:
    licence = "CC BY 4.0 \N{COPYRIGHT SIGN}\N{NO-BREAK SPACE}Uni"
    with open_model(pack(workspace, PackRequest(tmp_path / "a.zip", licence=licence))) as place:
        assert describe(place, choose_networks(place)).licence.text == licence


def test_a_name_that_could_harm_a_terminal_is_refused_before_anything_is_written(
    workspace: Workspace, tmp_path: Path
) -> None:
    planned = load_plan(workspace)
    odd = planned.model_copy(update={"channels": ("CT\N{RIGHT-TO-LEFT OVERRIDE}",)})
    other = untrained(tmp_path / "odd", plan=odd)
    with pytest.raises(
        ArtefactError, match=r"plan\.json: names must hold no control.*got 'CT\\u202e'\. Correct the name"
    ):
        pack(other, PackRequest(tmp_path / "a.zip"))
    assert not (tmp_path / "a.zip").exists()


def test_an_earlier_model_is_replaced_and_nothing_else(workspace: Workspace, tmp_path: Path) -> None:
    target = pack(workspace, PackRequest(tmp_path / "a.zip", "2d"))
    first = target.read_bytes()
    assert pack(workspace, PackRequest(target, "3d_fullres")).read_bytes() != first
    other = untrained(tmp_path / "other", plan=load_plan(workspace).model_copy(update={"dataset": "spleens"}))
    for content, words in ((None, "got a model of phantom"), (b"my thesis", "got something else")):
        if content is not None:
            target.write_bytes(content)
        before = target.read_bytes()
        with pytest.raises(ArtefactError, match=rf"a\.zip: must be new, or an earlier model of spleens, {words}"):
            pack(other, PackRequest(target, "3d_fullres"))
        assert target.read_bytes() == before
    with pytest.raises(ArtefactError, match="must be new"):
        pack(workspace, PackRequest(tmp_path))


def test_a_file_appears_whole_or_not_at_all(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = pack(workspace, PackRequest(tmp_path / "out" / "a.zip", "2d"))
    before = target.read_bytes()

    def fill_disk(source: IO[bytes], target: IO[bytes]) -> str:
        target.write(source.read(100))
        raise OSError("No space left on device")

    monkeypatch.setattr("autoseg.pipeline.packing.pack.copy_hashed", fill_disk)
    with pytest.raises(ArtefactError, match=r"a\.zip: must be writable, got: No space left on device"):
        pack(workspace, PackRequest(target, "3d_fullres"))
    assert [path.name for path in target.parent.iterdir()] == ["a.zip"]
    assert target.read_bytes() == before


def test_the_file_is_called_like_its_dataset(workspace: Workspace) -> None:
    load_plan(workspace).model_copy(update={"dataset": "../My organs / 2"}).save(workspace.plan)
    assert pack(workspace, PackRequest()) == workspace.root / "My_organs_2.zip"


def test_the_card_says_what_people_need_to_know(packed: Path, workspace: Workspace, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        card = archive.read("MODEL_CARD.md").decode()
    for words in (
        "# phantom\n",
        "Segments organ, lesion in scans with the channels scan.",
        "| 5 | lesion | 50% | 0.2 ml |",
        "autoseg predict --model phantom.zip SCANS OUT",
        "| scan | as they are |",
        "2 scans, each network learnt from 1. Axes are z, y, x; orientations (sides that these run to): unknown: 2.",
        "| spacing (mm) | 2 x 1 x 1 | 2.5 x 1 x 1 | 3 x 1 x 1 |",
        "| 3d_fullres | 0, 1 | plain |",
        "The probabilities of 2d and 3d_fullres are averaged.",
        "2 cases of the training data, each predicted by the fold that has not seen it",
        "| mean of classes | 0.625 (",
        "| 2d + 3d_fullres | 0.500 |",
        "- organ: keep the largest component",
        "Change of the score on cases that had no part in choosing it: +0.1250.",
        "It is no medical device",
        "Not in every training case: lesion.",
        f"{LICENCE}. That of the training data",
        "packed by autoseg",
    ):
        assert words in card, words
    unknown = untrained(tmp_path / "bare")
    unknown.fingerprint.unlink()
    with zipfile.ZipFile(pack(unknown, PackRequest())) as archive:
        card = archive.read("MODEL_CARD.md").decode()
    assert "Not known: the model came without a description of them." in card
    assert "None come with this model." in card
    assert "No measure of how good it is comes with it." in card
    assert "None was given, and the training data declare none." in card


def test_odd_names_do_not_break_the_card(workspace: Workspace, tmp_path: Path) -> None:
    planned = load_plan(workspace)
    classes = (
        planned.labels.classes[0],
        *(entry.model_copy(update={"name": "a|b <c>"}) for entry in planned.labels.classes[1:2]),
    )
    odd = planned.model_copy(
        update={"labels": planned.labels.model_copy(update={"classes": (*classes, planned.labels.classes[2])})}
    )
    other = untrained(tmp_path / "odd", plan=odd)
    with zipfile.ZipFile(pack(other, PackRequest(configuration="3d_fullres"))) as archive:
        assert "| 1 | a\\|b \\<c\\> | not known |" in archive.read("MODEL_CARD.md").decode()


def test_an_unzipped_model_is_a_workspace(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "by_hand")
    place = Workspace(tmp_path / "by_hand")
    assert choose_networks(place).together == TOGETHER
    (tmp_path / "by_hand" / "selection.json").unlink()
    assert choose_networks(place) == Networks("2d", (0, 1))


def test_errors_within_name_the_packed_file(packed: Path) -> None:
    with pytest.raises(AutosegError, match=r"phantom\.zip, plan\.json: broken") as caught, open_model(packed) as place:
        raise ArtefactError(f"{place.plan}: broken")
    assert temporary_prefix() not in str(caught.value)


OPENS_AND_DIES = """
import os, signal, sys
from pathlib import Path
from autoseg.pipeline import open_model

with open_model(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_prediction_unpacked_is_removed_by_the_next(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    killed = subprocess.run([sys.executable, "-c", OPENS_AND_DIES, str(packed)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = list(tmp_path.glob(".writing-*/plan.json"))
    assert len(left) == 1
    with open_model(packed) as place:
        assert not left[0].exists()
        assert place.plan.exists()
    assert not list(tmp_path.glob(".writing-*"))


def test_the_page_runs(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    workspace.root.rename("autoseg_work")
    write_scan(tmp_path / "scans" / "anna.nii.gz")
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(block, {})
    assert capsys.readouterr().out.splitlines() == ["CC BY 4.0", "[None]"]
    assert (tmp_path / "masks" / "anna.nii.gz").exists()


def test_without_a_name_what_is_trained_predicts(tmp_path: Path) -> None:
    """As after `run -c 2d --folds 0` of a dataset that has 3D plans too."""
    one = plans.configuration(SPACING)
    workspace = untrained(tmp_path, 1, plans.plan(configurations={"3d_fullres": one, "2d": one}), "2d")
    assert choose_networks(workspace) == Networks("2d", (0,))
