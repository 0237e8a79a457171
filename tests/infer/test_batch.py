"""Batches of scans: order, errors that stay with their scan, extras, what is told of each."""

import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from highdicom.seg import segread
from torch import Tensor

from autoseg.core.progress import Silent
from autoseg.data.dicom import read_series
from autoseg.data.image import LabelImage, read_image, read_label, write_label
from autoseg.data.scan import FoundScan, read_scan
from autoseg.infer import batch
from autoseg.infer.batch import predict_files
from autoseg.infer.case import Model
from autoseg.infer.maps import Extras, read_probabilities
from autoseg.infer.outcome import Outcome, Scan
from autoseg.infer.predictor import Predictor
from tests.data.dicom_making import write_series
from tests.infer.test_case import SETTINGS, Threshold
from tests.infer.test_predictor import GEOMETRY, an_array, predictor
from tests.preprocess.plans import configuration, plan

LABELS_BY_NAME = {"background": 0, "organ": 1, "lesion": 5}


def _write_scan(folder: Path, name: str, seed: int = 0) -> Scan:
    path = folder / name
    write_label(path, LabelImage(an_array(seed), GEOMETRY))
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


def test_files_become_files_in_order(tmp_path: Path) -> None:
    scans = [_write_scan(tmp_path, f"la_{seed}.nii.gz", seed) for seed in range(4)]
    counter = _Counter()
    outcomes = predict_files(predictor(), scans, counter)
    assert counter.done == pytest.approx(counter.total)
    for seed, (scan, outcome) in enumerate(zip(scans, outcomes, strict=True)):
        assert outcome.output == scan.output
        assert outcome.error is None
        label = read_label(scan.output)
        assert np.array_equal(label.array, np.array([0, 1, 5])[an_array(seed)])
        assert label.geometry == GEOMETRY


def test_an_error_stays_with_its_scan(tmp_path: Path) -> None:
    scans = [_write_scan(tmp_path, f"la_{seed}.nii.gz", seed) for seed in range(5)]
    scans[0].images[0].unlink()
    scans[1].images[0].write_bytes(b"no scan")
    scans[2] = Scan((scans[2].images[0], scans[3].images[0]), scans[2].output)
    scans[3] = Scan(scans[3].images, tmp_path / "out" / "la_3.unknown")
    counter = _Counter()
    outcomes = predict_files(predictor(), scans, counter)
    assert [outcome.output for outcome in outcomes] == [None, None, None, None, scans[4].output]
    for outcome, reason in zip(
        outcomes, ["must be there", "la_1", "la_2.nii.gz: must have the channels of the model", "suffix"], strict=False
    ):
        assert outcome.error is not None
        assert reason in outcome.error
    assert counter.done == pytest.approx(5)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["la_4.nii.gz"]


class _Exhausted(Threshold):
    """Has no memory for what is bright, however it is asked."""

    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 3:
            raise MemoryError
        return super().forward(x)


EXHAUSTED = Predictor(Model(plan(), configuration((2.0, 1.0, 1.0)), (_Exhausted(),)), SETTINGS)


def _write_bright(folder: Path, name: str) -> Scan:
    write_label(folder / name, LabelImage(an_array(0) + np.uint8(4), GEOMETRY))
    return Scan((folder / name,), folder / "out" / name)


def test_a_full_memory_stays_with_its_scan(tmp_path: Path) -> None:
    scans = [_write_bright(tmp_path, "bright.nii.gz"), _write_scan(tmp_path, "la.nii.gz")]
    first, second = predict_files(EXHAUSTED, scans, Silent())
    assert first.error is not None
    assert "MemoryError" in first.error
    assert second.output == scans[1].output


class _ShortOfMemory(Threshold):
    """Has memory for one tile at once."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            raise MemoryError
        return super().forward(x)


def test_what_a_shortage_of_memory_led_to_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scans = [_write_scan(tmp_path, f"la_{seed}.nii.gz", seed) for seed in range(2)]
    model = Model(plan(), configuration((2.0, 1.0, 1.0)), (_ShortOfMemory(),))
    short, sufficient = predict_files(Predictor(model, SETTINGS), scans[:1], Silent()), predictor()
    (outcome,) = short
    assert outcome.error is None
    (note,) = outcome.notes
    assert "la_0.nii.gz: memory must suffice, got: MemoryError" in note
    assert note in caplog.text
    assert np.array_equal(read_label(scans[0].output).array, sufficient.predict(read_image(scans[0].images)).array)


@pytest.mark.parametrize("name", ["read_scan", "observing", "volumes_ml", "write_output"])
def test_an_error_of_any_type_stays_with_its_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """One that neither files nor memory explain is named as one of the program."""
    scans = [_write_scan(tmp_path, f"la_{seed}.nii.gz", seed) for seed in range(2)]
    function, mistakes = getattr(batch, name), [TypeError("no such thing")]

    def mistaken_once(*arguments: object) -> object:
        if mistakes:
            raise mistakes.pop()
        return function(*arguments)

    monkeypatch.setattr(batch, name, mistaken_once)
    failed, written = predict_files(predictor(), scans, Silent())
    assert failed.error == (
        f"{scans[0].images[0]}: must be segmented and written, got TypeError: no such thing. This is an error of"
        " autoseg: report it, with what --debug shows."
    )
    assert written.output == scans[1].output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["la_1.nii.gz"]


def test_extras_of_a_label_map_that_cannot_be_written_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(batch, "write_output", full)
    extras = Extras(save_probabilities=True, uncertainty=("entropy", "disagreement"))
    (outcome,) = predict_files(predictor(), [_write_scan(tmp_path, "la.nii.gz")], Silent(), extras)
    assert outcome.error is not None
    assert "No space left on device. Check the file, and the space" in outcome.error
    assert list((tmp_path / "out").iterdir()) == []


class _Unasked(Threshold):
    """Must not be asked."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError(f"nothing must be computed, got {x.shape}")


