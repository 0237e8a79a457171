from pathlib import Path

import numpy as np
import pytest

from autoseg.core.errors import PredictionError
from autoseg.core.geometry import Geometry
from autoseg.data.scan_files import find_scan_files, split_channel
from tests.data.dicom_making import write_series
from tests.data.making import forbid, scan, write, write_vectors

ONE, TWO = ("CT",), ("T1 gd", "FLAIR")
COLOURS = ("red", "green", "blue")
REMEDY = "Correct its permissions, or remove it."


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def _found(source: Path, channels: tuple[str, ...] = ONE, *, recursive: bool = False) -> dict[str, list[str]]:
    """Return the names of the files of each scan by its name."""
    found = find_scan_files(source, channels, recursive=recursive)
    assert all(scan.problem is None for scan in found)
    return {scan.name: [path.name for path in scan.images] for scan in found}


def _write_dicom(folder: Path) -> Path:
    return write_series(folder, np.ones((2, 4, 4), np.int16), Geometry(spacing=(1.0, 1.0, 1.0)))


def test_a_folder_holds_one_scan_per_file(tmp_path: Path) -> None:
    _touch(tmp_path, "b.nii.gz", "a.mha", "c.png", "notes.txt", "deeper/d.nii.gz", "deeper/still/e.nrrd", ".hidden.mha")
    assert _found(tmp_path) == {"a": ["a.mha"], "b": ["b.nii.gz"], "c": ["c.png"]}
    deep = {"deeper/d": ["d.nii.gz"], "deeper/still/e": ["e.nrrd"]}
    assert _found(tmp_path, recursive=True) == {"a": ["a.mha"], "b": ["b.nii.gz"], "c": ["c.png"], **deep}


@pytest.mark.parametrize(
    "names",
    [
        ("x_0001.nii.gz", "x_0000.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz"),
        ("x_flair.nii.gz", "x_t1gd.nii.gz", "y_T1_gd.nii.gz", "y_FLAIR.nii.gz"),
        ("x-FLAIR.nii.gz", "x-T1 gd.nii.gz", "y.t1-gd.nii.gz", "y.Flair.nii.gz"),
    ],
)
def test_channels_are_recognised_by_number_or_name(tmp_path: Path, names: tuple[str, ...]) -> None:
    _touch(tmp_path, *names)
    found = find_scan_files(tmp_path, TWO)
    assert [scan.name for scan in found] == ["x", "y"]
    for case in found:
        first, second = (path.name.lower() for path in case.images)
        assert "0000" in first or "t1" in first
        assert "0001" in second or "flair" in second


@pytest.mark.parametrize(
    ("stem", "channels", "expected"),
    [
        ("la_0000", ONE, ("la", 0)),
        ("patient_0007", ONE, ("patient_0007", None)),
        ("scan_ct", ONE, ("scan_ct", None)),
        ("gd", ("T1 gd", "gd"), ("gd", None)),
        ("a_t1_gd", ("gd", "T1 gd"), ("a", 1)),
        ("a_t1_gd", ("gd", "T2"), ("a_t1", 0)),
    ],
)
def test_split_channel(stem: str, channels: tuple[str, ...], expected: tuple[str, int | None]) -> None:
    assert split_channel(stem, channels) == expected


def _write_frames(folder: Path, *names: str) -> None:
    """Write pictures in colour."""
    for number, name in enumerate(names):
        write_vectors(folder / name, scan(number, (6, 5, 3), "uint8"))


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5])
def test_frames_that_hold_all_channels_are_scans(tmp_path: Path, num_frames: int) -> None:
    frames = [f"frame_{number:04d}.png" for number in range(num_frames)]
    _write_frames(tmp_path, *frames)
    _write_frames(tmp_path / "deep", *frames)
    expected = {name[: -len(".png")]: [name] for name in frames}
    assert _found(tmp_path, COLOURS) == expected
    deep = {f"deep/{name}": images for name, images in expected.items()}
    assert _found(tmp_path, COLOURS, recursive=True) == {**expected, **deep}


