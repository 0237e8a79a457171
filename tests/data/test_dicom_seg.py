from pathlib import Path

import numpy as np
import pytest
from highdicom.seg import segread
from numpy.typing import NDArray
from pydicom import Dataset

from autoseg.core.errors import DatasetError
from autoseg.core.geometry import Geometry
from autoseg.core.labels import declare_labels
from autoseg.data import dicom_seg
from autoseg.data.dicom import Series, read_series
from autoseg.data.dicom_seg import write_dicom_seg
from autoseg.data.image import LabelImage
from tests.data.dicom_making import Change, write_series
from tests.data.making import OBLIQUE

GEOMETRY = Geometry(spacing=(2.5, 1.25, 1.5), origin=(10.0, -20.0, 5.0), direction=OBLIQUE)
LABELS = declare_labels({0: "background", 3: "liver", -7: "tumour"})


def _unchanged(_number: int, _header: Dataset) -> None: ...


def _series(folder: Path, change: Change = _unchanged) -> Series:
    return read_series(write_series(folder, np.ones((4, 6, 5), np.int16), GEOMETRY, change=change))[1]


def _label(seed: int = 0) -> NDArray[np.int8]:
    values = np.array([0, 3, -7], np.int8)
    drawn: NDArray[np.int8] = values[np.random.default_rng(seed).integers(0, 3, (4, 6, 5))]
    drawn[1] = 0
    return drawn


def test_segments_are_the_classes_on_the_slices_of_the_series(tmp_path: Path) -> None:
    series = _series(tmp_path / "series")
    write_dicom_seg(tmp_path / "out.dcm", LabelImage(_label(), GEOMETRY), LABELS, series)
    found = segread(tmp_path / "out.dcm")
    assert [found.get_segment_description(number).segment_label for number in (1, 2)] == ["tumour", "liver"]
    assert found.PatientID == "p1"
    assert found.StudyInstanceUID == series.headers[0].StudyInstanceUID
    volume = found.get_volume(combine_segments=True)
    np.testing.assert_allclose(volume.spacing, GEOMETRY.spacing)
    rows = {name: index for index, name in enumerate(str(header.SOPInstanceUID) for header in series.headers)}
    pixels = found.get_pixels_by_source_instance(list(rows), combine_segments=True, ignore_spatial_locations=True)
    np.testing.assert_array_equal(np.array([0, -7, 3])[pixels], _label())


def test_an_empty_label_map_is_a_segmentation_too(tmp_path: Path) -> None:
    empty = np.zeros((4, 6, 5), np.int8)
    write_dicom_seg(tmp_path / "out.dcm", LabelImage(empty, GEOMETRY), LABELS, _series(tmp_path / "series"))
    assert not segread(tmp_path / "out.dcm").pixel_array.any()


def test_a_series_without_the_tags_of_its_patient_is_named(tmp_path: Path) -> None:
    def anonymous(_number: int, header: Dataset) -> None:
        del header.StudyInstanceUID

    series = _series(tmp_path / "series", change=anonymous)
    with pytest.raises(DatasetError, match=r"must allow a segmentation object, got: .*--format nifti"):
        write_dicom_seg(tmp_path / "out.dcm", LabelImage(_label(), GEOMETRY), LABELS, series)
    assert not (tmp_path / "out.dcm").exists()


def test_what_reads_back_differently_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_seg, "_read_back", lambda *_: np.zeros((4, 6, 5)))
    with pytest.raises(DatasetError, match="when it is read back, got another one"):
        write_dicom_seg(tmp_path / "out.dcm", LabelImage(_label(), GEOMETRY), LABELS, _series(tmp_path / "series"))
    assert [path.name for path in tmp_path.iterdir()] == ["series"]
