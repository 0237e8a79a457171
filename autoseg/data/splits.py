"""Folds of cross-validation, such that cases of one group never stand on both sides."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from autoseg.core.artefact import Artefact, Record
from autoseg.core.errors import DatasetError

_logger = logging.getLogger(__name__)


class Split(Record):
    """One fold: names of the cases that are learnt from and of those that are held out, each sorted."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


class Splits(Artefact):
    """All folds; each case is held out in exactly one."""

    folds: tuple[Split, ...]
    seed: int


def make_splits(groups: Mapping[str, str], num_folds: int, seed: int) -> Splits:
    """Divide the cases into folds, whole groups at a time.

    Groups stand in the order of their first case. With one case per group the folds are those of the same call on the
    sorted case names, whatever the groups are called; and with five folds and seed 12345 they are nnU-Net's.

    Args:
        groups: Group of each case, by the case's name.
        num_folds: Folds wanted; with fewer groups there is one fold per group, and a warning in the log.
        seed: Seed of the shuffle.

    Raises:
        DatasetError: If there are no two groups.
        ValueError: If fewer than two folds are wanted.

    Source:
        Isensee et al. 2021, Methods: five-fold cross-validation; sklearn.model_selection.KFold over sorted names,
        whose folds these are; importing it takes longer than a plan.
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be 2 or more, got {num_folds}")
    cases_by_group: dict[str, list[str]] = defaultdict(list)
    for case in sorted(groups):
        cases_by_group[groups[case]].append(case)
    members = list(cases_by_group.values())
    if len(members) < 2:
        raise DatasetError(
            f"cross-validation: there must be two groups of labelled cases or more, got {len(members)} with "
            f"{len(groups)} cases. Add labelled cases, or group them by something that differs between them."
        )
    if len(members) < num_folds:
        _logger.warning("%d groups of cases allow %d folds, not %d", len(members), len(members), num_folds)
    everyone = np.arange(len(members))
    shuffled = np.random.RandomState(seed).permutation(everyone)  # as sklearn and nnU-Net do
    folds = (
        Split(train=_cases(members, np.setdiff1d(everyone, held_out)), validation=_cases(members, held_out))
        for held_out in np.array_split(shuffled, min(num_folds, len(members)))
    )
    return Splits(folds=tuple(folds), seed=seed)


def _cases(members: Sequence[Sequence[str]], chosen: Iterable[int]) -> tuple[str, ...]:
    return tuple(sorted(case for group in chosen for case in members[group]))
