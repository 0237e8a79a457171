"""Scans to be segmented, and what became of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from autoseg.core.artefact import Artefact, Record
from autoseg.core.errors import AutosegError
from autoseg.core.labels import Labels, Region
from autoseg.core.workspace import FoldName
from autoseg.data.image import LabelImage, label_counts

FORESEEN = (AutosegError, OSError, ValueError, RuntimeError, MemoryError)
"""What a scan, a disk or a full memory can raise, through torch and SimpleITK too; others are errors of the program."""

MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Scan:
    """A scan to be segmented.

    Attributes:
        images: Its files, or folders or zips of DICOM series, channels in the order of the plan.
        output: Where the label map goes; its suffix names the format.
        problem: Why it cannot be segmented, known before it is read; None for nothing known.
    """

    images: tuple[Path, ...]
    output: Path
    problem: str | None = None


class Outcome(Record):
    """What became of a scan.

    Attributes:
        image: Its first file.
        output: The label map; None if there is none.
        error: Why there is none.
        is_kept: Whether the label map was there already and was kept.
        further: Other files that were written, by what they are.
        seconds: Wall time per stage: read, prepare, network, export, write.
        peak_memory_bytes: Most memory of the process (resident set) while the networks saw the scan; the next scan is
            read and the last one written meanwhile.
        peak_gpu_memory_bytes: Most memory that was allocated on the GPU meanwhile; None without one.
        volumes_ml: Of each class, or region, in the label map.
        warnings: Why the result deserves a second look, a sentence each by what it is about.
        notes: What was done differently on the way, such as on a shortage of memory; the label map is the same.
    """

    image: Path
    output: Path | None = None
    error: str | None = None
    is_kept: bool = False
    further: dict[str, Path] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    peak_memory_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None
    volumes_ml: dict[str, float] = Field(default_factory=dict)
    warnings: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Made(Record):
    """What a label map was made of.

    Attributes:
        scan: Digest of its scan; see `digest_of_scan`.
        extras: That were made with it.
    """

    scan: str
    extras: tuple[str, ...] = ()


class Predictions(Artefact):
    """What a batch of scans has come to; `made_from` names the networks.

    Attributes:
        dataset: That the networks have learnt from.
        configuration, folds: Which networks were averaged; configurations that decided together are joined by a plus.
        device, precision: What computed.
        mirror: Whether mirrored scans were averaged.
        cases: In the order in which they were done.
        written: Label maps beside this file that these networks and settings made, in this call or an earlier one, by
            name.
        unwritten: Names of label maps that were to be made and are not: their scans failed, or the call was broken off.
            What lies there may come from other networks or settings.
    """

    current_version: ClassVar[int] = 3

    schema_version: int = 3
    dataset: str
    configuration: str
    folds: tuple[FoldName, ...]
    device: str
    precision: str
    mirror: bool
    cases: tuple[Outcome, ...]
    written: dict[str, Made] = Field(default_factory=dict)
    unwritten: tuple[str, ...] = ()


def failure(scan: Scan, error: BaseException) -> str:
    """Return why a scan has no label map, in a sentence with a remedy."""
    if isinstance(error, AutosegError):
        return str(error)
    reason = " ".join(str(error).split()) or ("no more memory" if isinstance(error, MemoryError) else "no reason")
    remedy = (
        "Check the file, and the space in memory and on the disk"
        if isinstance(error, FORESEEN)
        else "This is an error of autoseg: report it, with what --debug shows"
    )
    return f"{scan.images[0]}: must be segmented and written, got {type(error).__name__}: {reason}. {remedy}."


def volumes_ml(label: LabelImage, labels: Labels) -> dict[str, float]:
    """Return the volume of each class, or region, by name; of a picture, whose spacing is one, thousands of pixels."""
    counts = label_counts(label.array)
    z, y, x = label.geometry.spacing
    values = {entry.name: entry.values if isinstance(entry, Region) else (entry.value,) for entry in labels.foreground}
    voxel_ml = z * y * x / MM3_PER_ML
    return {name: sum(counts.get(value, 0) for value in found) * voxel_ml for name, found in values.items()}
