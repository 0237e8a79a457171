"""Which scans are taken, what their outputs are called, and which outputs are kept."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoseg.core.errors import PredictionError
from autoseg.core.geometry import Geometry
from autoseg.core.labels import declare_labels
from autoseg.data.image import LabelImage, write_label
from autoseg.infer.maps import Extras
from autoseg.infer.outcome import Scan
from autoseg.infer.output import SUFFIXES, OutputFormat
from autoseg.pipeline.prediction.scans import Request, find_scans, is_complete
from autoseg.plan.schema import Plan
from tests.data.dicom_making import write_series
from tests.preprocess import plans

PLAN = plans.plan().model_copy(update={"channels": ("T1",), "labels": declare_labels({0: "background", 1: "organ"})})
TWO_CHANNELS = PLAN.model_copy(update={"channels": ("T1", "T2")})


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def _found(source: Path, target: Path, plan: Plan) -> dict[str, list[str]]:
    """Return the names of the files of each scan by the path of the output below the target's parent."""
    return {
        str(scan.output.relative_to(target.parent)): [path.name for path in scan.images]
        for scan in find_scans(Request(source, target), plan)
    }


@pytest.mark.parametrize(
    ("target", "output"),
    [
        ("mask.nii.gz", "mask.nii.gz"),
        ("mask.mha", "mask.mha"),
        ("masks", "masks/scan.nii.gz"),
        ("masks.v2", "masks.v2/scan.nii.gz"),
    ],
)
def test_a_file_goes_to_a_file_or_into_a_folder(tmp_path: Path, target: str, output: str) -> None:
    source = _touch(tmp_path, "scan.nii.gz") / "scan.nii.gz"
    assert _found(source, tmp_path / target, PLAN) == {output: ["scan.nii.gz"]}


def test_a_folder_holds_one_scan_per_file(tmp_path: Path) -> None:
    source = _touch(tmp_path / "in", "b.nii.gz", "a.mha", "c.png", "notes.txt", "deeper/d.nii.gz")
    assert _found(source, tmp_path / "out", PLAN) == {
        "out/a.mha": ["a.mha"],
        "out/b.nii.gz": ["b.nii.gz"],
        "out/c.png": ["c.png"],
    }


def test_channel_files_belong_together(tmp_path: Path) -> None:
    source = _touch(tmp_path / "in", "x_0001.nii.gz", "x_0000.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz")
    assert _found(source, tmp_path / "out", TWO_CHANNELS) == {
        "out/x.nii.gz": ["x_0000.nii.gz", "x_0001.nii.gz"],
        "out/y.nii.gz": ["y_0000.nii.gz", "y_0001.nii.gz"],
    }


def test_numbers_that_are_no_channels_stay_in_names(tmp_path: Path) -> None:
    source = _touch(tmp_path / "in", "patient_0007.nii.gz", "patient_0000.nii.gz")
    assert _found(source, tmp_path / "out", PLAN) == {
        "out/patient_0000.nii.gz": ["patient_0000.nii.gz"],
        "out/patient_0007.nii.gz": ["patient_0007.nii.gz"],
    }


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("nowhere", "out", "nowhere: a scan, a folder of scans"),
        ("empty", "out", "at least one scan must be in the folder"),
        ("in", "mask.nii.gz", "OUT must be a folder when IN is one"),
        ("twice", "out", "each scan must have a name of its own"),
    ],
)
def test_what_cannot_be_segmented_is_named(tmp_path: Path, source: str, target: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    _touch(tmp_path / "in", "a.nii.gz")
    _touch(tmp_path / "twice", "a.nii.gz", "a.nii")
    with pytest.raises(PredictionError, match=words):
        find_scans(Request(tmp_path / source, tmp_path / target), PLAN)


def test_a_number_that_would_collide_is_named(tmp_path: Path) -> None:
    source = _touch(tmp_path / "in", "a/x.nii.gz", "b/x.nii.gz")
    found = find_scans(Request(source, tmp_path / "out", recursive=True), PLAN)
    assert [scan.output.relative_to(tmp_path / "out").as_posix() for scan in found] == ["a/x.nii.gz", "b/x.nii.gz"]


@pytest.mark.parametrize(("name", "suffix"), list(SUFFIXES.items()))
def test_a_format_can_be_asked_for(tmp_path: Path, name: str, suffix: str) -> None:
    source = _touch(tmp_path / "in", "x.nii.gz")
    request = Request(source, tmp_path / "out", output_format=name)  # type: ignore[arg-type]
    assert [scan.output.name for scan in find_scans(request, PLAN)] == [f"x{suffix}"]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("scan.nii.gz", "."),
        (".", "."),
        (".", "linked"),
        ("scan.nii.gz", "scan.nii.gz"),
        ("cases.csv", "."),
        ("series", "series"),
    ],
)
def test_a_scan_is_never_the_place_of_its_label_map(tmp_path: Path, source: str, target: str) -> None:
    _touch(tmp_path, "scan.nii.gz")
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "cases.csv").write_text("image,case,output\nscan.nii.gz,a,scan.nii.gz\n")
    write_series(tmp_path / "series", np.ones((2, 4, 4), np.int16), Geometry(spacing=(1.0, 1.0, 1.0)))
    for skip_existing in (False, True):
        request = Request(tmp_path / source, tmp_path / target, skip_existing=skip_existing)
        with pytest.raises(PredictionError, match="OUT must neither replace a scan nor lie among its slices"):
            find_scans(request, PLAN)


