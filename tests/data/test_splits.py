import logging
from pathlib import Path

import pytest

from autoseg.core.artefact import digest_of
from autoseg.core.errors import DatasetError
from autoseg.data.splits import Splits, make_splits

# Numbers from 1 to 394 that no case of the Decathlon's hippocampus dataset has.
HIPPOCAMPUS_GAPS = """2 5 9 10 12 13 16 18 21 22 27 28 29 30 31 32 43 47 54 55 59 61 62 63 66 69 71 72 73 76 78 79 80 81
82 85 86 100 103 110 111 112 113 115 116 117 118 119 120 121 122 128 129 131 134 137 139 140 147 151 153 159 167 168 179
182 183 186 187 191 192 196 198 200 201 202 206 208 209 211 213 214 218 237 239 240 241 246 247 254 255 256 258 262 266
267 270 271 272 273 275 278 281 283 284 285 291 293 306 307 312 313 315 323 324 339 342 344 346 347 348 357 362 364 365
369 371 377 379 382 384 388 391 392"""
HIPPOCAMPUS_FOLDS_DIGEST = "952a5ae8843f34af"
FIRST_HELD_OUT = (17, 3, 4, 1, 8)


def own_groups(names: list[str]) -> dict[str, str]:
    return {name: name for name in names}


def hippocampus_names() -> list[str]:
    gaps = {int(number) for number in HIPPOCAMPUS_GAPS.split()}
    return [f"hippocampus_{number:03d}" for number in range(1, 395) if number not in gaps]


def test_folds_of_the_hippocampus_dataset_are_those_of_nnunet() -> None:
    splits = make_splits(own_groups(hippocampus_names()[::-1]), 5, 12345)
    assert [len(fold.train) for fold in splits.folds] == [208] * 5
    assert tuple(fold.validation[0] for fold in splits.folds) == tuple(f"hippocampus_{n:03d}" for n in FIRST_HELD_OUT)
    assert digest_of([[fold.train, fold.validation] for fold in splits.folds]) == HIPPOCAMPUS_FOLDS_DIGEST


def test_each_case_is_held_out_once_and_never_learnt_from_at_the_same_time() -> None:
    names = [f"case_{number}" for number in range(13)]
    splits = make_splits(own_groups(names), 4, 1)
    assert sorted(name for fold in splits.folds for name in fold.validation) == sorted(names)
    for fold in splits.folds:
        assert sorted((*fold.train, *fold.validation)) == sorted(names)


def test_a_group_is_never_on_both_sides() -> None:
    groups = {f"p{patient:02d}_{frame}": f"p{patient:02d}" for patient in range(11) for frame in "ab"}
    for fold in make_splits(groups, 5, 12345).folds:
        assert not {groups[name] for name in fold.train} & {groups[name] for name in fold.validation}


def test_names_of_groups_of_one_case_do_not_matter() -> None:
    names = [f"case_{number:02d}" for number in range(20)]
    renamed = {name: f"group {99 - number}" for number, name in enumerate(names)}
    assert make_splits(renamed, 5, 12345) == make_splits(own_groups(names), 5, 12345)


def test_another_seed_gives_other_folds() -> None:
    groups = own_groups([f"case_{number}" for number in range(20)])
    assert make_splits(groups, 5, 1).folds != make_splits(groups, 5, 2).folds


def test_fewer_groups_than_folds_give_a_fold_per_group(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="autoseg"):
        splits = make_splits({"a1": "a", "a2": "a", "b": "b", "c": "c"}, 5, 12345)
    assert sorted(fold.validation for fold in splits.folds) == [("a1", "a2"), ("b",), ("c",)]
    assert "3 groups of cases allow 3 folds, not 5" in caplog.text


def test_as_many_groups_as_folds_give_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert len(make_splits(own_groups(["a", "b", "c"]), 3, 0).folds) == 3
    assert not caplog.text


@pytest.mark.parametrize("groups", [{}, {"a": "a"}, {"a": "patient", "b": "patient"}])
def test_one_group_cannot_be_split(groups: dict[str, str]) -> None:
    with pytest.raises(DatasetError, match=r"must be two groups .* or more, got [01] with"):
        make_splits(groups, 5, 12345)


def test_one_fold_is_a_wrong_argument() -> None:
    with pytest.raises(ValueError, match="2 or more, got 1"):
        make_splits(own_groups(["a", "b"]), 1, 0)


def test_splits_are_saved_and_loaded(tmp_path: Path) -> None:
    splits = make_splits(own_groups(["a", "b", "c"]), 3, 0)
    path = tmp_path / "splits.json"
    splits.save(path)
    assert Splits.load(path) == splits
