"""Many scans from files to files: every error stays with its scan."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch

from autoseg.core.errors import PredictionError
from autoseg.core.progress import Progress, Task
from autoseg.core.stopwatch import Stopwatch, peak_memory_bytes, restart_peak_memory
from autoseg.data.dicom import Series
from autoseg.data.image import LabelImage
from autoseg.data.scan import read_scan
from autoseg.infer.case import Onlooker
from autoseg.infer.maps import NO_EXTRAS, Extras, extra_paths, observing, write_disagreement
from autoseg.infer.outcome import Outcome, Scan, failure, volumes_ml
from autoseg.infer.output import output_stem, require_writable, write_output
from autoseg.infer.predictor import Segments
from autoseg.infer.unlike import unlike_result, unlike_scan
from autoseg.preprocess.case import Prepared

_logger = logging.getLogger(__name__)


def predict_files(
    predictor: Segments,
    scans: Sequence[Scan],
    progress: Progress,
    extras: Extras = NO_EXTRAS,
    done: Callable[[Outcome], None] = lambda _: None,
) -> tuple[Outcome, ...]:
    """Segment scans from files to files; the next is read and the last is written beside the network's work.

    Args:
        predictor: The model.
        scans: In the order in which they are done.
        progress: Told of the share of each scan that is done.
        extras: What is written besides label maps.
        done: Called with each outcome as soon as it is known, in order, in a thread of its own.

    Returns:
        One outcome per scan, in order. A scan that cannot be read, segmented or written does not stop the others.

    Raises:
        ValueError: If two scans have the same output.
    """
    outputs = [scan.output for scan in scans]
    if len(set(outputs)) != len(outputs):
        twice = next(path for path in outputs if outputs.count(path) > 1)
        raise ValueError(f"outputs must differ, got {twice} twice")
    with (
        progress.task("predicting", total=len(scans)) as task,
        ThreadPoolExecutor(1, "reader") as reader,
        ThreadPoolExecutor(1, "writer") as writer,
    ):
        return _Batch(predictor, extras, done, task).pass_through(scans, reader, writer)


@dataclass(frozen=True)
class _Read:
    """A scan that waits for the networks."""

    prepared: Prepared
    series: Series | None
    warnings: dict[str, str]
    stopwatch: Stopwatch


@dataclass(frozen=True)
class _Segmented:
    """A label map that waits to be written."""

    label: LabelImage
    series: Series | None
    outcome: Outcome
    stopwatch: Stopwatch


@dataclass(frozen=True)
class _Batch:
    """Scans on their way from files to files."""

    predictor: Segments
    extras: Extras
    done: Callable[[Outcome], None]
    task: Task

    def pass_through(
        self, scans: Sequence[Scan], reader: ThreadPoolExecutor, writer: ThreadPoolExecutor
    ) -> tuple[Outcome, ...]:
        """Read one scan ahead and write one behind, so that three scans are in memory at most."""
        outcomes: list[Future[Outcome]] = []
        upcoming = [reader.submit(self.read, scan) for scan in scans[:1]]
        for number, scan in enumerate(scans):
            read = upcoming.pop()
            upcoming.extend(reader.submit(self.read, following) for following in scans[number + 1 : number + 2])
            segmented = self.segment(read, scan)
            if outcomes:
                outcomes[-1].result()
            outcomes.append(writer.submit(self.write, scan, segmented))
        return tuple(outcome.result() for outcome in outcomes)

    def read(self, scan: Scan) -> _Read:
        if scan.problem is not None:
            raise PredictionError(scan.problem)
        stopwatch, predictor = Stopwatch(), self.predictor
        with stopwatch.measure("read"):
            found = read_scan(scan.images, predictor.settings.scratch)
        require_writable(scan.output, found, predictor.model.plan.labels)
        with stopwatch.measure("prepare"):
            prepared = predictor.prepare(found.image, str(scan.images[0]))
            familiar = predictor.familiar
            unlike = {} if familiar is None else unlike_scan(found.image, prepared, familiar)
        return _Read(prepared, found.series, {**found.warnings, **unlike}, stopwatch)

    def segment(self, upcoming: Future[_Read], scan: Scan) -> _Segmented | Outcome:
        """Return the label map, its extras written; or the outcome of a scan that has none."""
        advanced = 0.0

        def report(share: float) -> None:
            nonlocal advanced
            advanced += share
            self.task.advance(share, scan=scan.images[0].name, done=f"{advanced:.0%}")

        try:
            return self._segmented(upcoming.result(), scan, report)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a scan, the others go on
            return _failed(scan, error)
        finally:
            self.task.advance(1 - advanced, scan=scan.images[0].name)

    def _segmented(self, read: _Read, scan: Scan, report: Callable[[float], None]) -> _Segmented:
        predictor, properties, stopwatch = self.predictor, read.prepared.properties, read.stopwatch
        paths = extra_paths(scan.output, output_stem(scan.output), self.extras)
        device = predictor.settings.device
        restart_peak_memory()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        whole = Stopwatch()
        with (
            _noted() as notes,
            whole.measure("segment"),
            observing(paths, properties, predictor.model.plan.labels) as observe,
        ):
            label = predictor.predict_prepared(read.prepared, report, Onlooker(observe, stopwatch))
        others = stopwatch.seconds.get("network", 0.0) + stopwatch.seconds.get("earlier stage", 0.0)
        stopwatch.seconds["export"] = whole.seconds["segment"] - others
        if "disagreement" in paths:
            with stopwatch.measure("disagreement"):
                write_disagreement(paths["disagreement"], label, predictor.by_fold(read.prepared))
        outcome = Outcome(
            image=scan.images[0],
            output=scan.output,
            further=paths,
            warnings=read.warnings,
            notes=tuple(notes),
            peak_memory_bytes=peak_memory_bytes(),
            peak_gpu_memory_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        )
        return _Segmented(label, read.series, outcome, stopwatch)

    def write(self, scan: Scan, segmented: _Segmented | Outcome) -> Outcome:
        """Write a label map; the outcome says what became of the scan."""
        outcome = segmented if isinstance(segmented, Outcome) else self._written(scan, segmented)
        self.done(outcome)
        return outcome

    def _written(self, scan: Scan, segmented: _Segmented) -> Outcome:
        familiar, stopwatch = self.predictor.familiar, segmented.stopwatch
        labels = self.predictor.model.plan.labels
        try:
            with stopwatch.measure("write"):
                volumes = volumes_ml(segmented.label, labels)
                further = {} if familiar is None else unlike_result(volumes, familiar)
                write_output(scan.output, segmented.label, labels, segmented.series)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a scan, the others go on
            for path in segmented.outcome.further.values():
                with suppress(OSError):
                    path.unlink()
            return _failed(scan, error)
        return segmented.outcome.model_copy(
            update={
                "volumes_ml": volumes,
                "seconds": {stage: round(seconds, 3) for stage, seconds in stopwatch.seconds.items()},
                "warnings": segmented.outcome.warnings | further,
            }
        )


class _Notes(logging.Handler):
    """Keeps what is logged as a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Give the list of the warnings that prediction logs within the block."""
    logger, handler = logging.getLogger("autoseg.infer"), _Notes()
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)


def _failed(scan: Scan, error: Exception) -> Outcome:
    _logger.debug("%s failed", scan.images[0], exc_info=error)
    return Outcome(image=scan.images[0], error=failure(scan, error))
