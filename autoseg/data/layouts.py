"""How datasets lie in folders: which files are the images and the label of which case."""

import glob
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoseg.core.errors import DatasetError
from autoseg.data.description import DESCRIPTION_NAME, Description
from autoseg.data.image import case_stem, image_suffix
from autoseg.data.problem import Problem, Severity

Layout = Literal["decathlon", "nnunet_raw", "folders"]

FOLDER_PAIRS = (("images", "labels"), ("images", "masks"), ("imagesTr", "labelsTr"))
UNLABELLED_FOLDER = "imagesTs"

_CHANNEL_FILE = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case: one image or one per channel, and its label unless it has none."""

    name: str
    images: tuple[Path, ...]
    label: Path | None


@dataclass(frozen=True)
class Listing:
    """What lies in a dataset's folder."""

    layout: Layout
    cases: tuple[CaseFiles, ...]
    unlabelled: tuple[CaseFiles, ...]
    problems: tuple[Problem, ...]


def dataset_root(folder: Path) -> Path:
    """Return the folder itself, or the only folder in it (and so on), that looks like a dataset.

    Raises:
        DatasetError: If there is none.
    """
    root = folder
    while not (root / DESCRIPTION_NAME).is_file() and _folder_pair(root) is None:
        inside = [path for path in _visible(root) if path.is_dir()]
        if len(inside) != 1:
            found = ", ".join(sorted(path.name for path in _visible(folder))[:6]) or "nothing"
            raise DatasetError(
                f"{folder}: a dataset must have {DESCRIPTION_NAME}, or the folders images and labels (or imagesTr and"
                f" labelsTr), got {found}. Arrange the files like this."
            )
        root = inside[0]
    return root


def list_cases(root: Path, description: Description | None) -> Listing:
    """Return the cases of a dataset, recognised by what its `dataset.json` declares and how its files are named.

    Cases listed in `dataset.json` are the Decathlon's layout. Otherwise, or where the list is empty, files of the same
    name in two folders belong together; where images end in `_0000`, `_0001` and labels do not, these are the channels
    of a case: nnU-Net's layout if there is a `dataset.json`, plain folders if not.

    Args:
        root: The dataset's folder.
        description: Its `dataset.json`, if there is one.

    Raises:
        DatasetError: If there is neither a list of cases nor a pair of folders with images and labels.
    """
    if description and description.training and not _has_channel_files(root, description.training):
        return _listed(root, description, description.training)
    pair = _folder_pair(root)
    if pair is None:
        raise DatasetError(
            f"{root / DESCRIPTION_NAME}: must list the cases under training, or have the folders imagesTr and labelsTr"
            " beside it, got neither. Add one."
        )
    return _paired(root / pair[0], root / pair[1], root / UNLABELLED_FOLDER, description is not None)


def _listed(root: Path, description: Description, training: Sequence[tuple[str, str | None]]) -> Listing:
    cases: dict[str, CaseFiles] = {}
    unlabelled: dict[str, CaseFiles] = {}
    problems: list[Problem] = []
    for image, label in (*training, *((image, None) for image in description.test)):
        path = _resolved(root, image)
        files = CaseFiles(case_stem(path), (path,), None if label is None else _resolved(root, label))
        kind = unlabelled if label is None else cases
        if files.name in kind:
            problems.append(_same_name(path, kind[files.name].images[0]))
        else:
            kind[files.name] = files
    problems += (
        _problem("error", "partner", _resolved(root, image), "a training image must have a label, got none", _NO_LABEL)
        for image, label in training
        if label is None
    )
    problems += _not_listed(cases.values())
    if description.num_training not in (None, len(training)):
        message = f"numTraining must be the number of listed cases, {len(training)}, got {description.num_training}"
        problems.append(_problem("warning", "count", root / DESCRIPTION_NAME, message, "Check that none is missing"))
    return Listing("decathlon", tuple(cases.values()), tuple(unlabelled.values()), tuple(problems))


def _not_listed(cases: Iterable[CaseFiles]) -> list[Problem]:
    """Return a problem for each file beside listed ones, unless it differs from one of them in case alone."""
    listed = {path for case in cases for path in (*case.images, case.label) if path}
    folded = {str(path).casefold() for path in listed}
    beside = (path for folder in {path.parent for path in listed} if folder.is_dir() for path in _images(folder))
    message = f"a file beside listed ones must be listed in {DESCRIPTION_NAME}, got one that is not"
    return [
        _problem("warning", "unlisted", path, message, "List or remove it")
        for path in sorted(beside)
        if str(path).casefold() not in folded
    ]