def test_a_format_without_place_for_a_scan_fails_before_the_network_works(tmp_path: Path) -> None:
    scan = Scan(_write_scan(tmp_path, "la.nii.gz").images, tmp_path / "out" / "la.png")
    model = Model(plan(), configuration((2.0, 1.0, 1.0)), (_Unasked(),))
    (outcome,) = predict_files(Predictor(model, SETTINGS), [scan], Silent())
    assert outcome.error is not None
    assert "la.png: must be able to hold the label map, got la.png: a 2D file must get one slice" in outcome.error


def test_a_scan_too_large_at_the_models_spacing_is_named(tmp_path: Path) -> None:
    """As with metres for millimetres in its header; nothing of that size is begun."""
    path = tmp_path / "la.nii.gz"
    write_label(path, LabelImage(an_array(0), GEOMETRY.model_copy(update={"spacing": (2000.0, 1000.0, 1000.0)})))
    scans = [Scan((path,), tmp_path / "out" / "la.nii.gz"), _write_scan(tmp_path, "other.nii.gz")]
    large, usual = predict_files(predictor(), scans, Silent())
    assert large.error is not None
    assert "got 12000 x 12000 x 12000 voxels from a spacing of 2000 x 1000 x 1000 mm: 1.38e+04 GB" in large.error
    assert usual.error is None


def test_two_scans_need_two_outputs(tmp_path: Path) -> None:
    scan = _write_scan(tmp_path, "la.nii.gz")
    with pytest.raises(ValueError, match="outputs must differ"):
        predict_files(predictor(), [scan, scan], Silent())


def test_no_scans_give_no_outcomes() -> None:
    assert predict_files(predictor(), [], Silent()) == ()


class _Meeting(Threshold):
    """Works on a scan only once the next one has been prepared, and then lets the reader go on."""

    def __init__(self, prepared: threading.Semaphore) -> None:
        super().__init__()
        self.prepared = prepared

    def forward(self, x: Tensor) -> Tensor:
        assert self.prepared.acquire(timeout=20), "the next scan must be read beside the network's work"
        self.prepared.release()
        return super().forward(x)


def test_the_next_scan_is_read_while_the_network_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = [_write_scan(tmp_path, f"la_{seed}.nii.gz", seed) for seed in range(2)]
    ready = threading.Semaphore(0)

    def read(images: Sequence[Path], scratch: Path | None) -> FoundScan:
        found = read_scan(images, scratch)
        if images == scans[1].images:
            ready.release()
        return found

    monkeypatch.setattr("autoseg.infer.batch.read_scan", read)
    model = Model(plan(), configuration((2.0, 1.0, 1.0)), (_Meeting(ready),))
    outcomes = predict_files(Predictor(model, SETTINGS), scans, Silent())
    assert [outcome.error for outcome in outcomes] == [None, None]


def test_what_is_told_of_a_scan(tmp_path: Path) -> None:
    scan = _write_scan(tmp_path, "la.nii.gz")
    told: list[Outcome] = []
    (outcome,) = predict_files(predictor(), [scan], Silent(), done=told.append)
    assert told == [outcome]
    assert list(outcome.seconds) == ["read", "prepare", "network", "export", "write"]
    assert all(seconds >= 0 for seconds in outcome.seconds.values())
    assert outcome.peak_memory_bytes is not None
    assert outcome.peak_memory_bytes > 2**26
    voxel_ml = 2 / 1000
    assert outcome.volumes_ml == pytest.approx(
        {name: (an_array(0) == index).sum() * voxel_ml for index, name in ((1, "organ"), (2, "lesion"))}
    )
    assert outcome.warnings == {}


def test_a_known_problem_is_the_error_of_its_scan(tmp_path: Path) -> None:
    scan = Scan((tmp_path / "a.nii.gz",), tmp_path / "out" / "a.nii.gz", "a: a channel is missing. Add it.")
    (outcome,) = predict_files(predictor(), [scan], Silent())
    assert outcome.error == "a: a channel is missing. Add it."


