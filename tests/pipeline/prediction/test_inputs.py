"""One scan in every shape that hospitals have it: the same voxels give the same mask."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.core.geometry import Geometry
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.data.image import Image, read_label, write_image
from autoseg.pipeline import ModelChoice, Request, load_predictor, predict
from tests.data.dicom_making import write_series
from tests.pipeline.models import SHAPE, SPACING, untrained
from tests.preprocess import plans

GEOMETRY = Geometry(spacing=SPACING)
CHANNELS = ("T1", "T2 fs")
CHOICE = ModelChoice("3d_fullres", None, "cpu", mirror=False)
VOXELS = np.random.default_rng(0).integers(0, 100, (2, *SHAPE)).astype(np.int16)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Networks that see two channels."""
    configuration = plans.configuration(SPACING, channels=(plans.channel("zscore"), plans.channel("zscore")))
    planned = plans.plan(configurations={"3d_fullres": configuration}).model_copy(update={"channels": CHANNELS})
    return untrained(tmp_path_factory.mktemp("two") / "work", 1, planned)


def _write(path: Path, *channels: int) -> Path:
    write_image(path, Image(VOXELS[list(channels)].astype(np.float32), GEOMETRY))
    return path


def _numbered(folder: Path) -> Path:
    for channel in range(2):
        _write(folder / f"anna_{channel:04d}.nii.gz", channel)
    return folder


def _named(folder: Path) -> Path:
    for channel, name in enumerate(("anna_t1.mha", "anna-T2_FS.mha")):
        _write(folder / name, channel)
    return folder


def _whole(folder: Path) -> Path:
    return _write(folder / "anna.nii.gz", 0, 1)


def _whole_in_a_folder(folder: Path) -> Path:
    return _whole(folder).parent


def _table_of_files(folder: Path) -> Path:
    first, second = (_write(folder / "deep" / f"{channel}.nrrd", channel) for channel in range(2))
    table = folder / "cases.csv"
    table.write_text(f"T2 FS,case,t1\n{second.relative_to(folder)},anna,{first.relative_to(folder)}\n")
    return table


def _table_of_series(folder: Path) -> Path:
    for channel in range(2):
        write_series(folder / "study" / str(channel), VOXELS[channel], GEOMETRY)
    table = folder / "cases.csv"
    table.write_text("case,T1,T2 fs\nanna,study/0,study/1\n")
    return table


@pytest.mark.parametrize("write", [_numbered, _named, _whole, _whole_in_a_folder, _table_of_files, _table_of_series])
def test_channels_come_in_any_number_of_files(
    tmp_path: Path, workspace: Workspace, write: Callable[[Path], Path]
) -> None:
    expected = load_predictor(workspace.root, device="cpu", mirror=False).predict(
        Image(VOXELS.astype(np.float32), GEOMETRY)
    )
    assert len(np.unique(expected.array)) > 1
    request = Request(write(tmp_path / "in"), tmp_path / "out", output_format="nifti")
    (case,) = predict(workspace, CHOICE, request, Silent()).cases
    assert case.error is None
    assert case.output == tmp_path / "out" / "anna.nii.gz"
    np.testing.assert_array_equal(read_label(case.output).array, expected.array)


@pytest.mark.parametrize(("suffix", "num_channels"), [(".png", 1), (".tif", 1), (".png", 3), (".tif", 3)])
def test_pictures_become_pictures(tmp_path: Path, suffix: str, num_channels: int) -> None:
    """Grey or in colour; the mask has the picture's size and format, and the label values."""
    configuration = plans.configuration((1.0, 1.0), (8, 8), (plans.channel("zscore"),) * num_channels)
    channels = ("R", "G", "B")[:num_channels]
    planned = plans.plan(configurations={"2d": configuration}).model_copy(update={"channels": channels})
    workspace = untrained(tmp_path / "work", 1, planned, "2d")
    voxels = np.random.default_rng(1).integers(0, 255, (19, 23, num_channels)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    picture = sitk.GetImageFromArray(voxels.squeeze(), isVector=num_channels > 1)
    sitk.WriteImage(picture, str(tmp_path / "in" / f"cell{suffix}"))
    (case,) = predict(
        workspace, ModelChoice("2d", None, "cpu", mirror=False), Request(tmp_path / "in", tmp_path / "out"), Silent()
    ).cases
    assert case.error is None
    assert case.output == tmp_path / "out" / f"cell{suffix}"
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(case.output)))
    expected = load_predictor(workspace.root, device="cpu", mirror=False).predict(
        Image(np.moveaxis(voxels, -1, 0)[:, None].astype(np.float32), Geometry(spacing=(1, 1, 1), dimensions=2))
    )
    assert mask.shape == (19, 23)
    assert len(np.unique(mask)) > 1
    np.testing.assert_array_equal(mask, expected.array[0])
