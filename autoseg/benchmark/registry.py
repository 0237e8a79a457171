"""The public datasets that `autoseg benchmark` knows by name, with the scores that others have published for them."""

import difflib
from collections.abc import Sequence

from autoseg.core.artefact import Artefact, Record
from autoseg.core.errors import DownloadError
from autoseg.core.resources import resource


class DiceScore(Record):
    """Dice, in percent.

    Attributes:
        mean: Over the foreground classes.
        per_class: Of each foreground class in ascending order of its label value; empty where it was not published.
    """

    mean: float
    per_class: tuple[float, ...] = ()


class PublishedDice(Record):
    """Cross-validation of one network, in percent.

    Attributes:
        all_folds: Over the cases of all folds.
        folds: Of each fold's held-out cases; empty where it was not published.
    """

    all_folds: DiceScore
    folds: tuple[DiceScore, ...] = ()

    def over(self, folds: Sequence[int]) -> DiceScore | None:
        """Return the score of some folds, to stand beside ours of the same folds.

        Args:
            folds: Numbers of the folds, at least one.

        Returns:
            The published score of all folds if these are all; otherwise the mean over the folds asked for, with classes
            where each fold has them. None if a fold was not published.
        """
        chosen = [self.folds[fold] for fold in sorted(set(folds)) if 0 <= fold < len(self.folds)]
        if not chosen or len(chosen) < len(set(folds)):
            return None
        if len(chosen) == len(self.folds):
            return self.all_folds
        per_class = zip(*(score.per_class for score in chosen), strict=True) if _all_have_classes(chosen) else ()
        return DiceScore(
            mean=_mean([score.mean for score in chosen]), per_class=tuple(_mean(scores) for scores in per_class)
        )


class Published(Record):
    """Scores that others have published for a dataset.

    Attributes:
        source: How they came about and where they are published.
        dice_percent: By the name of the network.
    """

    source: str
    dice_percent: dict[str, PublishedDice]


class Entry(Record):
    """A dataset that a name stands for.

    Attributes:
        name: What the user types.
        title: What the scans show.
        licence: SPDX identifier.
        citation: To be cited by whoever uses it.
        num_cases: Labelled cases.
        address: Of the archive; None if the dataset is made on the spot.
        md5: Of the archive, hexadecimal; None if there is no archive.
        published: Scores to compare with; None if there are none.
    """

    name: str
    title: str
    licence: str
    citation: str
    num_cases: int
    address: str | None = None
    md5: str | None = None
    published: Published | None = None


class Registry(Artefact):
    """All datasets that are known by name; the content of `datasets.json`."""

    entries: tuple[Entry, ...]


def find_entry(name: str) -> Entry:
    """Return the entry of a dataset.

    Raises:
        DownloadError: If no entry has this name; lists the names.
    """
    entries = {entry.name: entry for entry in Registry.load(resource("datasets.json")).entries}
    if name in entries:
        return entries[name]
    near = difflib.get_close_matches(name.lower(), entries, n=1)
    advice = f"Did you mean {near[0]}?" if near else "For data of your own, use `autoseg run DATA`."
    raise DownloadError(f"benchmark: name must be one of {', '.join(entries)}, got {name}. {advice}")


def _all_have_classes(scores: Sequence[DiceScore]) -> bool:
    return all(score.per_class for score in scores)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
