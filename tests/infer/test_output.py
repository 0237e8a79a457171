from pathlib import Path

import numpy as np
import pytest

from autoseg.core.errors import PredictionError
from autoseg.core.geometry import Geometry
from autoseg.core.labels import declare_labels
from autoseg.data.image import LabelImage
from autoseg.infer.output import output_path, output_stem, write_output


@pytest.mark.parametrize(
    ("image", "lowest", "expected"),
    [
        ("la_003.nii.gz", 0, "la_003.nii.gz"),
        ("LA.v2.NII", 0, "LA.v2.nii.gz"),
        ("a.nrrd", -3, "a.nrrd"),
        ("a.mha", 0, "a.mha"),
        ("a.mhd", 0, "a.mha"),
        ("a.png", 0, "a.png"),
        ("a.jpg", 0, "a.png"),
        ("a.tiff", 0, "a.tif"),
        ("a.png", -3, "a.mha"),
    ],
)
def test_outputs_have_the_format_of_their_inputs(image: str, lowest: int, expected: str) -> None:
    labels = declare_labels({0: "background", lowest or 1: "organ"})
    assert output_path(Path("in") / image, Path("out"), labels) == Path("out") / expected


@pytest.mark.parametrize("name", ["series", "series.zip"])
def test_a_series_becomes_a_segmentation_object(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).touch()
    found = output_path(tmp_path / name, tmp_path / "out", declare_labels({0: "background", 1: "organ"}))
    assert found == tmp_path / "out" / "series.dcm"


@pytest.mark.parametrize(("name", "stem"), [("a.nii.gz", "a"), ("a.1.dcm", "a.1"), ("a.tif", "a")])
def test_the_stem_of_an_output(name: str, stem: str) -> None:
    assert output_stem(Path(name)) == stem


def test_a_segmentation_object_needs_a_series(tmp_path: Path) -> None:
    label = LabelImage(np.zeros((2, 3, 4), np.uint8), Geometry(spacing=(1.0, 1.0, 1.0)))
    with pytest.raises(PredictionError, match="must belong to a DICOM series"):
        write_output(tmp_path / "a.dcm", label, declare_labels({0: "background", 1: "organ"}), None)
