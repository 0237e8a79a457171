import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from autoseg.benchmark.phantom import LESION, NUM_TEST_CASES, ORGAN, make_phantom, phantom_case
from autoseg.data.image import read_image, read_label

CASES = [phantom_case(0, number) for number in range(12)]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_other_seed_others(tmp_path: Path) -> None:
    first = digests(make_phantom(tmp_path / "first", seed=3, num_cases=2))
    again = digests(make_phantom(tmp_path / "again", seed=3, num_cases=2))
    other = digests(make_phantom(tmp_path / "other", seed=4, num_cases=2))

    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_layout_is_that_of_the_decathlon(tmp_path: Path) -> None:
    folder = make_phantom(tmp_path, seed=0, num_cases=3)
    index = json.loads((folder / "dataset.json").read_text())

    assert index["labels"] == {"0": "background", "1": "organ", "4": "lesion"}
    assert len(index["training"]) == index["numTraining"] == 3
    assert len(index["test"]) == index["numTest"] == NUM_TEST_CASES
    for entry in index["training"]:
        image, label = read_image([folder / entry["image"]]), read_label(folder / entry["label"])
        assert image.array.shape[1:] == label.array.shape
        assert image.geometry == label.geometry
    for name in index["test"]:
        assert (folder / name).exists()
        assert (folder / name.replace("imagesTs", "labelsTs")).exists()


def test_files_hold_what_was_made(tmp_path: Path) -> None:
    make_phantom(tmp_path, seed=0, num_cases=2)
    image, label = CASES[1]
    stored = read_image([tmp_path / "imagesTr" / "phantom_001.nii.gz"])

    np.testing.assert_array_equal(stored.array, image.array)
    np.testing.assert_array_equal(read_label(tmp_path / "labelsTr" / "phantom_001.nii.gz").array, label.array)
    np.testing.assert_allclose(stored.geometry.spacing, image.geometry.spacing, rtol=1e-5)
    np.testing.assert_allclose(stored.geometry.direction, image.geometry.direction, atol=1e-4)


def test_complete_phantom_is_left_alone_and_an_unfinished_one_completed(tmp_path: Path) -> None:
    make_phantom(tmp_path, seed=0, num_cases=1)
    scan = tmp_path / "imagesTr" / "phantom_000.nii.gz"
    before = scan.stat().st_mtime_ns
    make_phantom(tmp_path, seed=0, num_cases=1)
    assert scan.stat().st_mtime_ns == before

    scan.unlink()
    make_phantom(tmp_path, seed=0, num_cases=1)
    assert scan.exists()


def test_more_cases_keep_the_former(tmp_path: Path) -> None:
    make_phantom(tmp_path / "few", seed=0, num_cases=1)
    make_phantom(tmp_path / "more", seed=0, num_cases=2)
    name = Path("imagesTr") / "phantom_000.nii.gz"

    assert (tmp_path / "few" / name).read_bytes() == (tmp_path / "more" / name).read_bytes()


def test_spacing_is_anisotropic_and_varies() -> None:
    spacings = np.array([image.geometry.spacing for image, _ in CASES])

    assert (spacings[:, 0] / spacings[:, 1] > 1.9).all()
    assert len(np.unique(spacings[:, 0])) == len(CASES)


def test_sizes_vary_and_some_are_odd() -> None:
    sizes = np.array([label.array.shape for _, label in CASES])

    assert (sizes.min(axis=0) >= (16, 44, 44)).all()
    assert (sizes.max(axis=0) <= (24, 70, 70)).all()
    assert (sizes % 2 == 1).any(axis=0).all()


def test_lesion_is_small_and_missing_in_one_of_six() -> None:
    volumes = [(np.sum(label.array == ORGAN), np.sum(label.array == LESION)) for _, label in CASES]

    assert [number for number, (_, lesion) in enumerate(volumes) if lesion == 0] == [4, 10]
    assert all(20 < lesion < organ / 3 for organ, lesion in volumes if lesion)
    assert set(np.unique(CASES[0][1].array)) == {0, ORGAN, LESION}


def test_one_of_three_is_oblique() -> None:
    oblique = [not np.allclose(image.geometry.direction, np.eye(3).ravel()) for image, _ in CASES]

    assert [number for number, is_oblique in enumerate(oblique) if is_oblique] == [1, 4, 7, 10]
    for image, _ in CASES:
        direction = np.reshape(image.geometry.direction, (3, 3))
        np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-12)


def test_no_threshold_finds_the_organ() -> None:
    def best_dice(number: int) -> float:
        image, label = CASES[number]
        foreground = label.array > 0
        smooth = np.asarray(ndimage.gaussian_filter(image.array[0], (0.5, 1.0, 1.0)))
        found = (smooth > level for level in np.percentile(smooth, np.linspace(80, 99, 39)))
        return max(float(2 * np.sum(mask & foreground) / (mask.sum() + foreground.sum())) for mask in found)

    assert np.mean([best_dice(number) for number in range(len(CASES))]) < 0.75


def test_at_least_one_case(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_cases must be at least 1, got 0"):
        make_phantom(tmp_path, seed=0, num_cases=0)
