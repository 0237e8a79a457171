"""All that is wrong with one case, found without stopping at the first finding."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.core.labels import Labels
from autoseg.data.dataset import Case
from autoseg.data.grid import grid_differences
from autoseg.data.image import (
    PICTURE_SUFFIXES,
    Header,
    Image,
    LabelImage,
    image_suffix,
    joined_channels,
    label_values,
    read_header,
    read_image,
    read_label,
)
from autoseg.data.problem import Problem, Severity, UnusableFileError
from autoseg.data.raw_header import states_spacing

_TAKEN = "it is taken as 1 mm along all axes"


@dataclass(frozen=True)
class CaseToCheck:
    """A case and what its dataset declares."""

    case: Case
    channels: tuple[str, ...]
    labels: Labels


@dataclass(frozen=True)
class CaseFindings:
    """What is known of a case after reading it.

    Attributes:
        case: The case.
        problems: All that is wrong with it alone.
        values: Values in its label map; empty if that cannot be read.
        lowest: Value of each channel; empty if one cannot be read.
        image_digest: Equal for equal voxels; None if an image cannot be read or is constant.
        label_digest: Equal for equal label maps; None if it cannot be read.
    """

    case: Case
    problems: tuple[Problem, ...]
    values: tuple[int, ...] = ()
    lowest: tuple[float, ...] = ()
    image_digest: str | None = None
    label_digest: str | None = None


@dataclass(frozen=True)
class InspectedCase:
    """A case that was read.

    Attributes:
        findings: What is known of it.
        image: All channels; None without a label, or if any error was found.
        label: The label map; None as for the image.
    """

    findings: CaseFindings
    image: Image | None = None
    label: LabelImage | None = None


def check_case(item: CaseToCheck) -> CaseFindings:
    """Read a case and return all that is wrong with it."""
    return inspect_case(item).findings


def inspect_case(item: CaseToCheck) -> InspectedCase:
    """Read a case, and return all that is wrong with it, and what was read if that is no error.

    Of a case without label, the headers alone are read.
    """
    label = item.case.label
    return InspectedCase(_check_unlabelled(item)) if label is None else _inspect_labelled(item, label)


def _inspect_labelled(item: CaseToCheck, label_file: str) -> InspectedCase:
    case, problems = item.case, list[Problem]()
    headers = [_read_header(Path(path), problems) for path in case.images]
    label_path = Path(label_file)
    label_header = _read_header(label_path, problems)
    problems += _check_channels(case, headers, item.channels)
    problems += _check_grids(case, headers, label_header)
    label = _read_label(label_path, label_header, problems) if label_header else None
    values = label_values(label.array) if label else ()
    problems += _check_values(label_path, values, item.labels)
    has_foreground = any(value in item.labels.values[1:] for value in values)
    extremes: list[tuple[float, float]] = []
    parts: list[Image] = []
    for path, header in zip(case.images, headers, strict=True):
        part = _read_voxels(Path(path), header, problems) if header else None
        if part is not None:
            parts.append(part)
            extremes += [(float(channel.min()), float(channel.max())) for channel in part.array]
    is_whole = len(parts) == len(case.images)
    constant = [low == high for low, high in extremes]
    problems += _check_constant(case, constant, has_foreground)
    findings = CaseFindings(
        case=case,
        problems=tuple(problems),
        values=values,
        lowest=tuple(low for low, _ in extremes) if is_whole else (),
        image_digest="".join(_digest(part.array) for part in parts) if is_whole and not all(constant) else None,
        label_digest=_digest(label.array) if label else None,
    )
    if not is_whole or any(problem.severity == "error" for problem in problems):
        return InspectedCase(findings)
    return InspectedCase(findings, joined_channels(parts), label)


def _check_unlabelled(item: CaseToCheck) -> CaseFindings:
    """Read the headers of a case without label; whatever is wrong with it is a warning, as no plan depends on it."""
    problems: list[Problem] = []
    headers = [_read_header(Path(path), problems) for path in item.case.images]
    problems += _check_channels(item.case, headers, item.channels)
    problems += _check_grids(item.case, headers, None)
    return CaseFindings(item.case, tuple(problem.model_copy(update={"severity": "warning"}) for problem in problems))


def _read_header(path: Path, problems: list[Problem]) -> Header | None:
    try:
        header = read_header(path)
    except UnusableFileError as error:
        problems.append(error.problem)
        return None
    if not states_spacing(path):
        message = "the header must state a spacing, got none"
        problems.append(
            _problem("warning", "spacing", path, f"{message}; {_TAKEN}", "Write the true spacing into the header")
        )
    if image_suffix(path) in PICTURE_SUFFIXES and (num_pages := header.shape[0]) > 1:
        message = f"a volume must have a spacing, got {num_pages} pages of TIFF, whose spacing is not read"
        remedy = "Convert it to NIfTI, NRRD or MHA with its true spacing"
        problems.append(_problem("warning", "spacing", path, f"{message}; {_TAKEN}", remedy))
    return header


def _read_label(path: Path, header: Header, problems: list[Problem]) -> LabelImage | None:
    try:
        return read_label(path, header)
    except UnusableFileError as error:
        problems.append(error.problem)
        return None


def _read_voxels(path: Path, header: Header, problems: list[Problem]) -> Image | None:
    try:
        return read_image([path], [header])
    except UnusableFileError as error:
        problems.append(error.problem)
        return None


def _check_channels(case: Case, headers: Sequence[Header | None], channels: Sequence[str]) -> Iterator[Problem]:
    counts = [header.num_channels for header in headers if header]
    if len(counts) < len(headers) or sum(counts) == len(channels):
        return
    files = ", ".join(Path(path).name for path in case.images)
    message = f"case must have {len(channels)} channels ({', '.join(channels)}), got {sum(counts)} in {files}"
    remedy = "Add or remove channels, or correct the channels in dataset.json"
    yield _problem("error", "channels", case.images[0], message, remedy)


def _check_grids(case: Case, headers: Sequence[Header | None], label: Header | None) -> Iterator[Problem]:
    first = headers[0]
    if first is None:
        return
    others = [(path, header, "channels") for path, header in zip(case.images[1:], headers[1:], strict=True)]
    others += [(case.label, label, "image and label")] if case.label else []
    for path, header, both in others:
        if header is None:
            continue
        for severity, rule, message in grid_differences(first.shape, first.geometry, header.shape, header.geometry):
            against = f"{message} (as {Path(case.images[0]).name} has)"
            yield _problem(severity, rule, path or "", against, f"Export or resample {both} to one grid")


def _check_values(path: Path, values: Sequence[int], labels: Labels) -> Iterator[Problem]:
    if not values:
        return
    if unknown := [value for value in values if value not in labels.declared_values]:
        shown = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        message = f"label values must be among the declared {_listed(labels.declared_values)}, got also {shown}"
        remedy = "Declare these values in dataset.json, or remove them from the label map"
        yield _problem("error", "labels", path, message, remedy)
    elif not set(values).intersection(labels.values[1:]):
        message = f"a label map should hold a class besides the background, got {_listed(values)} everywhere"
        yield _problem("warning", "empty-label", path, message, "Keep it if nothing is to be found in this scan")


def _check_constant(case: Case, constant: Sequence[bool], has_foreground: bool) -> Iterator[Problem]:
    """Yield a problem if channels have one value everywhere.

    An error where the whole scan is constant but something is labelled in it, as an export must have failed. One empty
    channel of several may stand for a scan that was not made, and a slice of nothing may have an empty label: warnings.
    """
    if not any(constant):
        return
    severity: Severity = "error" if all(constant) and has_foreground else "warning"
    what = "the image" if all(constant) else f"channel {constant.index(True)}"
    message = f"{what} must have different voxels, got the same value everywhere"
    yield _problem(severity, "constant", case.images[0], message, "Export it again, or leave the case out")


def _digest(array: NDArray[np.generic]) -> str:
    digest = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _problem(severity: Severity, rule: str, path: Path | str, message: str, remedy: str) -> Problem:
    return Problem(severity=severity, rule=rule, file=str(path), message=message, remedy=remedy)
