from pathlib import Path

import pytest

from autoseg.core.errors import PredictionError
from autoseg.data.dataset import Case
from autoseg.pipeline.heldout import maps


def test_an_error_of_any_type_names_its_case(tmp_path: Path) -> None:
    image = tmp_path / "a.nii.gz"
    case = Case(name="a", images=(str(image),), label="a_seg.nii.gz", group="a")
    words = f"{image}: must be segmented and written, got KeyError: 'mean'. This is an error of autoseg"
    with pytest.raises(PredictionError, match=words), maps._named(case):
        raise KeyError("mean")


def test_label_maps_that_are_replaced_are_no_longer_those_of_other_networks(tmp_path: Path) -> None:
    """As when there are fewer folds, and later as many as before."""
    files, images = {name: f"{name}.nii.gz" for name in "ab"}, dict.fromkeys("ab", "1")
    for file in files.values():
        (tmp_path / file).touch()
    for fold in (0, 3):
        known = maps.HeldOutPredictions(made_from={"weights": "those before"}, outputs=files, images=images)
        known.save(tmp_path / f"fold_{fold}.json")
    noted = maps._Noted(tmp_path, 0, {"weights": "new"}, images)
    noted.take_over(["a"])
    for fold in (0, 3):
        assert maps.HeldOutPredictions.load(tmp_path / f"fold_{fold}.json").outputs == {"b": "b.nii.gz"}
    before = maps._Noted(tmp_path, 3, {"weights": "those before"}, images)
    assert "a" not in before
    assert "b" in before


def test_what_a_fold_has_written_stays_noted(tmp_path: Path) -> None:
    noted = maps._Noted(tmp_path, 0, {"weights": "new"}, {"a": "1", "b": "1"})
    (tmp_path / "a.nii.gz").touch()
    noted.add("a", tmp_path / "a.nii.gz")
    noted.close(["a", "b"])
    maps._Noted(tmp_path, 0, {"weights": "new"}, {"a": "1", "b": "1"}).take_over(["b"])
    assert "a" in maps._Noted(tmp_path, 0, {"weights": "new"}, {"a": "1", "b": "1"})
