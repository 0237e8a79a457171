"""Model files that are damaged, mixed up or hostile, packed ones and nnU-Net's: each is refused by name, with a remedy.

Packed models are spoilt twice: `resigned` ones have a manifest that was made to fit, so that only the parts themselves
can show that they do not belong together.
"""

import json
import os
import pickle
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autoseg.core.errors import ArtefactError, AutosegError
from autoseg.core.workspace import Workspace
from autoseg.interop.nnunet_models import import_nnunet
from autoseg.pipeline import PackRequest, open_model, pack
from tests.cli.commands import run_command
from tests.end_to_end.spoiling import (
    CHECKPOINT,
    MODEL,
    OTHER_RECORD,
    OTHER_WEIGHTS,
    RECORD,
    SCORES,
    WEIGHTS,
    Code,
    Members,
    add_special,
    become_folder,
    checkpoint_of,
    compress,
    compress_manifest,
    cut,
    dataset_zip,
    duplicate,
    encrypt,
    escape_codes,
    flip,
    lose_checkpoints,
    members_of,
    narrower,
    other_labels,
    other_network,
    other_scores,
    other_selection,
    overlap,
    overwrite,
    packed_elsewhere,
    resign,
    set_weights,
    swap,
    swap_folds,
    tar_with,
    torch_edit,
    truncated,
    with_entries,
    with_member,
    without_member,
    write_members,
    zip_with,
)
from tests.interop.nnunet_networks import configuration, dataset, plans, write_model
from tests.pipeline.packing.packable import packable


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refused")
    return pack(packable(folder / "work"), PackRequest(folder / "model.zip"))


@pytest.fixture
def spoilt(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole copy, to be spoilt, and an empty folder for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(packed, "model.zip"))


