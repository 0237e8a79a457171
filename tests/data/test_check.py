import json
import logging
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autoseg.core.progress import Silent
from autoseg.data.check import CheckReport, check_dataset
from autoseg.data.dataset import open_dataset
from autoseg.data.problem import Problem
from tests.data.making import (
    OBLIQUE,
    decathlon,
    describe,
    label_map,
    nnunet_raw,
    patch_nifti,
    plain_folders,
    scan,
    shorten,
    write,
    write_vectors,
)

PIXDIM_Z, SFORM_CODE, SROW = 88, 254, 280
IMAGE, LABEL = "imagesTr/c1.nii.gz", "labelsTr/c1.nii.gz"


def checked(root: Path, group_by: str | None = None, num_workers: int = 1) -> CheckReport:
    return check_dataset(open_dataset(root, root / "unpacked", group_by), Silent(), num_workers)


def with_voxel(value: float, dtype: str = "float32") -> np.ndarray:
    array = label_map(dtype=dtype)
    array[0, 0, 0] = value
    return array


def shear(path: Path) -> None:
    patch_nifti(path, "<12f", SROW, 1, 0.3, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0)
    patch_nifti(path, "<2h", SFORM_CODE - 2, 0, 1)


def relist(root: Path, **changes: object) -> None:
    document = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**document, **changes}))


def copy_case(root: Path, label: np.ndarray) -> None:
    write(root / "imagesTr/c2.nii.gz", scan(1))
    write(root / "labelsTr/c2.nii.gz", label)


def list_twice(root: Path) -> None:
    write(root / "more/c1.nii.gz", scan(7))
    document = json.loads((root / "dataset.json").read_text())
    relist(root, training=[*document["training"], {"image": "more/c1.nii.gz", "label": LABEL}])


def four_dimensions(root: Path) -> None:
    nib.save(nib.Nifti1Image(scan(shape=(5, 6, 4, 2)), np.diag([-1.0, -1.0, 1.0, 1.0])), root / IMAGE)
    write(root / LABEL, label_map(), spacing=(1, 1, 1), origin=(0, 0, 0))


