"""Model files spoilt in every way that `test_refused_models` lists: packed models, and nnU-Net's."""

import json
import os
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from tests.interop.nnunet_networks import configuration, plans, write_model

WEIGHTS, OTHER_WEIGHTS = (f"models/2d/fold_{fold}/weights.safetensors" for fold in range(2))
RECORD, OTHER_RECORD = (f"models/2d/fold_{fold}/training.json" for fold in range(2))
SCORES = "crossval/2d+3d_fullres/evaluation.json"

Members = dict[str, bytes]


class Code:
    """Pickled, it asks whoever reads it to make a folder."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("code was run",)


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path: Path, members: Members) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def resign(members: Members) -> None:
    """Make the manifest say what the members are."""
    manifest = json.loads(members["model.json"])
    manifest["files"] = {
        name: {"size": len(content), "sha256": sha256(content).hexdigest()}
        for name, content in members.items()
        if name != "model.json"
    }
    members["model.json"] = json.dumps(manifest).encode()


def with_entries(member: str, **changes: object) -> Callable[[Members], None]:
    """Return what changes top-level entries of a JSON member."""

    def edit(members: Members) -> None:
        members[member] = json.dumps({**json.loads(members[member]), **changes}).encode()

    return edit


def swap(*pairs: tuple[str, str]) -> Callable[[Members], None]:
    def swap(members: Members) -> None:
        for one, other in pairs:
            members[one], members[other] = members[other], members[one]

    return swap


def other_network(members: Members) -> None:
    """Weights of a wider network, with a record that was written for them."""
    weights = {name: torch.cat([tensor, tensor]) for name, tensor in load(members[WEIGHTS]).items()}
    set_weights(members, save(weights))


def set_weights(members: Members, content: bytes) -> None:
    """Replace weights, and whatever speaks of them."""
    members[WEIGHTS] = content
    digest = sha256(content).hexdigest()[:16]
    record, selection = json.loads(members[RECORD]), json.loads(members["selection.json"])
    record["made_from"]["weights"] = selection["made_from"]["2d fold 0"] = digest
    members[RECORD], members["selection.json"] = json.dumps(record).encode(), json.dumps(selection).encode()


def other_labels(members: Members) -> None:
    planned = json.loads(members["plan.json"])
    planned["labels"]["classes"][1]["name"] = "spleen"
    members["plan.json"] = json.dumps(planned).encode()


def escape_codes(members: Members) -> None:
    planned = json.loads(members["plan.json"])
    planned["labels"]["classes"][1]["name"] = "\x1b[2Jorgan"
    members["plan.json"] = json.dumps(planned).encode()


def other_scores(members: Members) -> None:
    scores = json.loads(members[SCORES])
    scores["labels"]["classes"][1]["name"] = "spleen"
    members[SCORES] = json.dumps(scores).encode()


def other_selection(members: Members) -> None:
    selection = json.loads(members["selection.json"])
    selection["made_from"]["3d_fullres fold 1"] = "0123456789abcdef"
    members["selection.json"] = json.dumps(selection).encode()


def with_member(name: str, content: bytes = b"x") -> Callable[[Members], None]:
    return lambda members: members.update({name: content})


def without_member(name: str) -> Callable[[Members], Any]:
    return lambda members: members.pop(name)


def truncated(share: float) -> Callable[[Path], None]:
    return lambda path: overwrite(path, path.read_bytes()[: int(path.stat().st_size * share)])


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def flip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo(WEIGHTS).header_offset + 200
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(bytes(content))


def add_special(path: Path, mode: int) -> None:
    member = zipfile.ZipInfo("models/2d/fold_0/training.json")
    member.external_attr = mode << 16
    members = members_of(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "/etc/passwd")
        for name in members.keys() - {member.filename}:
            archive.writestr(zipfile.ZipInfo(name), members[name])


def duplicate(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("plan.json", members_of(path)["plan.json"])


def compress(path: Path) -> None:
    members = members_of(path)
    members[WEIGHTS] = bytes(len(members[WEIGHTS]))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            stored = name == "model.json"
            archive.writestr(name, content, zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)


def compress_manifest(path: Path) -> None:
    members = members_of(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def overlap(path: Path) -> None:
    """Many members that are the same bytes of the file."""
    members = members_of(path)
    for fold in range(2, 500):
        members[f"models/2d/fold_{fold}/weights.safetensors"] = members[WEIGHTS]
    resign(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("model.json", WEIGHTS):
            archive.writestr(zipfile.ZipInfo(name), members[name])
        for name in members.keys() - {"model.json", WEIGHTS}:
            again = zipfile.ZipInfo(name)
            known = archive.getinfo(WEIGHTS)
            again.header_offset, again.CRC = known.header_offset, known.CRC
            again.file_size = again.compress_size = len(members[name])
            archive.filelist.append(again)


def encrypt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    struct.pack_into("<H", content, place + 8, 1)
    path.write_bytes(bytes(content))


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHECKPOINT = "fold_0/checkpoint_final.pth"
MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"


def torch_edit(change: Callable[[dict[str, Any]], Any], fold: int = 0) -> Callable[[Path], Any]:
    def edit(model: Path) -> None:
        path = model / f"fold_{fold}" / "checkpoint_final.pth"
        document = torch.load(path, weights_only=False)
        change(document)
        torch.save(document, path)

    return edit


def swap_folds(model: Path) -> None:
    (model / "fold_0").rename(model / "aside")
    (model / "fold_1").rename(model / "fold_0")
    (model / "aside").rename(model / "fold_1")


def checkpoint_of(model: Path, *, of_2d: bool = False, **changes: object) -> None:
    """Put the checkpoint of another model into fold 0."""
    name = "2d" if of_2d else "3d_fullres"
    document = plans(**{f"_{name}": configuration(axes=2 if of_2d else 3)})
    write_model(model.parent / "other", {**document, **changes}, name)
    shutil.copy(model.parent / "other" / CHECKPOINT, model / CHECKPOINT)
    shutil.rmtree(model.parent / "other")


def lose_checkpoints(model: Path) -> None:
    for path in list(model.glob("fold_*/*.pth")):
        path.unlink()


def narrower(document: dict[str, Any]) -> None:
    document["network_weights"] = {name: tensor[:1] for name, tensor in document["network_weights"].items()}


def zip_with(
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


def tar_with(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Callable[[Path], Path]:
    def make(model: Path) -> Path:
        path = Path(shutil.make_archive("model", "tar", "made"))
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        with tarfile.open(path, "a") as archive:
            archive.addfile(member)
        return path

    return make


def cut(model: Path) -> Path:
    path = Path(shutil.make_archive("model", "zip", "made"))
    truncated(0.9)(path)
    return path


def dataset_zip() -> Path:
    write_members(Path("data.zip"), {"images/a.nii.gz": b"x", "labels/a.nii.gz": b"x", "dataset.json": b"{}"})
    return Path("data.zip")


def packed_elsewhere() -> Path:
    write_members(Path("packed.zip"), {"model.json": b"{}", "plan.json": b"{}"})
    return Path("packed.zip")
