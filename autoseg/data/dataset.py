"""Datasets: recognised in the layouts that people have, never renamed."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from autoseg.core.artefact import Artefact, Record
from autoseg.core.errors import DatasetError
from autoseg.core.labels import Labels, declare_labels
from autoseg.data.archive import unpack
from autoseg.data.description import DESCRIPTION_NAME, Description, read_description
from autoseg.data.groups import case_groups
from autoseg.data.image import PICTURE_SUFFIXES, image_suffix, label_values, read_header, read_label
from autoseg.data.layouts import CaseFiles, Layout, Listing, dataset_root, list_cases
from autoseg.data.problem import Problem, UnusableFileError

MOST_DISCOVERED_CLASSES = 256
"""Undeclared label maps with more values than this are numbered objects or intensities, not classes."""

_logger = logging.getLogger(__name__)


class Case(Record):
    """A scan and what belongs to it.

    Attributes:
        name: Unique among the labelled cases.
        images: Absolute paths; one file with all channels, or one per channel, in order.
        label: Absolute path, or None.
        group: Cases of one group are never on both sides of a split.
    """

    name: str
    images: tuple[str, ...]
    label: str | None
    group: str


class Dataset(Artefact):
    """Scans with labels, and what their files leave to be declared.

    Attributes:
        name: As declared, or the folder's name.
        layout: How the files lie.
        channels: Name of each channel.
        labels: The classes, declared or found in the label maps.
        cases: The labelled cases, sorted by name.
        unlabelled: Cases to predict, sorted by name.
        licence: Terms of use, as declared.
        reference: Where the data come from, as declared.
        problems: What was wrong with the files' names and lists; `check_dataset` adds what is wrong inside the files.
    """

    name: str
    layout: Layout
    channels: tuple[str, ...]
    labels: Labels
    cases: tuple[Case, ...]
    unlabelled: tuple[Case, ...] = ()
    licence: str = ""
    reference: str = ""
    problems: tuple[Problem, ...] = ()


def open_dataset(source: Path, unpack_to: Path, group_by: str | None = None) -> Dataset:
    """Recognise a dataset in a folder or an archive, without reading more than it leaves undeclared.

    Layouts: the Medical Segmentation Decathlon's, nnU-Net's raw one, and plain folders of images and labels of the same
    names. Without declared labels, the label maps are read to find their values.

    Args:
        source: A folder, a `.tar`, `.tar.gz`, `.tgz` or `.zip`; the dataset may lie in a folder inside it.
        unpack_to: Where archives are unpacked to.
        group_by: A regular expression on case names, or the path of a CSV file with the columns `case` and `group`.

    Raises:
        DatasetError: If there is no dataset with labelled cases, its declarations cannot be used, or its cases cannot
            be grouped. Problems of single files are collected in `Dataset.problems` instead.
    """
    folder = source if source.is_dir() else unpack(source, unpack_to)
    root = dataset_root(folder.resolve())
    path = root / DESCRIPTION_NAME
    description = read_description(path) if path.is_file() else None
    listing = list_cases(root, description)
    if not listing.cases:
        raise DatasetError(
            f"{root}: a dataset must have cases with labels, got none. Add images with their label maps."
        )
    declared = description or Description()
    _require_declarations(path, declared, listing)
    channels = declared.channels or _found_channels(listing)
    labels = declared.labels or _found_labels(listing)
    names = [case.name for case in listing.cases]
    groups = case_groups(names, [case.name for case in listing.unlabelled], group_by)
    return Dataset(
        name=declared.name or root.name,
        layout=listing.layout,
        channels=channels,
        labels=labels,
        cases=_cases(listing.cases, groups),
        unlabelled=_cases(listing.unlabelled, {case.name: case.name for case in listing.unlabelled}),
        licence=declared.licence,
        reference=declared.reference,
        problems=listing.problems,
    )


def grouped_as_before(dataset: Dataset, before: Dataset) -> Dataset:
    """Return a dataset in the groups that its cases had: else scans of one patient would come to both sides of a fold.

    Args:
        dataset: Each case a group of its own.
        before: The same dataset, as it was opened last.

    Raises:
        DatasetError: If a case has come since.
    """
    groups = {case.name: case.group for case in before.cases}
    if all(name == group for name, group in groups.items()):
        return dataset
    if new := [case.name for case in dataset.cases if case.name not in groups]:
        raise DatasetError(
            f"--group-by: must be given again when cases have come, as the others were grouped; got {new[0]} without."
            " Give it as before, or '.+' to take each case by itself."
        )
    _logger.info("Cases stay in their %d groups; --group-by '.+' would take each by itself.", len(set(groups.values())))
    cases = tuple(case.model_copy(update={"group": groups[case.name]}) for case in dataset.cases)
    return dataset.model_copy(update={"cases": cases})


def _require_declarations(path: Path, declared: Description, listing: Listing) -> None:
    if listing.layout == "folders":
        return
    declarations = {"labels": declared.labels, "modality or channel_names": declared.channels}
    if absent := [key for key, value in declarations.items() if value is None]:
        raise DatasetError(f"{path}: must declare labels and channels, got no {' and no '.join(absent)}. Add the keys.")


def _cases(found: Iterable[CaseFiles], groups: Mapping[str, str]) -> tuple[Case, ...]:
    cases = (
        Case(
            name=files.name,
            images=tuple(str(path) for path in files.images),
            label=None if files.label is None else str(files.label),
            group=groups[files.name],
        )
        for files in found
    )
    return tuple(sorted(cases, key=lambda case: case.name))


def _found_channels(listing: Listing) -> tuple[str, ...]:
    """Return channel names for the first case whose headers can be read."""
    for case in listing.cases:
        try:
            num_channels = sum(read_header(path).num_channels for path in case.images)
        except UnusableFileError:
            continue
        is_picture = len(case.images) == 1 and image_suffix(case.images[0]) in PICTURE_SUFFIXES
        if is_picture and num_channels == 3:
            return ("red", "green", "blue")
        return ("image",) if num_channels == 1 else tuple(f"channel {number}" for number in range(num_channels))
    first = listing.cases[0].images[0]
    raise DatasetError(
        f"{first.parent}: an image must be readable, got none that is ({first.name} first). Replace them."
    )


def _found_labels(listing: Listing) -> Labels:
    """Return a class for each value in the label maps that can be read; the others are left for the check to name.

    Raises:
        UnusableFileError: If none can be read: why the first cannot.
        DatasetError: If there are more values than classes, or none besides the background.
    """
    _logger.info("no labels are declared: reading %d label maps to find their values", len(listing.cases))
    found: set[int] = set()
    readable = 0
    first_error: UnusableFileError | None = None
    for case in listing.cases:
        try:
            found.update(label_values(read_label(case.label).array) if case.label else ())
        except UnusableFileError as error:
            first_error = first_error or error
            continue
        readable += 1
        if len(found) > MOST_DISCOVERED_CLASSES:
            raise DatasetError(
                f"{case.label}: undeclared label maps must hold {MOST_DISCOVERED_CLASSES} different values at most, got"
                " more. Declare labels in dataset.json, or store classes instead of numbered objects."
            )
    if first_error and not readable:
        raise first_error
    labels = declare_labels({value: "background" if value == 0 else f"class {value}" for value in found})
    if not labels.foreground:
        folder = listing.cases[0].label.parent if listing.cases[0].label else ""
        raise DatasetError(
            f"{folder}: label maps must hold a value besides the background, got {readable} readable maps with"
            f" {sorted(found)}. Check that these are the labels."
        )
    return labels
