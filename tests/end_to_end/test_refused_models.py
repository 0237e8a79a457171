"""Model files that are damaged, mixed up or hostile, packed ones and nnU-Net's: each is refused by name, with a remedy.

Packed models are spoilt twice: `resigned` ones have a manifest that was made to fit, so that only the parts themselves
can show that they do not belong together.
"""

import json
import os
import pickle
import shutil
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from autoseg.core.errors import ArtefactError, AutosegError
from autoseg.core.workspace import Workspace
from autoseg.interop.nnunet_models import import_nnunet
from autoseg.pipeline import PackRequest, open_model, pack
from tests.cli.commands import run_command
from tests.interop.nnunet_networks import configuration, dataset, plans, write_model
from tests.pipeline.packable import packable, write_scores

WEIGHTS, OTHER_WEIGHTS = (f"models/2d/fold_{fold}/weights.safetensors" for fold in range(2))
RECORD, OTHER_RECORD = (f"models/2d/fold_{fold}/training.json" for fold in range(2))
SCORES = "crossval/2d+3d_fullres/evaluation.json"

Members = dict[str, bytes]


class Code:
    """Pickled, it asks whoever reads it to make a folder."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("code was run",)


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


def _read(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write(path: Path, members: Members) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def _resign(members: Members) -> None:
    """Make the manifest say what the members are."""
    manifest = json.loads(members["model.json"])
    manifest["files"] = {
        name: {"size": len(content), "sha256": sha256(content).hexdigest()}
        for name, content in members.items()
        if name != "model.json"
    }
    members["model.json"] = json.dumps(manifest).encode()


def _edited(member: str, **changes: object) -> Callable[[Members], None]:
    """Return what changes top-level entries of a JSON member."""

    def edit(members: Members) -> None:
        members[member] = json.dumps({**json.loads(members[member]), **changes}).encode()

    return edit


def _swap(*pairs: tuple[str, str]) -> Callable[[Members], None]:
    def swap(members: Members) -> None:
        for one, other in pairs:
            members[one], members[other] = members[other], members[one]

    return swap


def _other_network(members: Members) -> None:
    """Weights of a wider network, with a record that was written for them."""
    weights = {name: torch.cat([tensor, tensor]) for name, tensor in load(members[WEIGHTS]).items()}
    _set_weights(members, save(weights))


def _set_weights(members: Members, content: bytes) -> None:
    """Replace weights, and whatever speaks of them."""
    members[WEIGHTS] = content
    digest = sha256(content).hexdigest()[:16]
    record, selection = json.loads(members[RECORD]), json.loads(members["selection.json"])
    record["made_from"]["weights"] = selection["made_from"]["2d fold 0"] = digest
    members[RECORD], members["selection.json"] = json.dumps(record).encode(), json.dumps(selection).encode()


def _other_labels(members: Members) -> None:
    planned = json.loads(members["plan.json"])
    planned["labels"]["classes"][1]["name"] = "spleen"
    members["plan.json"] = json.dumps(planned).encode()


def _escape_codes(members: Members) -> None:
    planned = json.loads(members["plan.json"])
    planned["labels"]["classes"][1]["name"] = "\x1b[2Jorgan"
    members["plan.json"] = json.dumps(planned).encode()


def _other_scores(members: Members) -> None:
    scores = json.loads(members[SCORES])
    scores["labels"]["classes"][1]["name"] = "spleen"
    members[SCORES] = json.dumps(scores).encode()


def _other_selection(members: Members) -> None:
    selection = json.loads(members["selection.json"])
    selection["made_from"]["3d_fullres fold 1"] = "0123456789abcdef"
    members["selection.json"] = json.dumps(selection).encode()


def _add(name: str, content: bytes = b"x") -> Callable[[Members], None]:
    return lambda members: members.update({name: content})


def _drop(name: str) -> Callable[[Members], Any]:
    return lambda members: members.pop(name)


SPOILT: dict[str, tuple[bool, Callable[[Members], Any], str]] = {
    # what: whether the manifest is made to fit, how members are changed, what is said
    "swapped weights": (False, _swap((WEIGHTS, OTHER_WEIGHTS)), f"{WEIGHTS}: must be the file that was packed, got"),
    "swapped weights, resigned": (True, _swap((WEIGHTS, OTHER_WEIGHTS)), f"{WEIGHTS}: must be the weights that"),
    "swapped folds, resigned": (
        True,
        _swap((WEIGHTS, OTHER_WEIGHTS), (RECORD, OTHER_RECORD)),
        f"{RECORD}: must be the record of fold 0 of 2d, got that of fold 1 of 2d",
    ),
    "swapped configurations": (
        True,
        _swap((WEIGHTS, WEIGHTS.replace("2d", "3d_fullres")), (RECORD, RECORD.replace("2d", "3d_fullres"))),
        f"{RECORD}: must be the record of fold 0 of 2d, got that of fold 0 of 3d_fullres",
    ),
    "another network": (
        True,
        _other_network,
        f"{WEIGHTS}: decoder.0.0.0.bias must have shape (4,) by the plan, got (8,)",
    ),
    "another plan": (False, _other_labels, "plan.json: must be the file that was packed, of "),
    "another plan, resigned": (True, _other_labels, f"{RECORD}: must be of the plan and the dataset of this model"),
    "another dataset": (
        True,
        _edited("plan.json", dataset="spleens"),
        "plan.json: dataset must be phantom, got spleens",
    ),
    "another fingerprint": (
        True,
        _edited("fingerprint.json", dataset="spleens"),
        "fingerprint.json: must be of phantom",
    ),
    "other scores": (True, _other_scores, f"{SCORES}: must be scores of the classes in plan.json"),
    "another selection": (True, _other_selection, "selection.json: must be of the networks in this model, got another"),
    "fewer folds": (True, _edited("model.json", folds=[0]), "selection.json: must be of the networks that model.json"),
    "a fold that is not there": (
        True,
        _edited("model.json", folds=[0, 7]),
        "models/2d/fold_7/training.json: must be there",
    ),
    "a configuration that is not there": (
        True,
        _edited("model.json", configurations=["3d_lowres"]),
        "must have 3d_lowres",
    ),
    "no weights": (True, _drop(WEIGHTS), f"{WEIGHTS}: must be there, found none"),
    "weights that vanished": (False, _drop(WEIGHTS), f"must hold all that model.json lists, found no {WEIGHTS}"),
    "no plan": (True, _drop("plan.json"), "plan.json: must be there"),
    "a pickle for weights": (
        True,
        lambda members: _set_weights(members, pickle.dumps(Code())),
        f"{WEIGHTS}: must be a saf",
    ),
    "a pickle beside": (True, _add("model.pkl", pickle.dumps(Code())), "'model.pkl', which is no part of a model"),
    "a program beside": (True, _add("models/2d/trainer.py"), "which is no part of a model"),
    "a path upwards": (True, _add("../plan.json"), "got '../plan.json', which is a path out of its folder"),
    "a path upwards inside": (True, _add("models/../../plan.json"), "which is a path out of its folder"),
    "a path upwards, backwards": (True, _add("models\\..\\..\\plan.json"), "which is a path out of its folder"),
    "an absolute path": (True, _add("/tmp/plan.json"), "got '/tmp/plan.json', which is a path out of its folder"),
    "a drive": (True, _add("C:plan.json"), "which is a path out of its folder"),
    "an unlisted part": (False, _add("models/2d/fold_9/training.json"), "which model.json does not list"),
    "a newer format": (
        False,
        _edited("model.json", schema_version=2, anything="else"),
        "model.json: schema version must be 1, got 2, which a newer autoseg wrote. Update autoseg.",
    ),
    "a newer plan": (
        True,
        _edited("plan.json", schema_version=9),
        "plan.json: schema version must be 1, got 9, which a newer",
    ),
    "an older plan": (
        True,
        _edited("plan.json", schema_version=0),
        "got 0. Fetch the file again, or have it packed again.",
    ),
    "a plan of something else": (True, _edited("plan.json", width=4), "plan.json: width must fit the Plan schema"),
    "a record without digests": (True, _edited(RECORD, made_from={}), f"{RECORD}: must be of the plan and the dataset"),
    "JSON without end": (True, _add("plan.json", b"[" * 100_000), "plan.json: must be readable JSON"),
    "a manifest without end": (
        False,
        _add("model.json", b" " * (1 << 20) + b"{}"),
        "model.json: must be stored as it is",
    ),
    "no manifest": (False, _drop("model.json"), "found no model.json in it. Name another file; nnU-Net's models"),
    "escape codes": (True, _escape_codes, "plan.json: names and terms must be printable"),
    "escape codes in the licence": (
        True,
        _edited("model.json", licence={"text": "MIT\n\x1b]0;", "source": "given"}),
        "model.json: names and terms must be printable",
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_packed_models_that_were_mixed_up_are_refused_by_name(spoilt: Path, kind: str) -> None:
    is_resigned, change, words = SPOILT[kind]
    members = _read(spoilt)
    change(members)
    if is_resigned:
        _resign(members)
    _write(spoilt, members)
    _require_refused(spoilt, words)


def _truncated(share: float) -> Callable[[Path], None]:
    return lambda path: _overwrite(path, path.read_bytes()[: int(path.stat().st_size * share)])


def _overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _flip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo(WEIGHTS).header_offset + 200
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(bytes(content))


def _add_special(path: Path, mode: int) -> None:
    member = zipfile.ZipInfo("models/2d/fold_0/training.json")
    member.external_attr = mode << 16
    members = _read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "/etc/passwd")
        for name in members.keys() - {member.filename}:
            archive.writestr(zipfile.ZipInfo(name), members[name])


def _duplicate(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("plan.json", _read(path)["plan.json"])


def _compress(path: Path) -> None:
    members = _read(path)
    members[WEIGHTS] = bytes(len(members[WEIGHTS]))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            stored = name == "model.json"
            archive.writestr(name, content, zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)


def _compress_manifest(path: Path) -> None:
    members = _read(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _overlap(path: Path) -> None:
    """Many members that are the same bytes of the file."""
    members = _read(path)
    for fold in range(2, 500):
        members[f"models/2d/fold_{fold}/weights.safetensors"] = members[WEIGHTS]
    _resign(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("model.json", WEIGHTS):
            archive.writestr(zipfile.ZipInfo(name), members[name])
        for name in members.keys() - {"model.json", WEIGHTS}:
            again = zipfile.ZipInfo(name)
            known = archive.getinfo(WEIGHTS)
            again.header_offset, again.CRC = known.header_offset, known.CRC
            again.file_size = again.compress_size = len(members[name])
            archive.filelist.append(again)


def _encrypt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    struct.pack_into("<H", content, place + 8, 1)
    path.write_bytes(bytes(content))


def _become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated a little": (_truncated(0.99), "model.zip: must be a whole model file, got: File is not a zip file"),
    "truncated to half": (_truncated(0.5), "model.zip: must be a whole model file"),
    "nothing left": (_truncated(0.0), "model.zip: must be a whole model file"),
    "noise": (lambda path: _overwrite(path, os.urandom(5000)), "model.zip: must be a whole model file"),
    "a flipped byte": (_flip, f"Bad CRC-32 for file '{WEIGHTS}'"),
    "a pickle for a model": (lambda path: _overwrite(path, pickle.dumps(Code())), "must be a whole model file"),
    "a checkpoint of torch": (lambda path: torch.save({"a": Code()}, path), "found no model.json in it"),
    "a link": (lambda path: _add_special(path, 0o120777), f"got '{RECORD}', which is a link"),
    "a device": (lambda path: _add_special(path, 0o060666), "which is no plain file"),
    "a part twice": (_duplicate, "each member must be there once, got plan.json twice"),
    "parts that grow": (_compress, "which would grow from"),
    "a manifest that grows": (_compress_manifest, "model.json: must be stored as it is"),
    "parts that overlap": (_overlap, "members must not be larger than the file"),
    "encrypted": (_encrypt, "which is encrypted"),
    "a folder": (_become_folder, "a workspace with a plan is needed, found none"),
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
    members = _read(Path("cascade.zip"))
    name = "models/3d_cascade_fullres/fold_0/training.json"
    record = json.loads(members[name])
    record["made_from"]["earlier stage"] = "0123456789abcdef"
    members[name] = json.dumps(record).encode()
    _resign(members)
    _write(spoilt, members)
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


CHECKPOINT = "fold_0/checkpoint_final.pth"
MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"


def _torch_edit(change: Callable[[dict[str, Any]], Any], fold: int = 0) -> Callable[[Path], Any]:
    def edit(model: Path) -> None:
        path = model / f"fold_{fold}" / "checkpoint_final.pth"
        document = torch.load(path, weights_only=False)
        change(document)
        torch.save(document, path)

    return edit


def _swap_folds(model: Path) -> None:
    (model / "fold_0").rename(model / "aside")
    (model / "fold_1").rename(model / "fold_0")
    (model / "aside").rename(model / "fold_1")


def _checkpoint_of(model: Path, *, of_2d: bool = False, **changes: object) -> None:
    """Put the checkpoint of another model into fold 0."""
    name = "2d" if of_2d else "3d_fullres"
    document = plans(**{f"_{name}": configuration(axes=2 if of_2d else 3)})
    write_model(model.parent / "other", {**document, **changes}, name)
    shutil.copy(model.parent / "other" / CHECKPOINT, model / CHECKPOINT)
    shutil.rmtree(model.parent / "other")


def _lose_checkpoints(model: Path) -> None:
    for path in list(model.glob("fold_*/*.pth")):
        path.unlink()


def _narrower(document: dict[str, Any]) -> None:
    document["network_weights"] = {name: tensor[:1] for name, tensor in document["network_weights"].items()}


NNUNET: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a truncated checkpoint": (
        lambda model: _truncated(0.5)(model / CHECKPOINT),
        f"{CHECKPOINT}: must be a checkpoint of nnU-Net v2, got",
    ),
    "an empty checkpoint": (lambda model: _truncated(0)(model / CHECKPOINT), f"{CHECKPOINT}: must be a checkpoint"),
    "truncated plans": (lambda model: _truncated(0.5)(model / "plans.json"), "plans.json: must be readable JSON"),
    "swapped folds": (_swap_folds, f"{CHECKPOINT}: must be the checkpoint of fold_0, got that of fold_1. Put it into"),
    "another network": (
        _torch_edit(_narrower),
        f"{CHECKPOINT}: encoder.stages.0.0.convs.0.conv.weight must have shape",
    ),
    "another configuration": (
        lambda model: _checkpoint_of(model, of_2d=True),
        "plans.json, 2d: configurations must hold 2d, got 3d_fullres",
    ),
    "another configuration in one fold": (
        _torch_edit(lambda document: document["init_args"].update(configuration="3d_lowres"), fold=1),
        "fold_1/checkpoint_final.pth: must be of 3d_fullres, as the other folds, got a checkpoint of 3d_lowres.",
    ),
    "another dataset": (
        lambda model: _checkpoint_of(model, dataset_name="Dataset002_Other"),
        f"{CHECKPOINT}: must be trained on Dataset999_Made, the dataset of plans.json, got a checkpoint of Dataset002",
    ),
    "labels of another dataset": (
        lambda model: (model / "dataset.json").write_text(
            json.dumps(dataset(labels={"background": 0, "left": 1, "right": 2}))
        ),
        f"{CHECKPOINT}: must be trained with the labels of dataset.json",
    ),
    "a pickle with code": (
        _torch_edit(lambda document: document.update(logging=Code())),
        f"{CHECKPOINT}: must hold tensors and plain values only, got {os.mkdir.__module__}.mkdir, which is code.",
    ),
    "a bare pickle with code": (
        lambda model: _overwrite(model / CHECKPOINT, pickle.dumps({"network_weights": Code()}, 2)),
        f"{CHECKPOINT}: must hold tensors and plain values only",
    ),
    "no checkpoint": (_lose_checkpoints, "at least one fold must hold checkpoint_final.pth"),
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


def _zip_with(
    name: str, content: bytes = b"x", mode: int = 0o100644, method: int = zipfile.ZIP_STORED
) -> Callable[[Path], Path]:
    def make(model: Path) -> Path:
        path = Path(shutil.make_archive("model", "zip", "made"))
        member = zipfile.ZipInfo(name)
        member.external_attr, member.compress_type = mode << 16, method
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(member, content)
        return path

    return make


def _tar_with(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Callable[[Path], Path]:
    def make(model: Path) -> Path:
        path = Path(shutil.make_archive("model", "tar", "made"))
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        with tarfile.open(path, "a") as archive:
            archive.addfile(member)
        return path

    return make


def _cut(model: Path) -> Path:
    path = Path(shutil.make_archive("model", "zip", "made"))
    _truncated(0.9)(path)
    return path


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated": (_cut, "model.zip: an archive must be whole, got: File is not a zip file. Fetch it again."),
    "a path upwards": (_zip_with("../plan.json"), "got '../plan.json', which is a path out of the folder"),
    "an absolute path": (_zip_with("/tmp/plan.json"), "got '/tmp/plan.json', which is a path out of the folder"),
    "a link": (_zip_with("fold_0", b"/etc", 0o120777), "got 'fold_0', which is a link"),
    "a device": (_zip_with("fold_0", b"", 0o060666), "got 'fold_0', which is a device"),
    "a path upwards, tar": (_tar_with("../plan.json"), "got '../plan.json', which is a path out of the folder"),
    "a link, tar": (_tar_with("plans.json", tarfile.SYMTYPE, "/etc/passwd"), "which is a link to /etc/passwd"),
    "a bomb": (
        _zip_with("zeros", bytes(20_000_000), method=zipfile.ZIP_DEFLATED),
        "model.zip: an archive must not unpack to more than 20 times its size",
    ),
    "a dataset": (lambda _: _dataset_zip(), "must hold plans.json beside fold_0, found none"),
    "a packed model": (lambda _: _packed_elsewhere(), "must hold plans.json beside fold_0, found none"),
}


def _dataset_zip() -> Path:
    _write(Path("data.zip"), {"images/a.nii.gz": b"x", "labels/a.nii.gz": b"x", "dataset.json": b"{}"})
    return Path("data.zip")


def _packed_elsewhere() -> Path:
    _write(Path("packed.zip"), {"model.json": b"{}", "plan.json": b"{}"})
    return Path("packed.zip")


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
    members = _read(spoilt)
    _resign(members)
    _write(spoilt, members)
    with open_model(spoilt) as workspace:
        assert workspace.plan.exists()
        write_scores(workspace, ("2d",))
    assert import_nnunet([model], Workspace(Path("work")))[0].folds == (0, 1)