class _Shifted(Threshold):
    """Sees everything brighter, so that some voxels have another class."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.7)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_probabilities_and_uncertainty_lie_on_the_grid_of_the_scan(
    tmp_path: Path, transpose: tuple[int, int, int]
) -> None:
    """A border of zeros is cropped before the networks see the scan: there all is background, for sure."""
    inside = an_array(0)
    whole = np.zeros((14, 17, 20), np.uint8)
    whole[1:13, 3:15, 5:17] = inside
    write_label(tmp_path / "la.nrrd", LabelImage(whole, GEOMETRY))
    spacing = tuple(GEOMETRY.spacing[axis] for axis in transpose)
    model = Model(plan(transpose), configuration(spacing), (Threshold(), _Shifted()))
    scan = Scan((tmp_path / "la.nrrd",), tmp_path / "out" / "la.nrrd")
    extras = Extras(save_probabilities=True, uncertainty=("entropy", "disagreement"))
    (outcome,) = predict_files(Predictor(model, SETTINGS), [scan], Silent(), extras)
    assert outcome.error is None
    assert {name: path.name for name, path in outcome.further.items()} == {
        "probabilities": "la.probabilities.b2nd",
        "entropy": "la.entropy.nrrd",
        "disagreement": "la.disagreement.nrrd",
    }
    label = read_label(scan.output).array
    x = torch.from_numpy(whole.astype(np.float32))[None, None]
    alone = [network(x)[0] for network in model.networks]
    expected = ((alone[0] + alone[1]) / 2).softmax(dim=0).numpy()
    is_inside = np.zeros(whole.shape, bool)
    is_inside[tuple(slice(low.min(), low.max() + 1) for low in np.nonzero(whole))] = True
    expected[:, ~is_inside] = np.array([1, 0, 0])[:, None]
    found = np.stack([read_probabilities(outcome.further["probabilities"], name) for name in LABELS_BY_NAME])
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_array_equal(np.array(list(LABELS_BY_NAME.values()))[found.argmax(axis=0)], label)
    entropy = read_image([outcome.further["entropy"]])
    assert entropy.geometry == GEOMETRY
    np.testing.assert_allclose(
        entropy.array[0], -(expected * np.log(np.maximum(expected, 1e-30))).sum(axis=0) / np.log(3), atol=1e-5
    )
    values = np.array(list(LABELS_BY_NAME.values()))
    by_fold = [np.where(is_inside, values[logits.argmax(dim=0).numpy()], 0) for logits in alone]
    np.testing.assert_array_equal(
        read_image([outcome.further["disagreement"]]).array[0], np.mean([fold != label for fold in by_fold], axis=0)
    )


def test_a_failed_scan_leaves_no_extras(tmp_path: Path) -> None:
    scan = _write_bright(tmp_path, "bright.nii.gz")
    extras = Extras(save_probabilities=True, uncertainty=("entropy",))
    (outcome,) = predict_files(EXHAUSTED, [scan], Silent(), extras)
    assert outcome.error is not None
    assert outcome.further == {}
    assert list((tmp_path / "out").iterdir()) == []


def test_a_dicom_series_is_segmented_as_the_same_volume_is(tmp_path: Path) -> None:
    """From a folder and a zip to a segmentation object and to NIfTI; the object is read back voxel by voxel."""
    volume = an_array(3).astype(np.int16)
    series = write_series(tmp_path / "series", volume * 2, GEOMETRY, rescale=(0.5, 0))
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for path in series.iterdir():
            archive.write(path, f"study/{path.name}")
    write_label(tmp_path / "same.nii.gz", LabelImage(volume.astype(np.uint8), GEOMETRY))
    out = tmp_path / "out"
    scans = [
        Scan((tmp_path / "same.nii.gz",), out / "same.nii.gz"),
        Scan((series,), out / "series.dcm"),
        Scan((tmp_path / "packed.zip",), out / "packed.dcm"),
        Scan((series,), out / "series.nii.gz"),
    ]
    outcomes = predict_files(predictor(), scans, Silent())
    assert [outcome.error for outcome in outcomes] == [None] * 4
    expected = read_label(out / "same.nii.gz")
    written = read_label(out / "series.nii.gz")
    np.testing.assert_array_equal(written.array, expected.array)
    affines = [nib.load(out / name).affine for name in ("same.nii.gz", "series.nii.gz")]
    np.testing.assert_allclose(affines[0], affines[1], atol=1e-6)
    headers = read_series(series)[1].headers
    for name in ("series.dcm", "packed.dcm"):
        segments = segread(out / name).get_pixels_by_source_instance(
            [str(header.SOPInstanceUID) for header in headers],
            combine_segments=True,
            assert_missing_frames_are_empty=True,
            ignore_spatial_locations=True,
        )
        np.testing.assert_array_equal(np.array([0, 1, 5])[segments], expected.array)
