"""From a dataset to its fingerprint: one case at a time, in parallel, in memory that does not grow with the cases."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autoseg.core.errors import AutosegError, DatasetError
from autoseg.core.labels import Labels
from autoseg.core.parallel import parallel_map
from autoseg.core.progress import Progress
from autoseg.data.check import CheckReport, cases_to_check, report_on
from autoseg.data.check_case import CaseFindings, CaseToCheck, inspect_case
from autoseg.data.dataset import Case, Dataset
from autoseg.data.image import Image, LabelImage, read_image, read_label
from autoseg.fingerprint.measure import IntensityDigest, MeasuredCase, measure_case
from autoseg.fingerprint.schema import CaseFingerprint, ClassFrequency, Fingerprint, IntensityStatistics

Result = TypeVar("Result")

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


@dataclass(frozen=True)
class _JointJob:
    item: CaseToCheck
    num_quantiles: int


@dataclass(frozen=True)
class _JointResult:
    """What was found in a case, and its figures; None if it has no label, or errors were found."""

    findings: CaseFindings
    measured: MeasuredCase | None


def check_and_measure(
    dataset: Dataset, progress: Progress, num_workers: int
) -> tuple[CheckReport, tuple[MeasuredCase, ...]]:
    """Check a dataset as `check_dataset` does, and measure its cases as `extract_fingerprint` does; read each once.

    Args:
        dataset: To be read.
        progress: Shows one step per case.
        num_workers: Processes; one or fewer works in this process. The result does not depend on it.

    Returns:
        All that is wrong, and the figures of the labelled cases without errors: of all of them if the report has none.

    Raises:
        DatasetError: If a case without errors cannot be measured, for example for want of memory, or a process dies.
    """
    num_quantiles = _num_quantiles(dataset)
    jobs = [_JointJob(item, num_quantiles) for item in cases_to_check(dataset)]
    results = parallel_map(_check_and_measure, jobs, num_workers, lambda job: job.item.case.name, DatasetError)
    found = tuple(_shown(results, "check and fingerprint", progress, len(jobs)))
    report = report_on(dataset, [result.findings for result in found])
    return report, tuple(result.measured for result in found if result.measured is not None)


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
    num_quantiles = _num_quantiles(dataset)
    jobs = [_Job(case, dataset.labels, len(dataset.channels), num_quantiles) for case in dataset.cases]
    measured = parallel_map(_measure, jobs, num_workers, lambda job: job.case.name, DatasetError)
    return pool_cases(dataset, tuple(_shown(measured, "fingerprint", progress, len(jobs))))


def pool_cases(dataset: Dataset, measured: Sequence[MeasuredCase]) -> Fingerprint:
    """Return the fingerprint of a dataset whose labelled cases were measured.

    Raises:
        DatasetError: If no case has any foreground.
    """
    cases = [case.figures for case in measured]
    digests = [case.digests for case in measured if case.digests]
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


def _num_quantiles(dataset: Dataset) -> int:
    return max(1, min(MAX_QUANTILES, MAX_POOLED_QUANTILES // max(len(dataset.cases), 1)))


def _check_and_measure(job: _JointJob) -> _JointResult:
    """Read, check and measure one case, in a worker."""
    case, labels = job.item.case, job.item.labels
    with _errors_naming(case):
        read = inspect_case(job.item)
        if read.image is None or read.label is None:
            return _JointResult(read.findings, None)
        return _JointResult(read.findings, _measure_arrays(case, read.image, read.label, labels, job.num_quantiles))


def _measure(job: _Job) -> MeasuredCase:
    """Read and measure one case, in a worker."""
    with _errors_naming(job.case):
        return _read_and_measure(job.case, job)


@contextmanager
def _errors_naming(case: Case) -> Iterator[None]:
    """Name the case in every foreseeable error."""
    try:
        yield
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
    return _measure_arrays(case, image, label, job.labels, job.num_quantiles)


def _measure_arrays(case: Case, image: Image, label: LabelImage, labels: Labels, num_quantiles: int) -> MeasuredCase:
    try:
        return measure_case(case.name, image.array, label.array, image.geometry, labels, num_quantiles)
    except ValueError as error:
        raise DatasetError(f"{case.label}: {error}. Declare the value or correct the label.") from None


def _shown(results: Iterator[Result], title: str, progress: Progress, total: int) -> Iterator[Result]:
    with progress.task(title, total) as task:
        for result in results:
            yield result
            task.advance()
