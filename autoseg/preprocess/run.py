"""All cases of a dataset are preprocessed into a folder, by several processes; what is up to date is left alone."""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from autoseg.core.artefact import digest_of, digest_of_arrays
from autoseg.core.errors import AutosegError, DatasetError
from autoseg.core.parallel import end_with_parent
from autoseg.core.progress import Progress
from autoseg.data.dataset import Case, Dataset
from autoseg.data.image import read_image, read_label
from autoseg.data.store import stored_properties, write_case
from autoseg.plan.schema import ConfigurationPlan, Plan
from autoseg.preprocess.case import prepare_case

SOURCE = "preprocessing"
"""Entry of `made_from` under which a stored case keeps the digest of its source and settings."""

CONTENT = "content"
"""Entry of `made_from` under which a stored case keeps the digest of its arrays: files that were only touched, or
moved, give the same."""

FORMAT_VERSION = 1
"""Raised when the same source and settings give other arrays than before."""


@dataclass(frozen=True)
class _Job:
    plan: Plan
    configuration: ConfigurationPlan
    folder: Path


def preprocess_dataset(
    dataset: Dataset,
    plan: Plan,
    configuration: ConfigurationPlan,
    folder: Path,
    progress: Progress,
    num_workers: int,
) -> None:
    """Preprocess the labelled cases of a dataset into a folder; those with unchanged source and settings are skipped.

    Args:
        dataset: Its labelled cases are preprocessed.
        plan: Order of axes and classes.
        configuration: Spacing, normalisation and resampling.
        folder: Where the cases go; may be shared by configurations with equal `data_key`.
        progress: Told of every finished case, if there is one to be done.
        num_workers: Processes, each with one thread; 1 or fewer works in this process.

    Raises:
        DatasetError: If a case cannot be read or preprocessed, or its process died; what is finished stays.
    """
    job = _Job(plan, configuration, folder)
    outdated = [case for case in dataset.cases if not _is_current(case, job)]
    if not outdated:
        return
    with progress.task("preprocessing", total=len(dataset.cases)) as task:
        task.advance(len(dataset.cases) - len(outdated))
        for case in _preprocess_all(outdated, job, num_workers):
            task.advance(case=case.name)


def source_digest(case: Case, plan: Plan, configuration: ConfigurationPlan) -> str:
    """Return the digest of all that decides a stored case: files by size and time of change, settings, this format.

    Raises:
        DatasetError: If a file of the case is missing.
    """
    files = []
    for name in (*case.images, case.label):
        try:
            status = Path(str(name)).stat()
        except OSError as error:
            raise DatasetError(
                f"{name}: a file of case {case.name} must be readable, got: {error.strerror}. Check the dataset again."
            ) from None
        files.append((str(name), status.st_size, status.st_mtime_ns))
    axes = (plan.transpose, plan.orientation)
    settings = (plan.labels.values, plan.labels.ignored, *axes, configuration.data_key, FORMAT_VERSION)
    return digest_of((files, settings))


def _is_current(case: Case, job: _Job) -> bool:
    properties = stored_properties(job.folder, case.name)
    if properties is None or CONTENT not in properties.made_from:
        return False
    return properties.made_from.get(SOURCE) == source_digest(case, job.plan, job.configuration)


def _preprocess_all(cases: Sequence[Case], job: _Job, num_workers: int) -> Iterator[Case]:
    """Preprocess cases and give each back when it is stored."""
    if num_workers <= 1 or len(cases) <= 1:
        for case in cases:
            _preprocess(case, job)
            yield case
        return
    num_processes = min(num_workers, len(cases))
    waiting = iter(cases)
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn"), initializer=_begin_worker) as pool:
        running: dict[Future[None], Case] = {}
        try:
            while True:
                # Not more cases than processes are handed over, so that a dead process names few suspects.
                while len(running) < num_processes and (following := next(waiting, None)) is not None:
                    running[pool.submit(_preprocess, following, job)] = following
                if not running:
                    return
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    yield running.pop(future)
        except BrokenProcessPool:
            suspects = ", ".join(case.name for case in running.values())
            raise DatasetError(
                f"{suspects}: a worker must survive preprocessing one of these cases, got a process that died, "
                "most likely killed for want of memory. Use fewer workers."
            ) from None


def _begin_worker() -> None:
    threadpool_limits(1)
    end_with_parent()


def _preprocess(case: Case, job: _Job) -> None:
    """Read, prepare and store one case; every foreseeable error names it."""
    digest = source_digest(case, job.plan, job.configuration)
    try:
        image = read_image([Path(path) for path in case.images])
        label = read_label(Path(str(case.label)))
        prepared, indices = prepare_case(image, label, job.plan, job.configuration, case.name)
        made_from = {SOURCE: digest, CONTENT: digest_of_arrays(prepared.array, indices)}
        properties = prepared.properties.model_copy(update={"made_from": made_from})
        write_case(job.folder, prepared.array, indices, properties, job.configuration.patch_size)
    except AutosegError:
        raise
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        raise DatasetError(
            f"{case.name}: must be fit for preprocessing, got {type(error).__name__}: {error}. "
            "Check the dataset, and the space on the disk and in memory."
        ) from error