def test_files_of_one_channel_are_no_frames(tmp_path: Path) -> None:
    """Not even beside frames of another name, and whatever is wrong with one of them."""
    for number in range(3):
        write(tmp_path / f"x_{number:04d}.nii.gz", scan(number))
    (tmp_path / "x_0000.nii.gz").write_bytes(b"broken")
    _write_frames(tmp_path, "y_0000.png", "y_0001.png")
    whole = {"y_0000": ["y_0000.png"], "y_0001": ["y_0001.png"]}
    assert _found(tmp_path, COLOURS) == {"x": [f"x_{number:04d}.nii.gz" for number in range(3)], **whole}


def test_a_broken_frame_makes_no_channels_of_the_others(tmp_path: Path) -> None:
    _write_frames(tmp_path, "x_0000.png", "x_0001.png", "x_0002.png")
    (tmp_path / "x_0000.png").write_bytes(b"broken")
    assert list(_found(tmp_path, COLOURS)) == ["x_0000", "x_0001", "x_0002"]


def test_files_of_several_channels_named_like_channels_are_scans(tmp_path: Path) -> None:
    for name in ("x_flair.nii.gz", "x_t1gd.nii.gz"):
        write_vectors(tmp_path / name, scan(shape=(4, 6, 5, 2)))
    assert list(_found(tmp_path, TWO)) == ["x_flair", "x_t1gd"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("p_0000.mha",), ["p"]),
        (("p_0000.mha", "p_0001.mha", "p_0002.mha"), ["p_0000", "p_0001", "p_0002"]),
        (("p_0000.mha", "q_0000.mha", "q_0007.mha"), ["p", "q_0000", "q_0007"]),
        (("p_0001_0000.mha", "p_0002_0000.mha"), ["p_0001", "p_0002"]),
    ],
)
def test_numbers_of_scans_stay_in_names_for_one_channel(
    tmp_path: Path, names: tuple[str, ...], expected: list[str]
) -> None:
    assert list(_found(_touch(tmp_path, *names))) == expected


def test_a_scan_without_one_of_three_channels_has_a_problem(tmp_path: Path) -> None:
    _touch(tmp_path, "x_0000.nii.gz", "x_0002.nii.gz", "y_0001.nii.gz")
    incomplete, lone = find_scan_files(tmp_path, ("T1", "T2", "FLAIR"))
    assert incomplete.problem is not None
    assert "must have a file for each channel (T1, T2, FLAIR), got none for T2. Add it." in incomplete.problem
    assert (lone.name, lone.problem) == ("y_0001", None)


def test_folders_and_zips_of_dicom_are_scans(tmp_path: Path) -> None:
    series = _write_dicom(tmp_path / "in" / "first")
    _write_dicom(tmp_path / "in" / "study" / "second")
    _touch(tmp_path / "in", "third.zip", "fourth.nii.gz")
    assert _found(series) == {"first": ["first"]}
    assert _found(next(series.iterdir())) == {"003": ["003"]}
    shallow = {"first": ["first"], "third": ["third.zip"], "fourth": ["fourth.nii.gz"]}
    assert _found(tmp_path / "in") == shallow
    assert _found(tmp_path / "in", recursive=True) == {**shallow, "study/second": ["second"]}


def test_slices_beside_images_are_one_scan_more(tmp_path: Path) -> None:
    """A stray DICOM file takes nothing away, neither in the folder searched nor in those below."""
    for place in (tmp_path / "in", tmp_path / "in" / "ward"):
        _write_dicom(place)
        _touch(place, "a.nii.gz", "zipped.zip")
    _write_dicom(tmp_path / "in" / "ward" / "deep")
    assert _found(tmp_path / "in") == {"a": ["a.nii.gz"], "in": ["in"], "ward": ["ward"], "zipped": ["zipped.zip"]}
    assert _found(tmp_path / "in", recursive=True) == {
        "a": ["a.nii.gz"],
        "in": ["in"],
        "ward": ["ward"],
        "ward/a": ["a.nii.gz"],
        "ward/deep": ["deep"],
        "ward/zipped": ["zipped.zip"],
        "zipped": ["zipped.zip"],
    }


