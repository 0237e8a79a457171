"""Which scans a prediction takes, where its label maps go, and which of them are there already."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.core.errors import DatasetError, PredictionError
from autoseg.core.labels import Labels
from autoseg.data.dicom import is_dicom
from autoseg.data.dicom_seg import SEG_SUFFIX
from autoseg.data.image import image_suffix, read_header
from autoseg.data.scan_files import ScanFiles, find_scan_files
from autoseg.infer.maps import NO_EXTRAS, Extras, extra_paths
from autoseg.infer.outcome import Scan
from autoseg.infer.output import SUFFIXES, OutputFormat, output_stem, suffix_like
from autoseg.plan.schema import Plan


@dataclass(frozen=True)
class Request:
    """What is to be segmented, and what is to be written.

    Attributes:
        source: A file, a folder, a `.csv` of cases, a DICOM series as folder or zip.
        target: A file for one scan, a folder for several, or for one if it has no suffix of an image.
        recursive: Whether folders below IN are searched too.
        output_format: Of the label maps; None for that of each scan.
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
        name = f"{output_stem(self.target)}.predictions.json" if self.is_one_file else "predictions.json"
        return self.folder / name


def is_output_file(path: Path) -> bool:
    """Return whether a path names a label map, not a folder."""
    return not path.is_dir() and (image_suffix(path) is not None or path.suffix.lower() == SEG_SUFFIX)


def find_scans(request: Request, planned: Plan) -> list[Scan]:
    """Return the scans that are asked for, each with its output.

    Raises:
        PredictionError: If there is none, OUT is a file for several, or two scans would be written to one file.
    """
    found = find_scan_files(request.source, planned.channels, recursive=request.recursive)
    if request.is_one_file:
        if found[0].images != (request.source,):
            raise PredictionError(
                f"{request.target}: OUT must be a folder when IN is one, or a table of cases; got a file name. Name a"
                " folder."
            )
        return [Scan(found[0].images, request.target, found[0].problem)]
    outputs = [_output(files, request, planned.labels) for files in found]
    if twice := next((path for path in outputs if outputs.count(path) > 1), None):
        raise PredictionError(
            f"{request.source}: each scan must have a name of its own, got two for {twice}. Rename one."
        )
    return [
        Scan(files.images or (request.source,), output, files.problem)
        for files, output in zip(found, outputs, strict=True)
    ]


def is_complete(scan: Scan, extras: Extras) -> bool:
    """Return whether the label map of a scan, and all its extras, are there and can be opened."""
    paths = extra_paths(scan.output, output_stem(scan.output), extras)
    if not all(path.is_file() for path in (scan.output, *paths.values())):
        return False
    if scan.output.suffix == SEG_SUFFIX:
        return is_dicom(scan.output)
    try:
        read_header(scan.output)
    except DatasetError:
        return False
    return True


def split_done(scans: Sequence[Scan], request: Request) -> tuple[list[Scan], list[Scan]]:
    """Return the scans whose outputs are kept, and those that are segmented."""
    done = [request.skip_existing and is_complete(scan, request.extras) for scan in scans]
    pairs = list(zip(scans, done, strict=True))
    return [scan for scan, is_done in pairs if is_done], [scan for scan, is_done in pairs if not is_done]


def _output(files: ScanFiles, request: Request, labels: Labels) -> Path:
    if files.output is not None:
        return request.target / files.output
    chosen = request.output_format
    like = suffix_like(files.images[0], labels) if files.images else SUFFIXES["nifti"]
    return request.target / f"{files.name}{SUFFIXES[chosen] if chosen else like}"
