"""Which files are the scans to segment: a file, a folder, a table of cases, a DICOM series."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from autoseg.core.errors import PredictionError
from autoseg.data.dicom import holds_dicom, is_folder
from autoseg.data.image import IMAGE_SUFFIXES, case_stem, image_suffix, read_header
from autoseg.data.problem import UnusableFileError

CASE_COLUMN, IMAGE_COLUMN, OUTPUT_COLUMN = "case", "image", "output"
"""Columns of a table of cases, besides one per channel; `image` stands for all channels in one file."""

RECORD_NAME = "predictions.json"
"""Of the file that says what became of the scans of a folder; what lies beside it are results, not scans."""

_NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_SEPARATORS = re.compile(r"[^a-z0-9]+")
_ARCHIVE = ".zip"


@dataclass(frozen=True)
class ScanFiles:
    """The files of a scan.

    Attributes:
        name: Of the case; with the folders below IN, if IN is searched with all of its folders.
        images: Channels in the order of the model: files, or a folder or zip of a DICOM series each.
        output: Where the label map goes, as a table of cases says; None where it does not.
        problem: Why the scan cannot be segmented, as a whole sentence with a remedy; None if nothing is known.
    """

    name: str
    images: tuple[Path, ...]
    output: Path | None = None
    problem: str | None = None


def find_scan_files(source: Path, channels: Sequence[str], *, recursive: bool = False) -> list[ScanFiles]:
    """Return the scans of a file, a folder or a table of cases, in the order of their names.

    In a folder, each image file is a scan, except that files whose names differ in the channel alone are one scan:
    `..._0000` and `..._0001`, or for a model of several channels also `..._T1` and `..._flair`, after the names of its
    channels, in small letters or large. Where such files hold all channels each, as the first header says, or the model
    has one channel and finds `..._0000` beside `..._0001`, they are scans of their own, under their full names. A
    folder that holds DICOM slices is a scan, whatever else it holds, and so is a zip. Folders of earlier results below
    it are left out.

    Args:
        source: A file, a folder, or a `.csv`.
        channels: Names of the model's channels.
        recursive: Whether folders are searched with all folders below them; otherwise those directly in them are
            searched for DICOM slices alone.

    Raises:
        PredictionError: If there is none, or the table breaks its form.
    """
    try:
        is_file, is_there = source.is_file(), source.exists()
    except OSError as error:
        raise PredictionError(
            f"{source}: must be readable, got: {error.strerror or error}. Correct the permissions."
        ) from None
    if is_file and source.suffix.lower() == ".csv":
        return read_case_table(source, channels)
    if is_file:
        return [ScanFiles(scan_stem(source), (source,))]
    if not is_there:
        raise PredictionError(
            f"{source}: a scan, a folder of scans or a .csv of cases must be there, found none. Correct the path."
        )
    found = list(_in_folder(source, source, channels, recursive=recursive))
    if not found:
        deeper = "" if recursive else " --recursive looks into its folders too."
        raise PredictionError(
            f"{source}: at least one scan must be in the folder, found none."
            f" Known formats: {', '.join(IMAGE_SUFFIXES)}, DICOM series as folder or {_ARCHIVE}.{deeper}"
        )
    return sorted(found, key=lambda scan: scan.name)


def scan_stem(path: Path) -> str:
    """Return the name of a scan's file without the suffix of its format; that of a folder as it is."""
    if is_folder(path):
        return path.name
    return case_stem(path) if image_suffix(path) or path.suffix.lower() in (_ARCHIVE, ".dcm") else path.name