def test_extras_replace_no_scan(tmp_path: Path) -> None:
    source = _touch(tmp_path, "a.nii.gz", "a.entropy.nii.gz")
    request = Request(source, tmp_path, output_format="nrrd", extras=Extras(uncertainty=("disagreement",)))
    assert len(find_scans(request, PLAN)) == 2
    request = replace(request, extras=Extras(uncertainty=("entropy",)))
    with pytest.raises(PredictionError, match=r"got two that would write .*a\.entropy\.nrrd"):
        find_scans(request, PLAN)
    with pytest.raises(PredictionError, match=r"a\.entropy\.nii\.gz: OUT must neither replace"):
        find_scans(replace(request, output_format="tiff"), PLAN)


@pytest.mark.parametrize(
    ("target", "output_format", "words"),
    [
        ("mask.nii", "nifti", None),
        ("mask.tiff", "tiff", None),
        ("mask.mha", "nifti", r"mask\.mha: must be named as --format nifti is, \.nii\.gz, got '\.mha'"),
        ("mask.jpg", None, r"mask\.jpg: suffix must be one of"),
    ],
)
def test_the_name_of_a_label_map_and_its_format_agree(
    tmp_path: Path, target: str, output_format: OutputFormat | None, words: str | None
) -> None:
    source = _touch(tmp_path / "in", "x.nii.gz") / "x.nii.gz"
    request = Request(source, tmp_path / target, output_format=output_format)
    table = tmp_path / "cases.csv"
    table.write_text(f"image,output\n{source},{target}\n")
    (row,) = find_scans(Request(table, tmp_path / "out", output_format=output_format), PLAN)
    if words is None:
        assert [scan.output for scan in find_scans(request, PLAN)] == [tmp_path / target]
        assert row.problem is None
        return
    assert row.problem is not None
    assert re.search(words, row.problem)
    with pytest.raises(PredictionError, match=words):
        find_scans(request, PLAN)


def test_a_table_says_where_outputs_go_and_what_is_missing(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("case,T1,T2,output\na,1.mha,2.mha,deep/mask.nrrd\nb,,,\n")
    known, lacking = find_scans(Request(table, tmp_path / "out"), TWO_CHANNELS)
    assert known.output == tmp_path / "out" / "deep" / "mask.nrrd"
    assert lacking.problem is not None
    assert (lacking.images, lacking.output.name) == ((table,), "b.nii.gz")
    with pytest.raises(PredictionError, match="OUT must be a folder"):
        find_scans(Request(table, tmp_path / "mask.nii.gz"), TWO_CHANNELS)


def test_the_record_lies_with_the_label_maps(tmp_path: Path) -> None:
    assert Request(tmp_path, tmp_path / "out").record == tmp_path / "out" / "predictions.json"
    assert Request(tmp_path, tmp_path / "a.nii.gz").record == tmp_path / "a.predictions.json"


def test_only_whole_outputs_are_kept(tmp_path: Path) -> None:
    label = LabelImage(np.zeros((2, 3, 4), np.uint8), Geometry(spacing=(1.0, 1.0, 1.0)))
    scans = [Scan((tmp_path / f"{name}.mha",), tmp_path / f"{name}.nii.gz") for name in ("whole", "broken", "absent")]
    for scan in scans[:2]:
        write_label(scan.output, label)
    scans[1].output.write_bytes(scans[1].output.read_bytes()[:20])
    assert [is_complete(scan, Extras()) for scan in scans] == [True, False, False]
    with_entropy = Extras(uncertainty=("entropy",))
    assert not is_complete(scans[0], with_entropy)
    write_label(tmp_path / "whole.entropy.nii.gz", label)
    assert is_complete(scans[0], with_entropy)
