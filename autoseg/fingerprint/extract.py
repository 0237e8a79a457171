"""From a dataset to its fingerprint: one case at a time, in parallel, in memory that does not grow with the cases."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.core.errors import AutosegError, DatasetError
from autoseg.core.labels import Labels
from autoseg.core.parallel import parallel_map
from autoseg.core.progress import Progress
from autoseg.data.dataset import Case, Dataset
from autoseg.data.image import read_image, read_label
from autoseg.fingerprint.measure import IntensityDigest, MeasuredCase, measure_case
from autoseg.fingerprint.schema import CaseFingerprint, ClassFrequency, Fingerprint, IntensityStatistics

MAX_QUANTILES = 4096
"""Order statistics per case and channel: a resolution of 0.02 percent."""

MAX_POOLED_QUANTILES = 8_000_000
"""Order statistics per channel over all cases, 32 MB; with many cases each keeps fewer."""


@dataclass(frozen=True)
class _Job:
    case: Case
    labels: Labels
    num_channels: int
    num_quantiles: int


def extract_fingerprint(dataset: Dataset, progress: Progress, num_workers: int) -> Fingerprint:
    """Measure every labelled case of a dataset.

    Args:
        dataset: Checked or not; what cannot be measured is an error that names the case.
        progress: Shows one step per case.
        num_workers: Processes; one or fewer works in this process. The result does not depend on it.

    Raises:
        DatasetError: If there is no labelled case, a case cannot be read, breaks the dataset's declaration or kills its
            worker, or no case has any foreground.
    """
    if not dataset.cases:
        raise DatasetError(f"{dataset.name}: at least one labelled case is needed, got none. Add labels.")
    num_quantiles = max(1, min(MAX_QUANTILES, MAX_POOLED_QUANTILES // len(dataset.cases)))
    jobs = [_Job(case, dataset.labels, len(dataset.channels), num_quantiles) for case in dataset.cases]
    cases: list[CaseFingerprint] = []
    digests: list[tuple[IntensityDigest, ...]] = []
    for measured in _shown(parallel_map(_measure, jobs, num_workers, _name, DatasetError), progress, len(jobs)):
        cases.append(measured.figures)
        if measured.digests:
            digests.append(measured.digests)
    if not digests:
        raise DatasetError(f"{dataset.name}: at least one case must have foreground, got none. Check the label values.")
    return Fingerprint(
        made_from={"dataset": dataset.digest()},
        dataset=dataset.name,
        channels=dataset.channels,
        cases=tuple(cases),
        intensities=tuple(pool_intensities(channel) for channel in zip(*digests, strict=True)),
        median_relative_size_after_cropping=float(np.median([relative_size(case) for case in cases])),
        frequencies=tuple(
            _frequency(declared.name, cases, index) for index, declared in enumerate(dataset.labels.classes[1:])
        ),
    )


def relative_size(case: CaseFingerprint) -> float:
    """Return the share of a case's voxels that cropping to non-zero voxels keeps."""
    return float(np.prod(case.cropped_shape) / np.prod(case.shape))


def pool_intensities(digests: Sequence[IntensityDigest]) -> IntensityStatistics:
    """Return the statistics of one channel over cases that weigh the same.

    Mean, standard deviation and extremes are exact; the percentiles are those of the pooled order statistics.

    Source:
        Isensee et al. 2021, Methods, dataset fingerprint.
    """
    pooled: NDArray[np.float32] = np.concatenate([digest.quantiles for digest in digests])
    means = np.array([digest.mean for digest in digests])
    variance = np.mean([digest.variance for digest in digests]) + means.var()
    low, middle, high = (float(value) for value in np.percentile(pooled, (0.5, 50, 99.5)))
    return IntensityStatistics(
        mean=float(means.mean()),
        median=middle,
        std=float(np.sqrt(variance)),
        min=min(digest.minimum for digest in digests),
        max=max(digest.maximum for digest in digests),
        percentile_00_5=low,
        percentile_99_5=high,
    )


def _frequency(name: str, cases: Sequence[CaseFingerprint], index: int) -> ClassFrequency:
    present = [case.classes[index] for case in cases if case.classes[index].num_voxels]
    voxels = sum(int(np.prod(case.cropped_shape)) for case in cases)
    return ClassFrequency(
        name=name,
        case_share=len(present) / len(cases),
        voxel_share=sum(found.num_voxels for found in present) / voxels,
        median_volume_mm3=float(np.median([found.volume_mm3 for found in present])) if present else 0.0,
        median_components=float(np.median([found.num_components for found in present])) if present else 0.0,
    )


def _measure(job: _Job) -> MeasuredCase:
    """Read and measure one case, in a worker; every foreseeable error names it."""
    case = job.case
    try:
        return _read_and_measure(case, job)
    except AutosegError:
        raise
    except (RuntimeError, OSError, MemoryError) as error:
        raise DatasetError(
            f"{case.name}: must be readable and fit into memory, got {type(error).__name__}: {error}. "
            "Check its files, or use fewer workers."
        ) from error


def _read_and_measure(case: Case, job: _Job) -> MeasuredCase:
    if case.label is None:
        raise DatasetError(f"{case.name}: a case must have a label to be measured, got none. Add it or drop the case.")
    image = read_image([Path(file) for file in case.images])
    label = read_label(Path(case.label))
    if len(image.array) != job.num_channels:
        raise DatasetError(
            f"{case.name}: must have {job.num_channels} channels, got {len(image.array)}. Add or remove image files."
        )
    if image.array.shape[1:] != label.array.shape:
        raise DatasetError(
            f"{case.label}: shape must equal its image's {image.array.shape[1:]}, got {label.array.shape}. "
            "Re-export the label."
        )
    try:
        return measure_case(case.name, image.array, label.array, image.geometry, job.labels, job.num_quantiles)
    except ValueError as error:
        raise DatasetError(f"{case.label}: {error}. Declare the value or correct the label.") from None


def _name(job: _Job) -> str:
    return job.case.name


def _shown(measured: Iterator[MeasuredCase], progress: Progress, total: int) -> Iterator[MeasuredCase]:
    with progress.task("fingerprint", total) as task:
        for result in measured:
            yield result
            task.advance()
