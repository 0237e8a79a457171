"""Which scans a prediction takes, where its label maps go, and which of them are there already."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autoseg.core.errors import DatasetError, PredictionError
from autoseg.core.labels import Labels
from autoseg.data.dicom import is_dicom
from autoseg.data.dicom_seg import SEG_SUFFIX
from autoseg.data.image import image_suffix, read_header
from autoseg.data.scan_files import RECORD_NAME, ScanFiles, find_scan_files
from autoseg.infer.maps import NO_EXTRAS, Extras, extra_paths
from autoseg.infer.outcome import Scan
from autoseg.infer.output import SUFFIXES, OutputFormat, format_of, output_stem, require_apart, suffix_like
from autoseg.plan.schema import Plan


@dataclass(frozen=True)
class Request:
    """What is to be segmented, and what is to be written.

    Attributes:
        source: A file, a folder, a `.csv` of cases, a DICOM series as folder or zip.
        target: A file for one scan, a folder for several, or for one if it has no suffix of an image.
        recursive: Whether folders below IN are searched too.
        output_format: Of the label maps; None for that of each scan, or of the names that are given to them.
        extras: What is written besides label maps.
        skip_existing: Whether label maps that are there, whole, from the same networks, are kept.
    """

    source: Path
    target: Path
    recursive: bool = False
    output_format: OutputFormat | None = None
    extras: Extras = NO_EXTRAS
    skip_existing: bool = False

    @property
    def is_one_file(self) -> bool:
        """Whether OUT is a file."""
        return is_output_file(self.target)

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.target.parent if self.is_one_file else self.target

    @property
    def record(self) -> Path:
        """Where `Predictions` are saved."""
        name = f"{output_stem(self.target)}.{RECORD_NAME}" if self.is_one_file else RECORD_NAME
        return self.folder / name


def is_output_file(path: Path) -> bool:
    """Return whether a path names a label map, not a folder."""
    return not path.is_dir() and (image_suffix(path) is not None or path.suffix.lower() == SEG_SUFFIX)


def find_scans(request: Request, planned: Plan) -> list[Scan]:
    """Return the scans that are asked for, each with its output.

    Raises:
        PredictionError: If there is none, OUT is a file for several, or of another format than is asked for, two scans
            would be written to one file, or one would be overwritten.
    """
    scans = list(_scans(request, planned))
    outputs = [path for scan in scans for path in _written_of(scan, request.extras)]
    twice, times = Counter(outputs).most_common(1)[0]
    if times > 1:
        raise PredictionError(
            f"{request.source}: each scan must have a name of its own, got two that would write {twice}. Rename one."
        )
    require_apart(outputs, [image for scan in scans for image in scan.images])
    return scans


def _scans(request: Request, planned: Plan) -> Iterator[Scan]:
    found = find_scan_files(request.source, planned.channels, recursive=request.recursive)
    if request.is_one_file:
        if [files.images for files in found] != [(request.source,)]:
            raise PredictionError(
                f"{request.target}: OUT must be a folder when IN is one, or a table of cases; got a file name. Name a"
                " folder."
            )
        if problem := _misnamed(request.target, request):
            raise PredictionError(problem)
        yield Scan(found[0].images, request.target, found[0].problem)
        return
    for files in found:
        output = _output(files, request, planned.labels)
        problem = None if files.output is None else _misnamed(output, request)
        yield Scan(files.images or (request.source,), output, files.problem or problem)


def _misnamed(output: Path, request: Request) -> str | None:
    """Return why a label map cannot have the name that it is given, None where it can."""
    own = format_of(output)
    if own is None:
        return f"{output}: suffix must be one of {', '.join(SUFFIXES.values())}, got {output.suffix!r}. Rename it."
    if request.output_format not in (None, own):
        return (
            f"{output}: must be named as --format {request.output_format} is, {SUFFIXES[request.output_format]}, got"
            f" {output.suffix!r}. Leave out one of the two."
        )
    return None


def _written_of(scan: Scan, extras: Extras) -> Iterator[Path]:
    """Give the files that are to be written of a scan."""
    yield scan.output
    yield from extra_paths(scan.output, output_stem(scan.output), extras).values()


def is_complete(scan: Scan, extras: Extras) -> bool:
    """Return whether the label map of a scan, and all its extras, are there and can be opened."""
    if not all(path.is_file() for path in _written_of(scan, extras)):
        return False
    if scan.output.suffix == SEG_SUFFIX:
        return is_dicom(scan.output)
    try:
        read_header(scan.output)
    except DatasetError:
        return False
    return True


def _output(files: ScanFiles, request: Request, labels: Labels) -> Path:
    if files.output is not None:
        return request.target / files.output
    chosen = request.output_format
    like = suffix_like(files.images[0], labels) if files.images else SUFFIXES["nifti"]
    return request.target / f"{files.name}{SUFFIXES[chosen] if chosen else like}"