def _paired(images: Path, labels: Path, unlabelled: Path, is_described: bool) -> Listing:
    problems: list[Problem] = []
    label_by_name: dict[str, Path] = {}
    for path in _images(labels):
        name = case_stem(path)
        if name in label_by_name:
            problems.append(_same_name(path, label_by_name[name]))
        else:
            label_by_name[name] = path
    image_files = _images(images)
    has_channel_files = _are_channels(image_files, label_by_name)
    found = _grouped(image_files, has_channel_files, problems)
    extra = _grouped(_images(unlabelled), has_channel_files, problems) if unlabelled.is_dir() else {}
    cases = [CaseFiles(name, files, label_by_name[name]) for name, files in found.items() if name in label_by_name]
    without = {name: files for name, files in found.items() if name not in label_by_name}
    if not cases:
        example = (
            " and ".join(path.name for path in (*image_files[:1], *list(label_by_name.values())[:1])) or "no files"
        )
        raise DatasetError(
            f"{images.parent}: images in {images.name} must have labels of the same name in {labels.name}, got"
            f" {len(found)} images, {len(label_by_name)} labels and no pair (for example {example}). Rename the labels."
        )
    if has_channel_files:
        problems += _misnumbered(found, extra)
    for name, files in without.items():
        problems.append(_lacks_partner(files[0], name, label_by_name, "label"))
    for name, path in label_by_name.items():
        if name not in found:
            problems.append(_lacks_partner(path, name, found, "image"))
    rest = {**extra, **without}
    return Listing(
        layout="nnunet_raw" if has_channel_files and is_described else "folders",
        cases=tuple(cases),
        unlabelled=tuple(CaseFiles(name, files, None) for name, files in rest.items()),
        problems=tuple(problems),
    )


def _lacks_partner(path: Path, name: str, partners: Iterable[str], kind: str) -> Problem:
    """Return the problem of a file without partner: an image can be left out, a label is a sign of a lost image."""
    similar = next((other for other in partners if other.casefold() == name.casefold()), None)
    got = f"{similar} (upper and lower case differ)" if similar else "none"
    severity: Severity = "error" if kind == "image" or similar else "warning"
    remedy = "Rename one of them" if similar else _NO_LABEL if kind == "label" else "Add the image, or remove the label"
    return _problem(severity, "partner", path, f"must have {_WITH_ARTICLE[kind]} of the same name, got {got}", remedy)


def _grouped(files: Sequence[Path], has_channel_files: bool, problems: list[Problem]) -> dict[str, tuple[Path, ...]]:
    """Return the image files of each case, by its name; files that repeat a name become problems."""
    by_case: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in files:
        stem = case_stem(path)
        match = _CHANNEL_FILE.fullmatch(stem) if has_channel_files else None
        name, channel = (match["case"], match["channel"]) if match else (stem, "")
        if channel in by_case[name]:
            problems.append(_same_name(path, by_case[name][channel]))
        else:
            by_case[name][channel] = path
    return {name: tuple(channels[key] for key in sorted(channels)) for name, channels in by_case.items()}


def _misnumbered(found: Mapping[str, Sequence[Path]], extra: Mapping[str, Sequence[Path]]) -> Iterator[Problem]:
    """Yield a problem for each case that has as many channels as most cases, but of other numbers.

    More or fewer channels are left to the check, and so is a lone file without number, which may hold all of them.
    """
    times = Counter(numbers for files in found.values() if any(numbers := _channel_numbers(files)))
    usual = min(times, key=lambda numbers: (-times[numbers], numbers))
    for files in (*found.values(), *extra.values()):
        numbers = _channel_numbers(files)
        if any(numbers) and len(numbers) == len(usual) and numbers != usual:
            got = ", ".join(number or "no number" for number in numbers)
            message = f"channels of a case must be numbered {', '.join(usual)} as those of most cases, got {got}"
            yield _problem("error", "channels", files[0], message, "Rename the files, or add what is missing")


def _channel_numbers(files: Iterable[Path]) -> tuple[str, ...]:
    """Return the digits that each name ends in, empty where it ends in none."""
    matches = (_CHANNEL_FILE.fullmatch(case_stem(path)) for path in files)
    return tuple(match["channel"] if match else "" for match in matches)


def _are_channels(files: Sequence[Path], label_names: Iterable[str]) -> bool:
    """Return whether image names end in a channel's number that the labels lack; `scan_0001` may be a case's name."""
    labels = set(label_names)
    stems = [case_stem(path) for path in files]
    cases = {match["case"] for stem in stems if (match := _CHANNEL_FILE.fullmatch(stem))}
    return bool(cases & labels) and len(cases & labels) > len(labels.intersection(stems))


def _has_channel_files(root: Path, training: Sequence[tuple[str, str | None]]) -> bool:
    """Return whether listed images stand for files that end in `_0000`, as in nnU-Net's first format."""
    path = _resolved(root, training[0][0])
    return not path.exists() and any(path.parent.glob(f"{glob.escape(case_stem(path))}_[0-9][0-9][0-9][0-9].*"))


def _folder_pair(root: Path) -> tuple[str, str] | None:
    return next((pair for pair in FOLDER_PAIRS if all((root / name).is_dir() for name in pair)), None)


def _images(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if image_suffix(path) and path.is_file()]


def _visible(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith((".", "__MACOSX"))]


def _resolved(root: Path, listed: str) -> Path:
    """Return the path of a listed file, absolute; a link keeps its name, as what it leads to may have any."""
    path = root / listed
    return path.parent.resolve() / path.name


def _same_name(path: Path, first: Path) -> Problem:
    message = f"names of cases must differ, got the name of {first}"
    return _problem("error", "name", path, message, "Rename or remove one of the two")


_NO_LABEL = "Add the label, or remove the image from the training images"
_WITH_ARTICLE = {"image": "an image", "label": "a label"}


def _problem(severity: Severity, rule: str, path: Path, message: str, remedy: str) -> Problem:
    return Problem(severity=severity, rule=rule, file=str(path), message=message, remedy=remedy)