# What is broken in a Decathlon dataset without fault, and what must be said: severity, rule, file, words.
BROKEN: dict[str, tuple[Callable[[Path], object], str, str, str, str]] = {
    "image missing": (lambda r: (r / IMAGE).unlink(), "error", "missing", IMAGE, "must be there, found none"),
    "label missing": (lambda r: (r / LABEL).unlink(), "error", "missing", LABEL, "must be there, found none"),
    "name in other case": (
        lambda r: (r / IMAGE).rename(r / "imagesTr/C1.nii.gz"),
        "error",
        "missing",
        IMAGE,
        "found C1.nii.gz",
    ),
    "empty file": (lambda r: (r / IMAGE).write_bytes(b""), "error", "readable", IMAGE, "got a file of 0"),
    "text": (lambda r: (r / LABEL).write_bytes(b"x" * 999), "error", "readable", LABEL, "got other content"),
    "truncated image": (lambda r: shorten(r / IMAGE), "error", "whole", IMAGE, "must be whole"),
    "truncated label": (lambda r: shorten(r / LABEL, 0.99), "error", "whole", LABEL, "must be whole"),
    "other shape": (
        lambda r: write(r / LABEL, label_map((4, 6, 7))),
        "error",
        "shape",
        LABEL,
        "must be (4, 6, 5) voxels, got (4, 6, 7) (as c1.nii.gz has)",
    ),
    "other spacing": (
        lambda r: write(r / LABEL, label_map(), spacing=(1, 1, 3)),
        "error",
        "spacing",
        LABEL,
        "must be (3, 1.25, 1.5), got (3, 1, 1)",
    ),
    "spacing of zero": (lambda r: patch_nifti(r / IMAGE, "<f", PIXDIM_Z, 0), "error", "spacing", IMAGE, "above zero"),
    "negative spacing": (lambda r: patch_nifti(r / LABEL, "<f", PIXDIM_Z, -3), "error", "spacing", LABEL, "got (1.5,"),
    "other origin": (
        lambda r: write(r / LABEL, label_map(), origin=(50, -20, 5)),
        "error",
        "origin",
        LABEL,
        "must be (10, -20, 5), got (50, -20, 5)",
    ),
    "slightly other origin": (
        lambda r: write(r / LABEL, label_map(), origin=(10.3, -20, 5)),
        "warning",
        "origin",
        LABEL,
        "matched by their indices",
    ),
    "origin not stored": (
        lambda r: write(r / LABEL, label_map(), origin=(0, 0, 0)),
        "warning",
        "origin",
        LABEL,
        "matched by their indices",
    ),
    "other direction": (
        lambda r: write(r / LABEL, label_map(), direction=OBLIQUE),
        "error",
        "direction",
        LABEL,
        "direction must be",
    ),
    "sheared grid": (lambda r: shear(r / IMAGE), "error", "direction", IMAGE, "axes at right angles"),
    "undeclared label": (
        lambda r: write(r / LABEL, label_map(values=(0, 1, 7, 9))),
        "error",
        "labels",
        LABEL,
        "must be among the declared 0, 1, 2, got also 7, 9",
    ),
    "fractional label": (lambda r: write(r / LABEL, with_voxel(0.5)), "error", "integer", LABEL, "such as 0.5"),
    "NaN in a label": (lambda r: write(r / LABEL, with_voxel(np.nan)), "error", "finite", LABEL, "got 1 of 120"),
    "label in colour": (
        lambda r: write_vectors(r / LABEL, label_map((4, 6, 5, 3))),
        "error",
        "label-channels",
        LABEL,
        "must have one channel, got 3",
    ),
    "empty label": (
        lambda r: write(r / LABEL, label_map(values=(0,))),
        "warning",
        "empty-label",
        LABEL,
        "got 0 everywhere",
    ),
    "class in no case": (
        lambda r: relist(r, labels={"0": "background", "1": "a", "2": "b", "5": "tumour"}),
        "warning",
        "class-absent",
        "phantom",
        "no voxel of tumour (5)",
    ),
    "NaN in an image": (lambda r: write(r / IMAGE, with_voxel(np.nan)), "error", "finite", IMAGE, "got 1 of 120"),
    "infinity in an image": (lambda r: write(r / IMAGE, with_voxel(np.inf)), "error", "finite", IMAGE, "got 1 of 120"),
    "constant image": (
        lambda r: write(r / IMAGE, np.full((4, 6, 5), 3.0, "float32")),
        "error",
        "constant",
        IMAGE,
        "the same value everywhere",
    ),
    "two channels for one": (four_dimensions, "error", "channels", IMAGE, "must have 1 channels (MRI), got 2"),
    "one channel for two": (
        lambda r: relist(r, modality={"0": "T1", "1": "T2"}),
        "error",
        "channels",
        "imagesTr/c0.nii.gz",
        "must have 2 channels (T1, T2), got 1",
    ),
    "copied case": (
        lambda r: copy_case(r, label_map()),
        "warning",
        "duplicate",
        "imagesTr/c2.nii.gz",
        "voxels of c1 with the same label; a split could learn from one",
    ),
    "copied image, other label": (
        lambda r: copy_case(r, label_map(values=(2, 1, 0))),
        "error",
        "duplicate",
        "imagesTr/c2.nii.gz",
        "voxels of c1 with another label",
    ),
    "same name in two folders": (list_twice, "error", "name", "more/c1.nii.gz", "got the name of"),
    "wrong count": (lambda r: relist(r, numTraining=4), "warning", "count", "dataset.json", "cases, 3, got 4"),
    "file not listed": (
        lambda r: write(r / "imagesTr/c9.nii.gz", scan(9)),
        "warning",
        "unlisted",
        "imagesTr/c9.nii.gz",
        "must be listed",
    ),
    "listed without label": (
        lambda r: relist(r, training=[*json.loads((r / "dataset.json").read_text())["training"], {"image": IMAGE}]),
        "error",
        "partner",
        IMAGE,
        "must have a label, got none",
    ),
    "unlabelled image missing": (
        lambda r: relist(r, test=["./imagesTs/t.nii.gz"]),
        "warning",
        "missing",
        "imagesTs/t.nii.gz",
        "must be there",
    ),
}