@pytest.mark.parametrize("recursive", [False, True])
def test_earlier_results_are_no_scans(tmp_path: Path, recursive: bool) -> None:
    """They hold DICOM objects and label maps, below IN or in folders of their own."""
    _write_dicom(tmp_path / "series")
    _write_dicom(tmp_path / "out")
    _touch(tmp_path / "out", "predictions.json", "a.nii.gz", "ward/b.nii.gz")
    assert _found(tmp_path, recursive=recursive) == {"series": ["series"]}
    assert "out" not in _found(tmp_path / "out")


@pytest.mark.parametrize("recursive", [False, True])
def test_a_folder_that_cannot_be_read_is_a_problem_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recursive: bool
) -> None:
    _touch(tmp_path, "a.nii.gz", "secret/b.nii.gz")
    forbid(monkeypatch, "secret")
    first, second = find_scan_files(tmp_path, ONE, recursive=recursive)
    assert (first.name, first.problem) == ("a", None)
    assert second.problem == f"{tmp_path / 'secret'}: must be readable, got: Permission denied. {REMEDY}"


def test_a_file_that_cannot_be_read_keeps_no_other_from_being_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _touch(tmp_path, "a.nii.gz", "b.nii.gz", "notes")
    forbid(monkeypatch, "a.nii.gz")
    assert _found(tmp_path) == {"a": ["a.nii.gz"], "b": ["b.nii.gz"]}


@pytest.mark.parametrize("output", ["../mask.nii.gz", "/mask.nii.gz", "deep/../../mask.nii.gz"])
def test_an_output_of_a_table_stays_inside_out(tmp_path: Path, output: str) -> None:
    table = tmp_path / "cases.csv"
    table.write_text(f"image,output\na.nii.gz,{output}\n")
    (scan,) = find_scan_files(table, ONE)
    assert scan.problem == f"{table}: case a must have an output inside OUT, got {output}. Correct it."


def test_a_table_names_channels_outputs_and_problems(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text(
        "case,FLAIR,t1_gd,output\nanna,a/f.mha,a/t.mha,anna/mask.nrrd\n,b_f.mha,b.mha,\ncarl,,c.mha,\n../d,e.mha,f.mha,\n"
    )
    anna, unnamed, carl, outside = find_scan_files(table, TWO)
    assert anna.images == (tmp_path / "a/t.mha", tmp_path / "a/f.mha")
    assert (anna.name, anna.output) == ("anna", Path("anna/mask.nrrd"))
    assert (unnamed.name, unnamed.output, unnamed.problem) == ("b", None, None)
    assert carl.problem is not None
    assert "case carl must have a file in each column, got none in FLAIR. Fill it in." in carl.problem
    assert outside.problem is not None
    assert "stays inside OUT" in outside.problem
    table.write_text("image\nall.nii.gz\n")
    assert _found(table, TWO) == {"all": ["all.nii.gz"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FLAIR\na.mha\n", "columns must be image, or T1 gd, FLAIR; case and output may be added; got FLAIR"),
        ("image,age\na.mha,3\n", "got image, age"),
        ("", "got no header"),
        ("image\n", "must have a row per case"),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(PredictionError, match=words):
        find_scan_files(tmp_path / "cases.csv", TWO)


@pytest.mark.parametrize(
    ("source", "words"),
    [("nowhere", "nowhere: a scan, a folder of scans or a .csv"), ("empty", "at least one scan must be in the folder")],
)
def test_where_nothing_is_that_is_said(tmp_path: Path, source: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PredictionError, match=words):
        find_scan_files(tmp_path / source, ONE)
