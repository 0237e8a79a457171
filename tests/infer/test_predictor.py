from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autoseg.core.errors import ArtefactError, PredictionError
from autoseg.core.geometry import Geometry
from autoseg.data.image import Image, LabelImage, read_label, write_label
from autoseg.infer.case import Model, Settings
from autoseg.infer.predictor import Predictor
from autoseg.network.checkpoint import save_weights
from autoseg.network.unet import UNet
from tests.infer.test_case import SETTINGS, Threshold
from tests.preprocess.plans import configuration, network, plan

GEOMETRY = Geometry(spacing=(2, 1, 1), origin=(5, 6, 7))


def predictor() -> Predictor:
    return Predictor(Model(plan(), configuration((2.0, 1.0, 1.0)), (Threshold(),)), SETTINGS)


def an_array(seed: int) -> NDArray[np.uint8]:
    blocks = np.random.default_rng(seed).integers(0, 3, (4, 4, 4))
    array: NDArray[np.uint8] = blocks.repeat(3, axis=0).repeat(3, axis=1).repeat(3, axis=2).astype(np.uint8)
    return array


def test_an_image_in_memory() -> None:
    label = predictor().predict(Image(an_array(0).astype(np.float32)[None], GEOMETRY))
    assert np.array_equal(label.array, np.array([0, 1, 5])[an_array(0)])
    assert label.geometry == GEOMETRY


def test_a_file_becomes_a_file(tmp_path: Path) -> None:
    write_label(tmp_path / "la.mha", LabelImage(an_array(0), GEOMETRY))
    label = predictor().predict_file([tmp_path / "la.mha"], tmp_path / "out" / "mask.nii.gz")
    assert np.array_equal(label.array, np.array([0, 1, 5])[an_array(0)])
    written = read_label(tmp_path / "out" / "mask.nii.gz")
    assert np.array_equal(written.array, label.array)
    assert written.geometry == GEOMETRY


def test_a_scan_is_not_written_over(tmp_path: Path) -> None:
    scan = tmp_path / "la.mha"
    write_label(scan, LabelImage(an_array(0), GEOMETRY))
    before = scan.read_bytes()
    with pytest.raises(PredictionError, match="OUT must neither replace a scan"):
        predictor().predict_file([scan], tmp_path / "." / "la.mha")
    assert scan.read_bytes() == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_must_be_finite(value: float) -> None:
    array = an_array(0).astype(np.float32)[None]
    array[0, 0, 0, 0] = value
    with pytest.raises(PredictionError, match="finite"):
        predictor().predict(Image(array, GEOMETRY))


def test_channels_are_counted_before_anything_is_done() -> None:
    array = an_array(0).astype(np.float32)[None]
    with pytest.raises(PredictionError, match=r"channels of the model, scan \(1\), got 2"):
        predictor().predict(Image(np.concatenate([array, array]), GEOMETRY))


def test_saved_weights_are_loaded_once_per_fold(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unets = [UNet(network()).eval() for _ in range(2)]
    paths = [tmp_path / f"fold_{fold}.safetensors" for fold in range(2)]
    for unet, path in zip(unets, paths, strict=True):
        save_weights(unet.state_dict(), path)
    the_plan = plan(configurations={"3d_fullres": configuration((2.0, 1.0, 1.0))})
    settings = Settings(device=torch.device("cpu"), precision="float32", mirror=False, batch_size=1)
    loaded = Predictor.load(the_plan, "3d_fullres", paths, settings)
    direct = Predictor(Model(the_plan, the_plan.configurations["3d_fullres"], tuple(unets)), settings)
    image = Image(an_array(0).astype(np.float32)[None], GEOMETRY)
    assert np.array_equal(loaded.predict(image).array, direct.predict(image).array)
    with pytest.raises(ArtefactError):
        Predictor.load(the_plan, "3d_fullres", [tmp_path / "absent"], settings)
    with pytest.raises(PredictionError, match="at least one fold"):
        Predictor.load(the_plan, "3d_fullres", [], settings)
    with pytest.raises(PredictionError, match="configuration must be one of"):
        Predictor.load(the_plan, "2d", paths, settings)
