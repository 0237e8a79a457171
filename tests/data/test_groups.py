from pathlib import Path

import pytest

from autoseg.core.errors import DatasetError
from autoseg.data.groups import case_groups

NAMES = ["patient01_a", "patient01_b", "patient02_a"]


def test_each_case_is_its_own_group_by_default() -> None:
    assert case_groups(NAMES, [], None) == {name: name for name in NAMES}


@pytest.mark.parametrize("pattern", [r"patient(\d+)", r"(?<=patient)\d+", r"(?:patient)(\d+)_"])
def test_a_pattern_gives_its_group_or_its_match(pattern: str) -> None:
    assert list(case_groups(NAMES, [], pattern).values()) == ["01", "01", "02"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("patient01", "must match the name of every case, got patient02_a"),
        ("volunteer", "must match the name of every case, got patient01_a"),
        ("(x*)", "must match the name of every case, got patient01_a"),
        (r"(\d+)_(a|b)", "one group in parentheses at most, got 2"),
        ("(", "must be a regular expression"),
    ],
)
def test_patterns_that_leave_a_case_out_are_refused(pattern: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        case_groups(NAMES, [], pattern)


def table(folder: Path, text: str) -> str:
    (folder / "groups.csv").write_text(text, encoding="utf-8-sig")
    return str(folder / "groups.csv")


def test_a_table_gives_the_groups(tmp_path: Path) -> None:
    text = "case,age,group\npatient02_a,61,q\npatient01_a,58,p\npatient01_b,58,p\nunlabelled,3,r\n"
    groups = case_groups(NAMES, ["unlabelled"], table(tmp_path, text))
    assert groups == {"patient01_a": "p", "patient01_b": "p", "patient02_a": "q"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("patient01_a,p\npatient01_b,p\n", "a row for every case, got none for patient02_a"),
        ("patient01_a,p\npatient01_b,p\npatient02_a,q\nstranger,q\n", "name cases of the dataset, got stranger"),
        ("patient01_a,p\npatient01_b,\npatient02_a,q\n", "each row must have a case and a group"),
        ("patient01_a,p\npatient01_a,q\n", "must have one group, got p and q for patient01_a"),
    ],
)
def test_incomplete_tables_are_refused(tmp_path: Path, rows: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        case_groups(NAMES, [], table(tmp_path, "case,group\n" + rows))


def test_a_table_needs_its_columns_and_must_exist(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="each row must have a case and a group"):
        case_groups(NAMES, [], table(tmp_path, "name,patient\npatient01_a,p\n"))
    with pytest.raises(DatasetError, match="must be a readable CSV file"):
        case_groups(NAMES, [], str(tmp_path / "absent.csv"))