def problems_in(report: CheckReport) -> list[tuple[str, str]]:
    return [(problem.severity, problem.rule) for problem in report.problems]


def assert_said(problem: Problem, root: Path, file: str, words: str) -> None:
    assert words in problem.message
    assert problem.file == (file if file == "phantom" else str(root / file))
    assert problem.sentence == f"{problem.file}: {problem.message}. {problem.remedy}."
    assert "\n" not in problem.sentence
    assert len(problem.remedy) > 10


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_each_fault_is_named_with_its_remedy(
    tmp_path: Path, broken: tuple[Callable[[Path], object], str, str, str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    make_fault, severity, rule, file, words = broken
    root = decathlon(tmp_path)
    make_fault(root)
    report = checked(root)
    found = [problem for problem in report.problems if problem.rule == rule]
    assert {(problem.severity, problem.rule) for problem in report.problems} == {(severity, rule)}
    assert_said(found[0], root, file, words)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("make", [decathlon, nnunet_raw, plain_folders])
def test_a_dataset_without_fault_has_no_problem(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    report = checked(make(tmp_path))
    assert report.problems == ()
    assert report.num_cases == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_problems_are_found_in_one_pass(tmp_path: Path, num_workers: int) -> None:
    root = decathlon(tmp_path, numTraining=7)
    shorten(root / "imagesTr/c0.nii.gz")
    write(root / "labelsTr/c0.nii.gz", label_map((4, 6, 7), (0, 8)))
    write(root / "imagesTr/c1.nii.gz", with_voxel(np.nan))
    write(root / "labelsTr/c1.nii.gz", with_voxel(0.5), spacing=(9, 9, 9))
    (root / "imagesTr/c2.nii.gz").unlink()
    report = checked(root, num_workers=num_workers)
    assert problems_in(report) == [
        ("warning", "count"),
        ("error", "shape"),
        ("error", "labels"),
        ("error", "whole"),
        ("error", "spacing"),
        ("error", "integer"),
        ("error", "finite"),
        ("error", "missing"),
    ]
    assert [problem.rule for problem in report.warnings] == ["count"]
    assert len(report.errors) == 7


def test_partners_are_missed_in_folders(tmp_path: Path) -> None:
    root = nnunet_raw(tmp_path)
    (root / "labelsTr/c0.nii.gz").unlink()
    (root / "imagesTr/c1_0001.nii.gz").unlink()
    write(root / "labelsTr/c7.nii.gz", label_map())
    write(root / "labelsTr/C0.nii.gz", label_map())
    report = checked(root)
    assert [(p.severity, p.rule, Path(p.file).name) for p in report.problems] == [
        ("error", "partner", "c0_0000.nii.gz"),
        ("error", "partner", "C0.nii.gz"),
        ("error", "partner", "c7.nii.gz"),
        ("error", "channels", "c1_0000.nii.gz"),
    ]
    assert "got C0 (upper and lower case differ)" in report.problems[0].message


def test_channels_of_a_case_must_lie_on_one_grid(tmp_path: Path) -> None:
    root = nnunet_raw(tmp_path)
    write(root / "imagesTr/c1_0001.nii.gz", scan(shape=(4, 5, 5)))
    (problem,) = checked(root).problems
    assert (problem.rule, Path(problem.file).name) == ("shape", "c1_0001.nii.gz")
    assert "channels" in problem.remedy


def test_an_empty_channel_of_several_is_a_warning(tmp_path: Path) -> None:
    root = nnunet_raw(tmp_path)
    write(root / "imagesTr/c1_0001.nii.gz", np.zeros((4, 6, 5), "float32"))
    (problem,) = checked(root).problems
    assert (problem.severity, problem.rule) == ("warning", "constant")
    assert "channel 1 must" in problem.message


def test_an_empty_scan_without_anything_labelled_is_a_warning(tmp_path: Path) -> None:
    root = decathlon(tmp_path)
    write(root / IMAGE, np.zeros((4, 6, 5), "float32"))
    write(root / LABEL, np.zeros((4, 6, 5), "uint8"))
    assert problems_in(checked(root)) == [("warning", "empty-label"), ("warning", "constant")]


@pytest.mark.parametrize(("name", "low", "num_problems"), [("CT", -1024, 0), ("MRI", -1024, 1), ("MRI", -20, 0)])
def test_hounsfield_units_under_another_name_are_a_warning(
    tmp_path: Path, name: str, low: float, num_problems: int
) -> None:
    root = decathlon(tmp_path)
    for case in ("c0", "c1"):
        array = scan(7 if case == "c0" else 8)
        array[0, 0, 0] = low
        write(root / "imagesTr" / f"{case}.nii.gz", array)
    relist(root, modality={"0": name})
    problems = [problem for problem in checked(root).problems if problem.rule == "hounsfield"]
    assert len(problems) == num_problems
    for problem in problems:
        assert "got values down to -1024 in 2 of 3 cases of the channel MRI" in problem.message
        assert '"channel_names": {"0": "CT"}' in problem.remedy


def test_voxels_without_annotation_are_no_problem(tmp_path: Path) -> None:
    assert checked(decathlon(tmp_path, labels={"0": "background", "1": "a", "2": "ignore"})).problems == ()


def test_a_label_map_of_background_and_ignored_voxels_is_a_warning(tmp_path: Path) -> None:
    root = decathlon(tmp_path, labels={"0": "background", "1": "a", "2": "ignore"})
    write(root / LABEL, label_map(values=(0, 2)))
    (problem,) = checked(root).problems
    assert (problem.severity, problem.rule) == ("warning", "empty-label")
    assert "got 0, 2 everywhere" in problem.message


def test_several_labels_of_one_scan_are_a_warning_within_a_group(tmp_path: Path) -> None:
    root = decathlon(tmp_path)
    copy_case(root, label_map(values=(2, 1, 0)))
    (problem,) = checked(root, group_by="c").problems
    assert (problem.severity, problem.rule) == ("warning", "duplicate")
    assert "split" not in problem.message


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_spacing_that_is_not_stated_is_a_warning(tmp_path: Path, suffix: str) -> None:
    header = {
        ".nrrd": "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n\n",
        ".mha": "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n",
    }[suffix]
    write(tmp_path / "labels/a.nii.gz", label_map((2, 2, 2)), spacing=(1, 1, 1), origin=(0, 0, 0))
    (tmp_path / "images").mkdir()
    (tmp_path / f"images/a{suffix}").write_bytes(header.encode() + bytes(range(8)))
    (problem,) = checked(tmp_path).problems
    assert (problem.severity, problem.rule) == ("warning", "spacing")
    assert "got none; it is taken as 1 mm" in problem.message


@pytest.mark.parametrize("num_pages", [1, 4])
def test_a_volume_in_tiff_without_spacing_is_a_warning(tmp_path: Path, num_pages: int) -> None:
    shape = (num_pages, 6, 5)
    write(tmp_path / "images/a.tif", scan(shape=shape, dtype="uint8"))
    write(tmp_path / "labels/a.tif", label_map(shape))
    problems = checked(tmp_path).problems
    assert len(problems) == (0 if num_pages == 1 else 2)
    for problem in problems:
        assert (problem.severity, problem.rule) == ("warning", "spacing")
        assert "got 4 pages of TIFF, whose spacing is not read; it is taken as 1 mm along all axes" in problem.message
        assert "Convert it to NIfTI, NRRD or MHA" in problem.remedy


def test_a_report_is_saved_and_loaded(tmp_path: Path) -> None:
    report = checked(describe(decathlon(tmp_path), training=[{"image": IMAGE, "label": LABEL}], numTraining=4))
    assert report.problems
    report.save(tmp_path / "check.json")
    assert CheckReport.load(tmp_path / "check.json") == report


def test_reading_labels_to_find_classes_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="autoseg"):
        checked(plain_folders(tmp_path))
    assert "reading 3 label maps" in caplog.text
