import re

import pytest

from autoseg.benchmark.registry import DiceScore, Entry, PublishedDice, Registry, find_entry
from autoseg.core.errors import DownloadError
from autoseg.core.resources import resource

REGISTRY = Registry.load(resource("datasets.json"))
DECATHLON = [entry for entry in REGISTRY.entries if entry.name != "phantom"]


def test_ten_tasks_and_the_phantom_are_known() -> None:
    assert len(DECATHLON) == 10
    assert len({entry.name for entry in REGISTRY.entries}) == 11
    assert find_entry("phantom").address is None


@pytest.mark.parametrize("entry", DECATHLON, ids=lambda entry: entry.name)
def test_task_is_complete(entry: Entry) -> None:
    number = DECATHLON.index(entry) + 1

    assert entry.address is not None
    assert entry.md5 is not None
    assert entry.published is not None
    assert re.fullmatch(rf"https://\S+/Task{number:02d}_\w+\.tar", entry.address)
    assert re.fullmatch("[0-9a-f]{32}", entry.md5)
    assert entry.licence == "CC-BY-SA-4.0"
    assert len(entry.published.dice_percent) == 3
    assert "AutoNNUnet" in entry.published.source


@pytest.mark.parametrize("entry", DECATHLON, ids=lambda entry: entry.name)
def test_published_means_agree_with_their_parts(entry: Entry) -> None:
    assert entry.published is not None
    plain = entry.published.dice_percent["plain U-Net, 8 GB plan"]

    assert len(plain.folds) == 5
    assert sum(plain.all_folds.per_class) / len(plain.all_folds.per_class) == pytest.approx(
        plain.all_folds.mean, abs=0.011
    )
    assert sum(fold.mean for fold in plain.folds) / 5 == pytest.approx(plain.all_folds.mean, abs=0.8)
    for fold in plain.folds:
        if fold.per_class:
            assert sum(fold.per_class) / len(fold.per_class) == pytest.approx(fold.mean, abs=0.011)


def test_hippocampus_is_that_of_the_paper_trail() -> None:
    entry = find_entry("hippocampus")

    assert entry.num_cases == 260
    assert entry.md5 == "9d24dba78a72977dbd1d2e110310f31b"
    assert entry.published is not None
    fold_0 = entry.published.dice_percent["plain U-Net, 8 GB plan"].over([0])
    assert fold_0 == DiceScore(mean=89.22, per_class=(90.05, 88.4))


PUBLISHED = PublishedDice(
    all_folds=DiceScore(mean=81.0, per_class=(90.0, 72.0)),
    folds=(
        DiceScore(mean=80.0, per_class=(90.0, 70.0)),
        DiceScore(mean=82.0, per_class=(88.0, 76.0)),
        DiceScore(mean=84.0),
    ),
)


@pytest.mark.parametrize(
    ("folds", "expected"),
    [
        ([1], DiceScore(mean=82.0, per_class=(88.0, 76.0))),
        ([1, 0], DiceScore(mean=81.0, per_class=(89.0, 73.0))),
        ([0, 2], DiceScore(mean=82.0)),
        ([0, 1, 2], DiceScore(mean=81.0, per_class=(90.0, 72.0))),
        ([3], None),
        ([0, 3], None),
        ([-1], None),
    ],
)
def test_score_of_some_folds(folds: list[int], expected: DiceScore | None) -> None:
    assert PUBLISHED.over(folds) == expected


def test_score_of_folds_where_only_the_whole_was_published() -> None:
    assert PublishedDice(all_folds=DiceScore(mean=70.0)).over([0]) is None


@pytest.mark.parametrize(("name", "near"), [("hipocampus", "hippocampus"), ("Spleen", "spleen"), ("livers", "liver")])
def test_misspelt_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(DownloadError, match=f"must be one of phantom, .*, colon, got {name}. Did you mean {near}"):
        find_entry(name)


def test_unknown_name_is_answered_with_all() -> None:
    with pytest.raises(DownloadError, match=r"got xyz\. For data of your own, use `autoseg run DATA`"):
        find_entry("xyz")