def read_case_table(path: Path, channels: Sequence[str]) -> list[ScanFiles]:
    """Return the scans of a `.csv` with a header.

    Columns: one per channel, named like it, or `image` for a file (or DICOM folder or zip) that holds all channels;
    `case`, the name, by default that of the first file; `output`, where the label map goes, relative to OUT. Paths of
    images are relative to the table.

    Raises:
        PredictionError: If the table cannot be read, lacks columns or has others.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = {(name or "").strip(): name for name in reader.fieldnames or ()}
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PredictionError(f"{path}: must be a table in UTF-8, got: {error}. Export it again.") from None
    named = [columns[name] for channel in channels for name in columns if _folded(name) == _folded(channel)]
    if len(named) != len(channels):
        named = [columns[IMAGE_COLUMN]] if IMAGE_COLUMN in columns else []
    strange = set(columns.values()) - {*named, *(columns.get(name) for name in (CASE_COLUMN, OUTPUT_COLUMN))}
    if not named or strange:
        got = ", ".join(columns) or "no header"
        raise PredictionError(
            f"{path}: columns must be {IMAGE_COLUMN}, or {', '.join(channels)}; {CASE_COLUMN} and {OUTPUT_COLUMN} may"
            f" be added; got {got}. Rename them."
        )
    if not rows:
        raise PredictionError(f"{path}: must have a row per case, got none. Add them.")
    return [_from_row(path, row, named, columns) for row in rows]


def _from_row(
    path: Path, row: Mapping[str, str | None], image_columns: Sequence[str], columns: Mapping[str, str]
) -> ScanFiles:
    cells = [(row[column] or "").strip() for column in image_columns]
    images = tuple(path.parent / cell for cell in cells if cell)
    case = (row[columns[CASE_COLUMN]] or "").strip() if CASE_COLUMN in columns else ""
    output = (row[columns[OUTPUT_COLUMN]] or "").strip() if OUTPUT_COLUMN in columns else ""
    name = case or (scan_stem(images[0]) if images else "unnamed")
    problem = None
    if "" in cells:
        lacking = ", ".join(column for column, cell in zip(image_columns, cells, strict=True) if not cell)
        problem = f"{path}: case {name} must have a file in each column, got none in {lacking}. Fill it in."
    elif _leaves(name):
        problem = f"{path}: case {name} must have a name that stays inside OUT, got a path out of it. Rename it."
    elif _leaves(output):
        problem = f"{path}: case {name} must have an output inside OUT, got {output}. Correct it."
    return ScanFiles(name, images, Path(output) if output else None, problem)


def _leaves(name: str) -> bool:
    """Return whether a path leads out of the folder that it is relative to."""
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts


def _in_folder(folder: Path, root: Path, channels: Sequence[str], *, recursive: bool) -> Iterator[ScanFiles]:
    """Give the scans in a folder and, as asked, below it; hidden files and folders are none."""
    name = root.resolve().name if folder == root else folder.relative_to(root).as_posix()
    try:
        within = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))
        folders = {path for path in within if path.is_dir()}
        is_series = holds_dicom(folder)
    except OSError as error:
        problem = f"{folder}: must be readable, got: {error.strerror or error}. Correct its permissions, or remove it."
        yield ScanFiles(name, (folder,), None, problem)
        return
    has_results = folder / RECORD_NAME in within
    if has_results and folder != root:
        return
    if is_series and not has_results:
        yield ScanFiles(name, (folder,))
    if folder != root and not recursive:
        return
    prefix = "" if folder == root else f"{name}/"
    files = [path for path in within if path not in folders]
    yield from _grouped([path for path in files if image_suffix(path)], prefix, channels)
    for path in files:
        if path.suffix.lower() == _ARCHIVE:
            yield ScanFiles(f"{prefix}{scan_stem(path)}", (path,))
    for path in sorted(folders):
        yield from _in_folder(path, root, channels, recursive=recursive)


def _grouped(files: Sequence[Path], prefix: str, channels: Sequence[str]) -> Iterator[ScanFiles]:
    """Give the scans of a folder's image files."""
    matches = ((path, _NUMBERED.fullmatch(case_stem(path))) for path in files)
    times = Counter((match["case"], image_suffix(path)) for path, match in matches if match)
    groups: dict[tuple[str, str], dict[int, Path]] = {}
    for path in files:
        name, channel = split_channel(case_stem(path), channels)
        if len(channels) == 1 and times[name, image_suffix(path)] > 1:
            channel = None
        group = (f"{name}{image_suffix(path)}", "") if channel is not None else (path.name, "whole")
        groups.setdefault(group, {})[channel or 0] = path
    for (_, kind), by_channel in groups.items():
        images = tuple(by_channel[channel] for channel in sorted(by_channel))
        if len(images) > 1 and _hold_all(images, len(channels)):
            yield from (ScanFiles(f"{prefix}{case_stem(path)}", (path,)) for path in images)
            continue
        absent = [title for number, title in enumerate(channels) if number not in by_channel]
        # A lone file may hold all channels, whatever its name ends in; its header will tell.
        is_whole = bool(kind) or (bool(absent) and len(images) == 1)
        name = case_stem(images[0]) if is_whole else split_channel(case_stem(images[0]), channels)[0]
        problem = None
        if absent and not is_whole:
            problem = (
                f"{images[0]}: a scan must have a file for each channel ({', '.join(channels)}), got none for"
                f" {', '.join(absent)}. Add it."
            )
        yield ScanFiles(f"{prefix}{name}", images, None, problem)


def _hold_all(images: Sequence[Path], num_channels: int) -> bool:
    """Return whether the first of the files whose header can be read has all channels, not one of them."""
    for path in images:
        try:
            return read_header(path).num_channels == num_channels
        except (UnusableFileError, OSError):
            continue
    return False


def split_channel(stem: str, channels: Sequence[str]) -> tuple[str, int | None]:
    """Return the case's name and the number of the channel that a file's name ends in; None if it ends in none."""
    match = _NUMBERED.fullmatch(stem)
    if match and int(match["channel"]) < len(channels):
        return match["case"], int(match["channel"])
    if len(channels) > 1:
        # The longest name first: T1 gd before gd.
        for number, channel in sorted(enumerate(channels), key=lambda entry: -len(entry[1])):
            words = r"[_\-. ]?".join(re.escape(word) for word in _SEPARATORS.split(channel.lower()) if word)
            found = re.fullmatch(rf"(.+)[_\-. ]{words}", stem, re.IGNORECASE) if words else None
            if found:
                return found[1], number
    return stem, None


def _folded(name: str) -> str:
    return _SEPARATORS.sub("", name.lower())
