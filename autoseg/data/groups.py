"""Which cases belong together, for example all scans of a patient."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from autoseg.core.errors import DatasetError


def case_groups(names: Sequence[str], others: Sequence[str] | None, group_by: str | None) -> dict[str, str]:
    """Return the group of each case.

    Args:
        names: Cases to group.
        others: Cases that a table may hold as well; None for any.
        group_by: None to make each case its own group; the path of a CSV file with the columns `case` and `group`; or a
            regular expression that is searched in each name, whose group, or whole match if it has none, is the answer.

    Raises:
        DatasetError: If a case has no group, the table names an unknown case, or `group_by` cannot be used.
    """
    if group_by is None:
        return {name: name for name in names}
    if group_by.lower().endswith(".csv"):
        return _groups_from_table(names, others, Path(group_by))
    return _groups_from_pattern(names, group_by)


def _groups_from_pattern(names: Sequence[str], pattern: str) -> dict[str, str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DatasetError(
            f"--group-by: must be a regular expression or a .csv file, got {pattern}: {error}."
        ) from None
    if expression.groups > 1:
        raise DatasetError(
            f"--group-by: must have one group in parentheses at most, got {expression.groups} in {pattern}. "
            "Write (?:...) for the others."
        )
    groups = {}
    for name in names:
        match = expression.search(name)
        group = match.group(expression.groups) if match else None
        if not group:
            raise DatasetError(
                f"--group-by: {pattern} must match the name of every case, got {name}, which it does not. "
                "Widen the pattern, or give a .csv file with the columns case and group."
            )
        groups[name] = group
    return groups


def _groups_from_table(names: Sequence[str], others: Sequence[str] | None, path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: must be a readable CSV file, got: {error}. Check the path.") from None
    table: dict[str, str] = {}
    for row in rows:
        case, group = row.get("case"), row.get("group")
        if not case or not group:
            raise DatasetError(f"{path}: each row must have a case and a group, got {dict(row)}. Complete it.")
        if table.setdefault(case, group) != group:
            raise DatasetError(
                f"{path}: a case must have one group, got {table[case]} and {group} for {case}. Keep one."
            )
    if missing := sorted(set(names) - set(table)):
        raise DatasetError(f"{path}: must have a row for every case, got none for {_some(missing)}. Add it.")
    if others is not None and (unknown := sorted(set(table) - set(names) - set(others))):
        raise DatasetError(f"{path}: must name cases of the dataset, got {_some(unknown)}. Correct or remove the row.")
    return {name: table[name] for name in names}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
