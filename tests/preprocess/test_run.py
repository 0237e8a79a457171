import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from autoseg.core.artefact import digest_of_arrays
from autoseg.core.errors import DatasetError
from autoseg.core.geometry import Geometry
from autoseg.core.progress import Silent
from autoseg.data.dataset import Dataset, open_dataset
from autoseg.data.image import LabelImage, read_image, read_label, write_label
from autoseg.data.store import open_case, stored_properties
from autoseg.preprocess.case import prepare_case
from autoseg.preprocess.run import preprocess_dataset, source_digest
from tests.data.whole import whole
from tests.preprocess.plans import channel, configuration, plan

SETTINGS = configuration((1.5, 1.0, 1.0))


class _Shown:
    """A progress that remembers what was done, and may act on it."""

    def __init__(self, *, deadly: bool = False) -> None:
        self.cases: list[str] = []
        self.done = 0.0
        self.deadly = deadly

    def task(self, name: str, total: float) -> "_Shown":
        return self

    def __enter__(self) -> "_Shown":
        return self

    def __exit__(self, *_: object) -> None: ...

    def advance(self, steps: float = 1, **shown: str) -> None:
        self.done += steps
        self.cases.extend(shown.values())
        if self.deadly and shown:
            for process in multiprocessing.active_children():
                process.kill()

    def position(self, done: float, **shown: str) -> None:
        self.done = done


def _dataset(folder: Path, num_cases: int = 3) -> Dataset:
    rng = np.random.default_rng(0)
    geometry = Geometry(spacing=(2, 1, 1))
    for number in range(num_cases):
        image = rng.integers(1, 100, (6, 9, 10)).astype(np.int16)
        label = np.array([0, 1, 5], np.uint8)[rng.integers(0, 3, image.shape)]
        write_label(folder / "images" / f"la_{number}.nii.gz", LabelImage(image, geometry))
        write_label(folder / "labels" / f"la_{number}.nii.gz", LabelImage(label, geometry))
    return open_dataset(folder, folder / "unpacked")


def test_every_case_is_stored_as_it_is_prepared(tmp_path: Path) -> None:
    dataset, shown = _dataset(tmp_path), _Shown()
    preprocess_dataset(dataset, plan(), SETTINGS, tmp_path / "out", shown, num_workers=1)
    assert shown.done == 3
    for case in dataset.cases:
        image, label = read_image([Path(case.images[0])]), read_label(Path(str(case.label)))
        prepared, indices = prepare_case(image, label, plan(), SETTINGS, case.name)
        stored = open_case(tmp_path / "out", case.name)
        assert np.array_equal(whole(stored.image), prepared.array)
        assert np.array_equal(whole(stored.label), indices)
        assert stored.properties.made_from == {
            "preprocessing": source_digest(case, plan(), SETTINGS),
            "content": digest_of_arrays(prepared.array, indices),
        }


def test_only_what_changed_is_done_again(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path)

    def done_again() -> list[str]:
        shown = _Shown()
        preprocess_dataset(dataset, plan(), SETTINGS, tmp_path / "out", shown, num_workers=1)
        assert shown.done == (len(dataset.cases) if shown.cases else 0)
        return shown.cases

    assert done_again() == ["la_0", "la_1", "la_2"]
    assert done_again() == []
    os.utime(dataset.cases[1].images[0], ns=(0, 0))
    assert done_again() == ["la_1"]
    (tmp_path / "out" / "la_2.json").unlink()
    assert done_again() == ["la_2"]
    (tmp_path / "out" / "la_0.json").write_text("{")
    assert done_again() == ["la_0"]


def test_the_digest_follows_the_settings_that_matter(tmp_path: Path) -> None:
    case = _dataset(tmp_path, 1).cases[0]
    digest = source_digest(case, plan(), SETTINGS)
    assert source_digest(case, plan(), configuration((1.5, 1.0, 1.0), (16, 16, 16))) == digest
    assert source_digest(case, plan((2, 0, 1)), SETTINGS) != digest
    assert source_digest(case, plan(), configuration((1.5, 1.0, 1.1))) != digest
    assert source_digest(case, plan(), configuration((1.5, 1.0, 1.0), channels=(channel("ct"),))) != digest


def test_processes_store_the_same(tmp_path: Path) -> None:
    dataset, shown = _dataset(tmp_path), _Shown()
    preprocess_dataset(dataset, plan(), SETTINGS, tmp_path / "one", Silent(), num_workers=1)
    preprocess_dataset(dataset, plan(), SETTINGS, tmp_path / "two", shown, num_workers=2)
    assert sorted(shown.cases) == ["la_0", "la_1", "la_2"]
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 12
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_dead_process_names_the_cases_under_work(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, 8)
    with pytest.raises(DatasetError, match=r"la_\d.*: a worker must survive .* Use fewer workers"):
        preprocess_dataset(dataset, plan(), SETTINGS, tmp_path / "out", _Shown(deadly=True), num_workers=2)
    assert stored_properties(tmp_path / "out", "la_7") is None
    preprocess_dataset(dataset, plan(), SETTINGS, tmp_path / "out", Silent(), num_workers=1)
    assert stored_properties(tmp_path / "out", "la_7") is not None


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_bad_case_is_named(tmp_path: Path, num_workers: int) -> None:
    dataset = _dataset(tmp_path)
    settings = configuration((1.5, 1.0, 1.0), channels=(channel(), channel()))
    with pytest.raises(DatasetError, match=r"la_\d: must be fit for preprocessing, got ValueError"):
        preprocess_dataset(dataset, plan(), settings, tmp_path / "out", Silent(), num_workers)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path)
    Path(dataset.cases[1].images[0]).unlink()
    with pytest.raises(DatasetError, match=r"la_1\.nii\.gz: a file of case la_1 must be readable"):
        preprocess_dataset(dataset, plan(), SETTINGS, tmp_path / "out", Silent(), num_workers=1)
