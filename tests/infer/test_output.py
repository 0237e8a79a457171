from pathlib import Path

import numpy as np
import pytest

from autoseg.core.errors import PredictionError
from autoseg.core.geometry import Geometry
from autoseg.core.labels import declare_labels
from autoseg.data.image import Image, LabelImage
from autoseg.data.scan import FoundScan
from autoseg.infer.output import format_of, output_stem, require_apart, require_writable, suffix_like, write_output


@pytest.mark.parametrize(
    ("image", "lowest", "expected"),
    [
        ("la_003.nii.gz", 0, ".nii.gz"),
        ("LA.v2.NII", 0, ".nii.gz"),
        ("a.nrrd", -3, ".nrrd"),
        ("a.mha", 0, ".mha"),
        ("a.mhd", 0, ".mha"),
        ("a.png", 0, ".png"),
        ("a.jpg", 0, ".png"),
        ("a.tiff", 0, ".tif"),
        ("a.png", -3, ".mha"),
    ],
)
def test_outputs_have_the_format_of_their_inputs(image: str, lowest: int, expected: str) -> None:
    labels = declare_labels({0: "background", lowest or 1: "organ"})
    assert suffix_like(Path("in") / image, labels) == expected


@pytest.mark.parametrize("name", ["series", "series.zip"])
def test_a_series_becomes_a_segmentation_object(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).touch()
    assert suffix_like(tmp_path / name, declare_labels({0: "background", 1: "organ"})) == ".dcm"


@pytest.mark.parametrize(("name", "stem"), [("a.nii.gz", "a"), ("a.1.dcm", "a.1"), ("a.tif", "a")])
def test_the_stem_of_an_output(name: str, stem: str) -> None:
    assert output_stem(Path(name)) == stem


def test_a_segmentation_object_needs_a_series(tmp_path: Path) -> None:
    label = LabelImage(np.zeros((2, 3, 4), np.uint8), Geometry(spacing=(1.0, 1.0, 1.0)))
    with pytest.raises(PredictionError, match="must belong to a DICOM series"):
        write_output(tmp_path / "a.dcm", label, declare_labels({0: "background", 1: "organ"}), None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii", "nifti"),
        ("a.NII.GZ", "nifti"),
        ("a.tiff", "tiff"),
        ("a.dcm", "dicom-seg"),
        ("a.jpg", None),
        ("a", None),
    ],
)
def test_a_suffix_names_a_format(name: str, expected: str | None) -> None:
    assert format_of(Path(name)) == expected


def test_scans_and_slices_are_not_written_over(tmp_path: Path) -> None:
    """By any of their names."""
    scan, series, other = tmp_path / "scan.mha", tmp_path / "series", tmp_path / "other"
    for folder in (series, other):
        folder.mkdir()
    for path in (scan, series / "1.dcm"):
        path.write_bytes(b"voxels")
    (tmp_path / "linked.mha").symlink_to(scan)
    (tmp_path / "linked").symlink_to(series)
    require_apart([tmp_path / "mask.mha", other / "scan.mha", tmp_path / "new" / "mask.mha"], [scan, series])
    for output in (
        scan,
        tmp_path / "linked.mha",
        other / ".." / "scan.mha",
        series / "2.dcm",
        tmp_path / "linked/3.dcm",
    ):
        with pytest.raises(PredictionError, match="OUT must neither replace a scan nor lie among its slices"):
            require_apart([tmp_path / "mask.mha", output], [scan, series])


@pytest.mark.parametrize(
    ("name", "lowest", "num_slices", "words"),
    [
        ("a.png", 0, 2, "must get one slice, got 2"),
        ("a.png", -3, 1, "type must be one of"),
        ("a.tif", 70_000, 1, "type must be one of"),
        ("a.dcm", 0, 2, "must belong to a DICOM series"),
        ("a.mhd", 0, 2, "suffix must be"),
    ],
)
def test_what_cannot_be_written_is_known_beforehand(name: str, lowest: int, num_slices: int, words: str) -> None:
    found = FoundScan(Image(np.zeros((1, num_slices, 3, 4), np.float32), Geometry(spacing=(1.0, 1.0, 1.0))))
    labels = declare_labels({0: "background", lowest or 1: "organ"})
    with pytest.raises(PredictionError, match=words):
        require_writable(Path(name), found, labels)
    require_writable(Path("a.nrrd"), found, labels)
