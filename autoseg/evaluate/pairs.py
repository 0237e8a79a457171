"""Which prediction belongs to which reference, and whether their voxel grids agree."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from autoseg.core.errors import EvaluationError
from autoseg.data.grid import grid_differences
from autoseg.data.image import case_stem, image_suffix, read_header
from autoseg.data.problem import Problem, UnusableFileError

log = logging.getLogger(__name__)

Pair = tuple[str, Path, Path]
"""Name of the case, file of its prediction, file of its reference."""

UNCERTAINTIES = ("entropy", "disagreement")
"""Images that `autoseg predict --uncertainty` writes beside a label map: the last part of their names."""


def pair_files(predictions: Path, references: Path) -> list[Pair]:
    """Return the pairs of label files of the same name, in alphabetical order.

    Args:
        predictions: File or folder.
        references: File if `predictions` is one, folder otherwise.

    Raises:
        EvaluationError: If a path is missing, one is a file and the other a folder, a folder holds no label file or two
            of one name, or a file lacks its partner; names all.
    """
    paths = (predictions, references)
    refuse(
        [
            problem("missing", path, "a file or folder must be there, found none", "Correct the path")
            for path in paths
            if not path.exists()
        ]
    )
    if predictions.is_file() and references.is_file():
        return [(case_stem(references), predictions, references)]
    if predictions.is_file() or references.is_file():
        file, folder = paths if predictions.is_file() else paths[::-1]
        message = f"predictions and references must be two files or two folders, got a file and the folder {folder}"
        refuse([problem("kind", file, message, "Name the partner of the file, or both folders")])
    return _pair_folders(predictions, references)


def grid_problems(pair: Pair) -> list[Problem]:
    """Return how the voxel grids of a pair differ, or why they cannot be read; nothing if they agree."""
    name, *paths = pair
    headers = []
    problems = []
    for path in paths:
        try:
            headers.append(read_header(path))
        except UnusableFileError as error:
            problems.append(error.problem)
    if problems:
        return problems
    ours, theirs = headers
    for severity, rule, message in grid_differences(theirs.shape, theirs.geometry, ours.shape, ours.geometry):
        remedy = f"Write the prediction of {name} on the grid of its reference"
        found = problem(rule, paths[0], f"{message} (against {paths[1]})", remedy)
        if severity == "error":
            problems.append(found)
        else:
            log.warning("%s", found.sentence)
    return problems


def problem(rule: str, path: Path, message: str, remedy: str) -> Problem:
    """Return an error about a file."""
    return Problem(severity="error", rule=rule, file=str(path), message=message, remedy=remedy)


def refuse(problems: Sequence[Problem]) -> None:
    """Raise an `EvaluationError` that lists the problems, if there are any."""
    if not problems:
        return
    listed = "\n".join(f"  {found.sentence}" for found in problems)
    raise EvaluationError(
        f"evaluate: predictions and references must be free of errors to be compared, got {len(problems)}:\n{listed}"
    )


def _pair_folders(predictions: Path, references: Path) -> list[Pair]:
    predicted, problems = _files_by_name(predictions)
    referenced, more_problems = _files_by_name(references)
    problems += more_problems
    problems += [
        problem(
            "missing",
            referenced[name],
            f"a reference must have a prediction of its name, found none in {predictions}",
            f"Predict {name}, or leave its reference out",
        )
        for name in sorted(referenced.keys() - predicted.keys())
    ]
    problems += [
        problem(
            "missing",
            predicted[name],
            f"a prediction must have a reference of its name, found none in {references}",
            "Add its reference, or move the prediction away",
        )
        for name in sorted(predicted.keys() - referenced.keys())
    ]
    if not predicted and not referenced:
        problems.append(problem("empty", predictions, "must hold label files, found none", "Correct the path"))
    refuse(problems)
    return [(name, predicted[name], referenced[name]) for name in sorted(referenced)]


def _files_by_name(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Return the label maps of a folder by case, without images of their uncertainty, and what is wrong with them."""
    files: dict[str, Path] = {}
    problems: list[Problem] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or image_suffix(path) is None:
            continue
        name = case_stem(path)
        if name in files:
            message = f"a case must have one file, got {files[name].name} too"
            problems.append(problem("duplicate", path, message, "Move one of them away"))
        files[name] = path
    return {name: path for name, path in files.items() if not _is_uncertainty(name, files)}, problems


def _is_uncertainty(name: str, others: Collection[str]) -> bool:
    case, _, kind = name.rpartition(".")
    return kind in UNCERTAINTIES and case in others
