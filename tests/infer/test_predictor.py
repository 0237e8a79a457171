from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.core.errors import ArtefactError, PredictionError
from autoseg.core.geometry import Geometry
from autoseg.core.labels import declare_labels
from autoseg.core.progress import Silent
from autoseg.data.image import Image, LabelImage, read_label, write_label
from autoseg.infer.case import Model, Settings
from autoseg.infer.predictor import Predictor, Scan, output_path
from autoseg.network.checkpoint import save_weights
from autoseg.network.unet import UNet
from tests.infer.test_case import SETTINGS, Threshold
from tests.preprocess.plans import configuration, network, plan

GEOMETRY = Geometry(spacing=(2, 1, 1), origin=(5, 6, 7))


def _predictor() -> Predictor:
    return Predictor(Model(plan(), configuration((2.0, 1.0, 1.0)), (Threshold(),)), SETTINGS)


def _array(seed: int) -> NDArray[np.uint8]:
    blocks = np.random.default_rng(seed).integers(0, 3, (4, 4, 4))
    array: NDArray[np.uint8] = blocks.repeat(3, axis=0).repeat(3, axis=1).repeat(3, axis=2).astype(np.uint8)
    return array


def _write_scan(folder: Path, name: str, seed: int = 0) -> Scan:
    path = folder / name
    write_label(path, LabelImage(_array(seed), GEOMETRY))
    return Scan((path,), folder / "out" / name)


class _Counter:
    """A progress that counts."""

    def __init__(self) -> None:
        self.done = 0.0

    def task(self, name: str, total: float) -> "_Counter":
        self.total = total
        return self

    def __enter__(self) -> "_Counter":
        return self

    def __exit__(self, *_: object) -> None: ...

    def advance(self, steps: float = 1, **shown: str) -> None:
        self.done += steps

    def position(self, done: float, **shown: str) -> None:
        self.done = done


def test_an_image_in_memory() -> None:
    label = _predictor().predict(Image(_array(0).astype(np.float32)[None], GEOMETRY))
    assert np.array_equal(label.array, np.array([0, 1, 5])[_array(0)])
    assert label.geometry == GEOMETRY


def test_files_become_files_in_order(tmp_path: Path) -> None:
    scans = [_write_scan(tmp_path, f"la_{seed}.nii.gz", seed) for seed in range(4)]
    counter = _Counter()
    outcomes = _predictor().predict_files(scans, counter)
    assert counter.done == pytest.approx(counter.total)
    for seed, (scan, outcome) in enumerate(zip(scans, outcomes, strict=True)):
        assert outcome.output == scan.output
        assert outcome.error is None
        label = read_label(scan.output)
        assert np.array_equal(label.array, np.array([0, 1, 5])[_array(seed)])
        assert label.geometry == GEOMETRY


def test_an_error_stays_with_its_scan(tmp_path: Path) -> None:
    scans = [_write_scan(tmp_path, f"la_{seed}.nii.gz", seed) for seed in range(5)]
    scans[0].images[0].unlink()
    scans[1].images[0].write_bytes(b"no scan")
    scans[2] = Scan((scans[2].images[0], scans[3].images[0]), scans[2].output)
    scans[3] = Scan(scans[3].images, tmp_path / "out" / "la_3.unknown")
    counter = _Counter()
    outcomes = _predictor().predict_files(scans, counter)
    assert [outcome.output for outcome in outcomes] == [None, None, None, None, scans[4].output]
    for outcome, reason in zip(
        outcomes, ["must be there", "la_1", "la_2.nii.gz: must have the channels of the model", "suffix"], strict=False
    ):
        assert outcome.error is not None
        assert reason in outcome.error
    assert counter.done == pytest.approx(5)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["la_4.nii.gz"]


class _Exhausted(Threshold):
    """Has no memory for its first tile."""

    first = True

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            self.first = False
            raise MemoryError
        return super().forward(x)


def test_a_full_memory_stays_with_its_scan(tmp_path: Path) -> None:
    scans = [_write_scan(tmp_path, f"la_{seed}.nii.gz", seed) for seed in range(2)]
    model = Model(plan(), configuration((2.0, 1.0, 1.0)), (_Exhausted(),))
    first, second = Predictor(model, SETTINGS).predict_files(scans, Silent())
    assert first.error is not None
    assert "MemoryError: no more memory" in first.error
    assert second.output == scans[1].output


def test_two_scans_need_two_outputs(tmp_path: Path) -> None:
    scan = _write_scan(tmp_path, "la.nii.gz")
    with pytest.raises(ValueError, match="outputs must differ"):
        _predictor().predict_files([scan, scan], Silent())


def test_no_scans_give_no_outcomes() -> None:
    assert _predictor().predict_files([], Silent()) == ()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_must_be_finite(value: float) -> None:
    array = _array(0).astype(np.float32)[None]
    array[0, 0, 0, 0] = value
    with pytest.raises(PredictionError, match="finite"):
        _predictor().predict(Image(array, GEOMETRY))


def test_channels_are_counted_before_anything_is_done() -> None:
    array = _array(0).astype(np.float32)[None]
    with pytest.raises(PredictionError, match=r"channels of the model, scan \(1\), got 2"):
        _predictor().predict(Image(np.concatenate([array, array]), GEOMETRY))


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
    image = Image(_array(0).astype(np.float32)[None], GEOMETRY)
    assert np.array_equal(loaded.predict(image).array, direct.predict(image).array)
    with pytest.raises(ArtefactError):
        Predictor.load(the_plan, "3d_fullres", [tmp_path / "absent"], settings)
    with pytest.raises(PredictionError, match="at least one fold"):
        Predictor.load(the_plan, "3d_fullres", [], settings)
    with pytest.raises(PredictionError, match="configuration must be one of"):
        Predictor.load(the_plan, "2d", paths, settings)


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
