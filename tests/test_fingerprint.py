from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from autoseg.core.errors import DatasetError
from autoseg.core.geometry import Geometry
from autoseg.core.labels import declare_labels
from autoseg.core.progress import Silent
from autoseg.data.check import check_dataset
from autoseg.data.dataset import Case, Dataset
from autoseg.fingerprint import Fingerprint, check_and_measure, extract_fingerprint, pool_cases
from autoseg.fingerprint.extract import pool_intensities
from autoseg.fingerprint.measure import digest_intensities, measure_case

LABELS = declare_labels({0: "background", 2: "liver", 5: "tumour"})
SPACING = (2.0, 1.0, 0.5)
GEOMETRY = Geometry(spacing=SPACING)


def _scan(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Two channels that are zero outside z 1..4, y 2..8, x all; a liver block with two tumours that touch no other."""
    rng = np.random.default_rng(seed)
    image = np.zeros((2, 6, 10, 12), dtype=np.float32)
    image[:, 1:5, 2:9, :] = rng.uniform(1, 2, (2, 4, 7, 12))
    image[1] *= 10
    label = np.zeros((6, 10, 12), dtype=np.uint8)
    label[2:4, 3:8, 2:10] = 2
    label[2, 3, 2] = label[3, 7, 9] = 5
    return image, label


def _write(folder: Path, names: list[str]) -> Dataset:
    cases = []
    for seed, name in enumerate(names):
        image, label = _scan(seed)
        paths = [folder / f"{name}_{channel}.nii.gz" for channel in range(2)]
        for array, path in zip((*image, label), (*paths, folder / f"{name}.nii.gz"), strict=True):
            stored = sitk.GetImageFromArray(array)
            stored.SetSpacing(SPACING[::-1])
            sitk.WriteImage(stored, str(path))
        cases.append(Case(name=name, images=tuple(map(str, paths)), label=str(folder / f"{name}.nii.gz"), group=name))
    return Dataset(name="test", layout="folders", channels=("T1", "T2"), labels=LABELS, cases=tuple(cases))


def test_a_case_is_measured_inside_its_non_zero_box() -> None:
    image, label = _scan()
    figures = measure_case("a", image, label, GEOMETRY, LABELS, 16).figures
    assert figures.shape == (6, 10, 12)
    assert figures.cropped_shape == (4, 7, 12)
    assert figures.foreground_extent_mm == (2 * 2.0, 5 * 1.0, 8 * 0.5)


def test_classes_are_counted_in_voxels_parts_and_volume() -> None:
    image, label = _scan()
    liver, tumour = measure_case("a", image, label, GEOMETRY, LABELS, 16).figures.classes
    assert (liver.name, liver.num_voxels, liver.num_components, liver.volume_mm3) == ("liver", 78, 1, 78.0)
    assert (tumour.num_voxels, tumour.num_components, tumour.volume_mm3) == (2, 2, 2.0)
    assert liver.mean == pytest.approx([image[channel][label == 2].mean() for channel in (0, 1)])
    assert tumour.std == pytest.approx([image[channel][label == 5].std() for channel in (0, 1)], rel=1e-4)


def test_voxels_that_touch_at_a_corner_are_one_part() -> None:
    label = np.zeros((3, 3, 3), dtype=np.uint8)
    label[0, 0, 0] = label[1, 1, 1] = 5
    figures = measure_case("a", np.ones((1, 3, 3, 3), np.float32), label, GEOMETRY, LABELS, 4).figures
    assert figures.classes[1].num_components == 1


def test_ignored_voxels_are_not_measured() -> None:
    image, label = _scan()
    label[2, 3, 3] = label[1, 2, 0] = 9
    labels = LABELS.model_copy(update={"ignored": 9})
    measured = measure_case("a", image, label, GEOMETRY, labels, 16)
    assert [entry.num_voxels for entry in measured.figures.classes] == [77, 2]
    assert measured.figures.foreground_extent_mm == (2 * 2.0, 5 * 1.0, 8 * 0.5)
    expected = [channel[np.isin(label, (2, 5))].mean() for channel in image]
    assert [digest.mean for digest in measured.digests] == pytest.approx(expected)


def test_a_case_without_foreground_has_no_digest() -> None:
    image, label = _scan()
    measured = measure_case("a", image, np.zeros_like(label), GEOMETRY, LABELS, 16)
    assert measured.digests == ()
    assert measured.figures.foreground_extent_mm == (0, 0, 0)
    assert [entry.num_voxels for entry in measured.figures.classes] == [0, 0]
    assert measured.figures.classes[0].mean == ()


def test_an_undeclared_label_is_refused() -> None:
    image, label = _scan()
    label[3, 3, 3] = 7
    with pytest.raises(ValueError, match=r"got \(7\.0,\)"):
        measure_case("a", image, label, GEOMETRY, LABELS, 16)


def test_an_image_of_zeros_is_not_cropped() -> None:
    image, label = _scan()
    assert measure_case("a", image * 0, label, GEOMETRY, LABELS, 16).figures.cropped_shape == (6, 10, 12)


@pytest.mark.parametrize("num_values", [3, 16, 5000])
def test_a_digest_keeps_the_distribution_in_a_fixed_size(num_values: int) -> None:
    values = np.random.default_rng(0).normal(5, 2, num_values).astype(np.float32)
    digest = digest_intensities(values, 16)
    assert digest.quantiles.shape == (16,)
    assert np.all(np.diff(digest.quantiles) >= 0)
    assert digest.mean == pytest.approx(values.mean(), rel=1e-5)
    assert (digest.minimum, digest.maximum) == (values.min(), values.max())
    assert set(digest.quantiles) <= set(values)


def test_pooled_statistics_weigh_cases_equally() -> None:
    """A case of 40,000 voxels and one of 400 count the same, as if equally many voxels had been drawn of each."""
    rng = np.random.default_rng(1)
    cases = [rng.normal(0, 1, 40_000).astype(np.float32), rng.normal(10, 3, 400).astype(np.float32)]
    pooled = pool_intensities([digest_intensities(values, 4096) for values in cases])
    drawn = np.concatenate([np.repeat(values, 40_000 // values.size) for values in cases])
    assert pooled.mean == pytest.approx(drawn.mean(), abs=1e-4)
    assert pooled.std == pytest.approx(drawn.std(), rel=1e-4)
    low, middle, high = np.percentile(drawn, (0.5, 50, 99.5))
    assert pooled.percentile_00_5 == pytest.approx(low, abs=0.03)
    assert pooled.median == pytest.approx(middle, abs=0.2)
    assert pooled.percentile_99_5 == pytest.approx(high, abs=0.15)
    assert (pooled.min, pooled.max) == (drawn.min(), drawn.max())


def test_the_fingerprint_does_not_depend_on_the_workers(tmp_path: Path) -> None:
    dataset = _write(tmp_path, ["a", "b", "c"])
    alone = extract_fingerprint(dataset, Silent(), 1)
    assert extract_fingerprint(dataset, Silent(), 2) == alone
    assert [case.name for case in alone.cases] == ["a", "b", "c"]
    assert alone.cases[0].spacing == SPACING
    assert alone.median_relative_size_after_cropping == pytest.approx(4 * 7 * 12 / 720)
    assert alone.intensities[1].mean == pytest.approx(10 * alone.intensities[0].mean, rel=0.05)
    assert alone.frequencies[1].case_share == 1
    assert alone.frequencies[1].median_components == 2
    assert alone.frequencies[0].voxel_share == pytest.approx(78 / 336)
    alone.save(tmp_path / "fingerprint.json")
    assert Fingerprint.load(tmp_path / "fingerprint.json") == alone


@pytest.mark.parametrize("num_workers", [1, 2])
def test_checking_and_measuring_at_once_finds_what_each_finds_alone(tmp_path: Path, num_workers: int) -> None:
    dataset = _write(tmp_path, ["a", "b", "c"])
    unlabelled = tuple(case.model_copy(update={"label": None}) for case in dataset.cases[2:])
    dataset = dataset.model_copy(update={"cases": dataset.cases[:2], "unlabelled": unlabelled})
    report, measured = check_and_measure(dataset, Silent(), num_workers)
    assert report == check_dataset(dataset, Silent(), 1)
    assert report.num_cases == 2
    assert pool_cases(dataset, measured) == extract_fingerprint(dataset, Silent(), 1)


def test_a_case_with_errors_is_reported_and_not_measured(tmp_path: Path) -> None:
    dataset = _write(tmp_path, ["a", "b"])
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 10, 11), np.uint8)), str(tmp_path / "a.nii.gz"))
    report, measured = check_and_measure(dataset, Silent(), 1)
    assert report == check_dataset(dataset, Silent(), 1)
    assert "shape" in {problem.rule for problem in report.errors}
    assert [case.figures.name for case in measured] == ["b"]


def test_a_dataset_without_cases_is_refused() -> None:
    empty = Dataset(name="none", layout="folders", channels=("T1",), labels=LABELS, cases=())
    with pytest.raises(DatasetError, match="none: at least one labelled case is needed"):
        extract_fingerprint(empty, Silent(), 1)


def test_a_dataset_without_foreground_is_refused(tmp_path: Path) -> None:
    dataset = _write(tmp_path, ["a"])
    background_alone = dataset.model_copy(update={"labels": declare_labels({0: "background"})})
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 10, 12), np.uint8)), str(tmp_path / "a.nii.gz"))
    with pytest.raises(DatasetError, match="at least one case must have foreground"):
        extract_fingerprint(background_alone, Silent(), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"channels": ("T1",)}, r"a: must have 1 channels, got 2", id="channels"),
        pytest.param({"labels": declare_labels({0: "bg", 2: "liver"})}, r"a.nii.gz: label values .* got \(5\.0,\)",
                     id="undeclared label"),
    ],
)  # fmt: skip
def test_a_case_that_breaks_the_declaration_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    dataset = _write(tmp_path, ["a", "b"]).model_copy(update=change)
    with pytest.raises(DatasetError, match=message):
        extract_fingerprint(dataset, Silent(), 1)


def test_a_label_of_another_shape_is_named(tmp_path: Path) -> None:
    dataset = _write(tmp_path, ["a"])
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 10, 11), np.uint8)), str(tmp_path / "a.nii.gz"))
    with pytest.raises(DatasetError, match=r"a.nii.gz: shape must equal its image's \(6, 10, 12\), got \(6, 10, 11\)"):
        extract_fingerprint(dataset, Silent(), 1)


def test_a_case_that_does_not_fit_into_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(_paths: object) -> None:
        raise MemoryError("Unable to allocate 80 GiB")

    monkeypatch.setattr("autoseg.fingerprint.extract.read_image", exhaust)
    with pytest.raises(DatasetError, match="a: must be readable and fit into memory, got MemoryError: Unable"):
        extract_fingerprint(_write(tmp_path, ["a"]), Silent(), 1)


def test_a_case_without_a_label_is_named(tmp_path: Path) -> None:
    dataset = _write(tmp_path, ["a"])
    unlabelled = dataset.model_copy(update={"cases": (dataset.cases[0].model_copy(update={"label": None}),)})
    with pytest.raises(DatasetError, match="a: a case must have a label"):
        extract_fingerprint(unlabelled, Silent(), 1)
