import io
import os
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoseg.core.errors import DatasetError
from autoseg.data.archive import unpack
from autoseg.data.dataset import open_dataset
from tests.data.making import plain_folders

ARCHIVES = ["a.tar", "a.tar.gz", "a.tgz", "a.zip"]
FILES = {"set/images/x.txt": b"image" * 5000, "set/labels/x.txt": b"label"}


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as target:
            for name, content in files.items():
                target.writestr(zipfile.ZipInfo(name), content)
        return path
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def pack_member(path: Path, member: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        content = tarfile.TarInfo("set/file.txt")
        content.size = 4
        tar.addfile(content, io.BytesIO(b"text"))
        tar.addfile(member)
    return path


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ARCHIVES)
def test_files_are_unpacked_whole(tmp_path: Path, name: str) -> None:
    root = unpack(pack(tmp_path / name, FILES), tmp_path / "to")
    assert root == tmp_path / "to" / "a"
    assert {file: (root / file).read_bytes() for file in FILES} == FILES
    assert names_in(root) == {*FILES, ".autoseg-unpacked"}
    assert [path.name for path in root.parent.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("member", ["../evil", "set/../../evil", "/evil", "C:\\evil", "..\\evil"])
def test_no_member_leaves_the_folder(tmp_path: Path, name: str, member: str) -> None:
    archive = pack(tmp_path / name, {**FILES, member: b"evil"})
    with pytest.raises(DatasetError, match=r"evil', which is a path out of the folder"):
        unpack(archive, tmp_path / "to")
    assert names_in(tmp_path) == {name}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/passwd", "set/absent", "set/link"])
def test_links_to_what_the_archive_lacks_are_refused(tmp_path: Path, kind: bytes, target: str) -> None:
    archive = pack_member(tmp_path / "a.tar", link("set/link", target, kind))
    with pytest.raises(DatasetError, match=r"'set/link', which is a link to"):
        unpack(archive, tmp_path / "to")
    assert names_in(tmp_path) == {"a.tar"}


@pytest.mark.parametrize(("kind", "target"), [(tarfile.SYMTYPE, "file.txt"), (tarfile.LNKTYPE, "set/file.txt")])
def test_links_inside_become_copies(tmp_path: Path, kind: bytes, target: str) -> None:
    root = unpack(pack_member(tmp_path / "a.tar", link("set/link", target, kind)), tmp_path / "to")
    assert (root / "set/link").read_bytes() == b"text"
    assert not (root / "set/link").is_symlink()
    assert (root / "set/link").stat().st_nlink == 1


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(DatasetError, match="'set/device', which is a device"):
        unpack(pack_member(tmp_path / "a.tar", link("set/device", "", kind)), tmp_path / "to")


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as target:
        member = zipfile.ZipInfo("set/link")
        member.external_attr = 0o120777 << 16
        target.writestr(member, "/etc/passwd")
    with pytest.raises(DatasetError, match="'set/link', which is a link"):
        unpack(tmp_path / "a.zip", tmp_path / "to")


@pytest.mark.parametrize("name", ARCHIVES)
def test_files_of_macos_are_left_out(tmp_path: Path, name: str) -> None:
    litter = {"set/images/._x.txt": b"", "set/.DS_Store": b"", "__MACOSX/set/x.txt": b""}
    root = unpack(pack(tmp_path / name, {**FILES, **litter}), tmp_path / "to")
    assert names_in(root) == {*FILES, ".autoseg-unpacked"}


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.85])
def test_truncated_archives_leave_nothing(tmp_path: Path, name: str, share: float) -> None:
    archive = pack(tmp_path / name, {f"set/{number}": os.urandom(3000) for number in range(20)})
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    with pytest.raises(DatasetError, match=rf"{name}: .* got: .+\. (Fetch|Make room)") as caught:
        unpack(archive, tmp_path / "to")
    assert "\n" not in str(caught.value)
    assert names_in(tmp_path) == {name}


def test_a_tar_cut_between_members_is_truncated(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar", {"a": b"1" * 512, "b": b"2" * 512})
    archive.write_bytes(archive.read_bytes()[:1024])
    with pytest.raises(DatasetError, match="must be whole, got: unexpected end of data"):
        unpack(archive, tmp_path / "to")


def test_damage_in_a_zip_is_found(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", FILES)
    content = bytearray(archive.read_bytes())
    content[2000] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(DatasetError, match="must be whole, got: Bad CRC-32"):
        unpack(archive, tmp_path / "to")


def test_unpacking_again_changes_nothing_until_the_archive_changes(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar", FILES)
    root = unpack(archive, tmp_path / "to")
    before = (root / "set/labels/x.txt").stat().st_mtime_ns
    assert unpack(archive, tmp_path / "to") == root
    assert (root / "set/labels/x.txt").stat().st_mtime_ns == before
    pack(archive, {"set/other.txt": b"new"})
    assert names_in(unpack(archive, tmp_path / "to")) == {"set/other.txt", ".autoseg-unpacked"}


def test_an_interrupted_unpacking_is_not_taken_for_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / "a.tar", FILES)
    half = tmp_path / "to" / ".unpacking-a" / "set"
    half.mkdir(parents=True)
    (half / "stale.txt").write_text("left by a process that was killed")
    with monkeypatch.context() as patched:
        patched.setattr("autoseg.data.archive._require_end_mark", interrupt)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, tmp_path / "to")
    assert not (tmp_path / "to" / "a").exists()
    assert names_in(unpack(archive, tmp_path / "to")) == {*FILES, ".autoseg-unpacked"}


def interrupt(tar: tarfile.TarFile) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["absent.tar", "absent", "a.rar"])
def test_what_is_no_archive_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.rar").write_bytes(b"rar")
    with pytest.raises(DatasetError, match="must be a folder or an archive"):
        unpack(tmp_path / name, tmp_path / "to")


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_dataset_is_opened_from_an_archive(tmp_path: Path, name: str) -> None:
    root = plain_folders(tmp_path / "set")
    files = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in root.rglob("*.png")}
    dataset = open_dataset(pack(tmp_path / name, files), tmp_path / "to")
    assert [case.name for case in dataset.cases] == ["c0", "c1", "c2"]
    assert all(Path(path).is_relative_to(tmp_path / "to" / "a" / "set") for path in dataset.cases[0].images)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_archives_that_grow_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    zeros = pack_compressed(tmp_path / name, {"set/one": bytes(300_000), "set/two": bytes(300_000)})
    assert unpack(zeros, tmp_path / "small archives may")
    monkeypatch.setattr("autoseg.data.archive.ALWAYS_ALLOWED_BYTES", 1000)
    with pytest.raises(DatasetError, match=rf"{name}: an archive must not unpack to more than 200 times its size"):
        unpack(zeros, tmp_path / "to")
    assert names_in(tmp_path / "to") == set()
    noise = pack_compressed(tmp_path / f"b{name[1:]}", {"set/noise": os.urandom(10_000)})
    assert unpack(noise, tmp_path / "to")


@pytest.mark.parametrize("name", ARCHIVES)
def test_no_room_is_named_before_it_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=20_000))
    with pytest.raises(DatasetError, match=r"there must be room to unpack it, got 20000 bytes for 25000 and more"):
        unpack(pack(tmp_path / name, FILES), tmp_path / "to")
    assert names_in(tmp_path / "to") == set()


def pack_compressed(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix != ".zip":
        return pack(path, files)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return path