SPOILT: dict[str, tuple[bool, Callable[[Members], Any], str]] = {
    # what: whether the manifest is made to fit, how members are changed, what is said
    "swapped weights": (False, swap((WEIGHTS, OTHER_WEIGHTS)), f"{WEIGHTS}: must be the file that was packed, got"),
    "swapped weights, resigned": (True, swap((WEIGHTS, OTHER_WEIGHTS)), f"{WEIGHTS}: must be the weights that"),
    "swapped folds, resigned": (
        True,
        swap((WEIGHTS, OTHER_WEIGHTS), (RECORD, OTHER_RECORD)),
        f"{RECORD}: must be the record of fold 0 of 2d, got that of fold 1 of 2d",
    ),
    "swapped configurations": (
        True,
        swap((WEIGHTS, WEIGHTS.replace("2d", "3d_fullres")), (RECORD, RECORD.replace("2d", "3d_fullres"))),
        f"{RECORD}: must be the record of fold 0 of 2d, got that of fold 0 of 3d_fullres",
    ),
    "another network": (
        True,
        other_network,
        f"{WEIGHTS}: decoder.0.0.0.bias must have shape (4,) by the plan, got (8,)",
    ),
    "another plan": (False, other_labels, "plan.json: must be the file that was packed, of "),
    "another plan, resigned": (True, other_labels, f"{RECORD}: must be of the plan and the dataset of this model"),
    "another dataset": (
        True,
        with_entries("plan.json", dataset="spleens"),
        "plan.json: dataset must be phantom, got spleens",
    ),
    "another fingerprint": (
        True,
        with_entries("fingerprint.json", dataset="spleens"),
        "fingerprint.json: must be of phantom",
    ),
    "other scores": (True, other_scores, f"{SCORES}: must be scores of the classes in plan.json"),
    "another selection": (True, other_selection, "selection.json: must be of the networks in this model, got another"),
    "fewer folds": (
        True,
        with_entries("model.json", folds=[0]),
        "selection.json: must be of the networks that model.json",
    ),
    "a fold that is not there": (
        True,
        with_entries("model.json", folds=[0, 7]),
        "models/2d/fold_7/training.json: must be there",
    ),
    "a configuration that is not there": (
        True,
        with_entries("model.json", configurations=["3d_lowres"]),
        "must have 3d_lowres",
    ),
    "no weights": (True, without_member(WEIGHTS), f"{WEIGHTS}: must be there, found none"),
    "weights that vanished": (
        False,
        without_member(WEIGHTS),
        f"must hold all that model.json lists, found no {WEIGHTS}",
    ),
    "no plan": (True, without_member("plan.json"), "plan.json: must be there"),
    "a pickle for weights": (
        True,
        lambda members: set_weights(members, pickle.dumps(Code())),
        f"{WEIGHTS}: must be a saf",
    ),
    "a pickle beside": (
        True,
        with_member("model.pkl", pickle.dumps(Code())),
        "'model.pkl', which is no part of a model",
    ),
    "a program beside": (True, with_member("models/2d/trainer.py"), "which is no part of a model"),
    "a path upwards": (True, with_member("../plan.json"), "got '../plan.json', which is a path out of its folder"),
    "a path upwards inside": (True, with_member("models/../../plan.json"), "which is a path out of its folder"),
    "a path upwards, backwards": (True, with_member("models\\..\\..\\plan.json"), "which is a path out of its folder"),
    "an absolute path": (
        True,
        with_member("/tmp/plan.json"),
        "got '/tmp/plan.json', which is a path out of its folder",
    ),
    "a drive": (True, with_member("C:plan.json"), "which is a path out of its folder"),
    "an unlisted part": (False, with_member("models/2d/fold_9/training.json"), "which model.json does not list"),
    "a newer format": (
        False,
        with_entries("model.json", schema_version=2, anything="else"),
        "model.json: schema version must be 1, got 2, which a newer autoseg wrote. Update autoseg.",
    ),
    "a newer plan": (
        True,
        with_entries("plan.json", schema_version=9),
        "plan.json: schema version must be 1, got 9, which a newer",
    ),
    "an older plan": (
        True,
        with_entries("plan.json", schema_version=0),
        "got 0. Fetch the file again, or have it packed again.",
    ),
    "a plan of something else": (True, with_entries("plan.json", width=4), "plan.json: width must fit the Plan schema"),
    "a record without digests": (
        True,
        with_entries(RECORD, made_from={}),
        f"{RECORD}: must be of the plan and the dataset",
    ),
    "JSON without end": (True, with_member("plan.json", b"[" * 100_000), "plan.json: must be readable JSON"),
    "a manifest without end": (
        False,
        with_member("model.json", b" " * (1 << 20) + b"{}"),
        "model.json: must be stored as it is",
    ),
    "no manifest": (
        False,
        without_member("model.json"),
        "found no model.json in it. Name another file; nnU-Net's models",
    ),
    "escape codes": (True, escape_codes, "plan.json: names and terms must be printable"),
    "escape codes in the licence": (
        True,
        with_entries("model.json", licence={"text": "MIT\n\x1b]0;", "source": "given"}),
        "model.json: names and terms must be printable",
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_packed_models_that_were_mixed_up_are_refused_by_name(spoilt: Path, kind: str) -> None:
    is_resigned, change, words = SPOILT[kind]
    members = members_of(spoilt)
    change(members)
    if is_resigned:
        resign(members)
    write_members(spoilt, members)
    _require_refused(spoilt, words)


DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated a little": (truncated(0.99), "model.zip: must be a whole model file, got: File is not a zip file"),
    "truncated to half": (truncated(0.5), "model.zip: must be a whole model file"),
    "nothing left": (truncated(0.0), "model.zip: must be a whole model file"),
    "noise": (lambda path: overwrite(path, os.urandom(5000)), "model.zip: must be a whole model file"),
    "a flipped byte": (flip, f"Bad CRC-32 for file '{WEIGHTS}'"),
    "a pickle for a model": (lambda path: overwrite(path, pickle.dumps(Code())), "must be a whole model file"),
    "a checkpoint of torch": (lambda path: torch.save({"a": Code()}, path), "found no model.json in it"),
    "a link": (lambda path: add_special(path, 0o120777), f"got '{RECORD}', which is a link"),
    "a device": (lambda path: add_special(path, 0o060666), "which is no plain file"),
    "a part twice": (duplicate, "each member must be there once, got plan.json twice"),
    "parts that grow": (compress, "which would grow from"),
    "a manifest that grows": (compress_manifest, "model.json: must be stored as it is"),
    "parts that overlap": (overlap, "members must not be larger than the file"),
    "encrypted": (encrypt, "which is encrypted"),
    "a folder": (become_folder, "a workspace with a plan is needed, found none"),
    "nothing": (Path.unlink, "model.zip: must be a model that autoseg pack wrote, found no file"),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_packed_models_that_were_damaged_are_refused_by_name(
    spoilt: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = DAMAGED[kind]
    change(spoilt)
    for command in (("info", spoilt), ("predict", "--model", spoilt, "scan.nii.gz", "out")):
        code, out, err = run_command(monkeypatch, capsys, *command)
        assert (code, out) == (1, "")
        assert words in err
        assert "Traceback" not in err
    assert not Path("code was run").exists()
    assert list(Path("temporary").iterdir()) == []
    assert not Path("out").exists()


def test_a_cascade_with_another_first_stage_is_refused(spoilt: Path) -> None:
    """The networks of both stages are whole, but did not learn together."""
    low = {"inherits_from": "3d_fullres", "spacing": [8.0, 2.0, 2.5], "next_stage": "3d_cascade_fullres"}
    high = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    document = plans(_3d_fullres=configuration(), _3d_lowres=low, _3d_cascade_fullres=high)
    write_model(Path("low"), document, "3d_lowres")
    write_model(Path("high"), document, "3d_cascade_fullres", num_channels=(3, 3))
    import_nnunet([Path("low"), Path("high")], Workspace(Path("work")))
    pack(Workspace(Path("work")), PackRequest(Path("cascade.zip"), "3d_cascade_fullres"))
    with open_model(Path("cascade.zip")):
        pass
    members = members_of(Path("cascade.zip"))
    name = "models/3d_cascade_fullres/fold_0/training.json"
    record = json.loads(members[name])
    record["made_from"]["earlier stage"] = "0123456789abcdef"
    members[name] = json.dumps(record).encode()
    resign(members)
    write_members(spoilt, members)
    _require_refused(spoilt, f"{name}: must be of the networks of 3d_lowres in this model, got others")


def _require_refused(path: Path, words: str) -> None:
    """Open a file that must be refused, by its name, with a remedy, leaving nothing behind and running nothing."""
    with pytest.raises(ArtefactError) as refused, open_model(path):
        pass
    message = str(refused.value)
    assert words in message
    assert message.startswith("model.zip")
    assert message.endswith(".")
    assert message.count(". ") >= 1
    assert not Path("code was run").exists()
    assert list(Path("temporary").iterdir()) == []


NNUNET: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a truncated checkpoint": (
        lambda model: truncated(0.5)(model / CHECKPOINT),
        f"{CHECKPOINT}: must be a checkpoint of nnU-Net v2, got",
    ),
    "an empty checkpoint": (lambda model: truncated(0)(model / CHECKPOINT), f"{CHECKPOINT}: must be a checkpoint"),
    "truncated plans": (lambda model: truncated(0.5)(model / "plans.json"), "plans.json: must be readable JSON"),
    "swapped folds": (swap_folds, f"{CHECKPOINT}: must be the checkpoint of fold_0, got that of fold_1. Put it into"),
    "another network": (
        torch_edit(narrower),
        f"{CHECKPOINT}: encoder.stages.0.0.convs.0.conv.weight must have shape",
    ),
    "another configuration": (
        lambda model: checkpoint_of(model, of_2d=True),
        "plans.json, 2d: configurations must hold 2d, got 3d_fullres",
    ),
    "another configuration in one fold": (
        torch_edit(lambda document: document["init_args"].update(configuration="3d_lowres"), fold=1),
        "fold_1/checkpoint_final.pth: must be of 3d_fullres, as the other folds, got a checkpoint of 3d_lowres.",
    ),
    "another dataset": (
        lambda model: checkpoint_of(model, dataset_name="Dataset002_Other"),
        f"{CHECKPOINT}: must be trained on Dataset999_Made, the dataset of plans.json, got a checkpoint of Dataset002",
    ),
    "labels of another dataset": (
        lambda model: (model / "dataset.json").write_text(
            json.dumps(dataset(labels={"background": 0, "left": 1, "right": 2}))
        ),
        f"{CHECKPOINT}: must be trained with the labels of dataset.json",
    ),
    "a pickle with code": (
        torch_edit(lambda document: document.update(logging=Code())),
        f"{CHECKPOINT}: must hold tensors and plain values only, got {os.mkdir.__module__}.mkdir, which is code.",
    ),
    "a bare pickle with code": (
        lambda model: overwrite(model / CHECKPOINT, pickle.dumps({"network_weights": Code()}, 2)),
        f"{CHECKPOINT}: must hold tensors and plain values only",
    ),
    "no checkpoint": (lose_checkpoints, "at least one fold must hold checkpoint_final.pth"),
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder of nnU-Net with two folds."""
    monkeypatch.chdir(tmp_path)
    write_model(Path("made", MODEL), plans(_3d_fullres=configuration()), "3d_fullres", folds=(0, 1))
    return Path("made", MODEL)


@pytest.mark.parametrize("kind", NNUNET)
@pytest.mark.parametrize("is_zipped", [False, True])
def test_models_of_nnunet_that_were_spoilt_are_refused_by_name(model: Path, kind: str, is_zipped: bool) -> None:
    change, words = NNUNET[kind]
    change(model)
    source = Path(shutil.make_archive("model", "zip", "made")) if is_zipped else model
    _require_not_imported(source, words)


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated": (cut, "model.zip: an archive must be whole, got: File is not a zip file. Fetch it again."),
    "a path upwards": (zip_with("../plan.json"), "got '../plan.json', which is a path out of the folder"),
    "an absolute path": (zip_with("/tmp/plan.json"), "got '/tmp/plan.json', which is a path out of the folder"),
    "a link": (zip_with("fold_0", b"/etc", 0o120777), "got 'fold_0', which is a link"),
    "a device": (zip_with("fold_0", b"", 0o060666), "got 'fold_0', which is a device"),
    "a path upwards, tar": (tar_with("../plan.json"), "got '../plan.json', which is a path out of the folder"),
    "a link, tar": (tar_with("plans.json", tarfile.SYMTYPE, "/etc/passwd"), "which is a link to /etc/passwd"),
    "a bomb": (
        zip_with("zeros", bytes(20_000_000), method=zipfile.ZIP_DEFLATED),
        "model.zip: an archive must not unpack to more than 20 times its size",
    ),
    "a dataset": (lambda _: dataset_zip(), "must hold plans.json beside fold_0, found none"),
    "a packed model": (lambda _: packed_elsewhere(), "must hold plans.json beside fold_0, found none"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_archives_of_nnunet_that_are_no_models_are_refused_by_name(
    model: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words = HOSTILE[kind]
    monkeypatch.setattr("autoseg.data.archive.ALWAYS_ALLOWED_BYTES", 10_000_000)
    monkeypatch.setattr("autoseg.data.archive.MOST_EXPANSION", 20)
    _require_not_imported(make(model), words)


def _require_not_imported(source: Path, words: str) -> None:
    workspace = Workspace(Path("work"))
    with pytest.raises(AutosegError) as refused:
        import_nnunet([source], workspace)
    message = str(refused.value)
    assert words in message
    assert source.name in message
    assert message.endswith(".")
    assert [path for path in workspace.root.rglob("*") if path.is_file()] == []
    assert not Path("code was run").exists()


def test_what_is_whole_passes(spoilt: Path, model: Path) -> None:
    """Else the tables above would prove nothing."""
    members = members_of(spoilt)
    resign(members)
    write_members(spoilt, members)
    with open_model(spoilt) as workspace:
        assert workspace.plan.exists()
    assert import_nnunet([model], Workspace(Path("work")))[0].folds == (0, 1)
