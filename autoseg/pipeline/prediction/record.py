"""The `predictions.json` of a batch under way, by which what lies in OUT is told apart."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from autoseg.core.errors import ArtefactError, PredictionError
from autoseg.data.scan import digest_of_scan
from autoseg.infer.outcome import Made, Outcome, Predictions, Scan
from autoseg.pipeline.prediction.scans import Request, is_complete

log = logging.getLogger(__name__)

SECONDS_BETWEEN_RECORDS = 5.0
"""How often the record of a batch is written at most, besides its start and end."""


class BatchRecord:
    """What became of the scans of a batch: written now and then, so that a killed batch leaves it.

    It also names the label maps in OUT that its networks and settings made, whichever call asked for them, so that no
    label map of others is ever taken for theirs.

    Args:
        request: Where it is written, and whether label maps are kept.
        empty: Networks and settings, no cases.

    Raises:
        PredictionError: If label maps are to be kept, and the record that is there is of other networks or settings.
        ArtefactError: If they are to be kept, and the record that is there cannot be read.
    """

    def __init__(self, request: Request, empty: Predictions) -> None:
        self._request = request
        self._empty = empty
        self._earlier = self._same_before()
        self._cases: list[Outcome] = []
        self._written = dict(self._earlier.written)
        self._unwritten: dict[str, Scan] = {}
        self._saved_s = time.monotonic()

    @property
    def predictions(self) -> Predictions:
        """All that is known so far."""
        found = {"cases": tuple(self._cases), "written": dict(self._written), "unwritten": tuple(self._unwritten)}
        return self._empty.model_copy(update=found)

    def keep(self, scans: Sequence[Scan]) -> list[Scan]:
        """Take over what is there, whole, of these networks, settings and scans; return those scans.

        Raises:
            PredictionError: If a label map is there of which nobody knows what made it.
        """
        complete = [scan for scan in scans if is_complete(scan, self._request.extras)]
        known = {*self._earlier.written, *self._earlier.unwritten}
        if strange := [scan.output for scan in complete if self._name(scan.output) not in known]:
            raise PredictionError(
                f"{self._request.record}: must name the label maps that are kept, got {len(strange)} that it does not,"
                f" such as {strange[0].name}. Leave out --skip-existing to replace them, or name another OUT."
            )
        kept = [scan for scan in complete if self._is_of(scan, self._earlier.written.get(self._name(scan.output)))]
        described = {case.output: case for case in self._earlier.cases}
        for scan in kept:
            case = described.get(scan.output, Outcome(image=scan.images[0], output=scan.output))
            self._cases.append(case.model_copy(update={"image": scan.images[0], "is_kept": True}))
        return kept

    def expect(self, scans: Sequence[Scan]) -> None:
        """Note that the label maps of scans are still to be made, whatever lies in their places."""
        for scan in scans:
            self._written.pop(self._name(scan.output), None)
            self._unwritten[self._name(scan.output)] = scan

    def add(self, outcome: Outcome) -> None:
        """Take over an outcome. The batch goes on where it cannot be saved at the moment."""
        self._cases.append(outcome)
        if outcome.output is not None:
            name = self._name(outcome.output)
            digest = _digest(self._unwritten[name])
            if digest is not None:
                self._written[name] = Made(scan=digest, extras=tuple(outcome.further))
                del self._unwritten[name]
        if time.monotonic() - self._saved_s > SECONDS_BETWEEN_RECORDS:
            try:
                self.save()
            except PredictionError as error:
                log.warning("%s Goes on without it for now.", error)

    def save(self) -> None:
        """Write what there is.

        Raises:
            PredictionError: If that cannot be done.
        """
        with writing_to(self._request.record):
            self.predictions.save(self._request.record)
        self._saved_s = time.monotonic()

    def _same_before(self) -> Predictions:
        """Return what earlier calls with the same networks and settings have left in OUT; nothing if there is none."""
        path = self._request.record
        if not path.exists():
            return self._empty
        try:
            earlier = Predictions.load(path)
        except ArtefactError as error:
            if self._request.skip_existing:
                raise
            log.info("%s Written anew.", error)
            return self._empty
        if earlier.model_copy(update={"cases": (), "written": {}, "unwritten": ()}) == self._empty:
            return earlier
        if self._request.skip_existing:
            raise PredictionError(
                f"{path}: outputs to be kept must come from the same networks, device and settings, got others."
                " Leave out --skip-existing, or name another OUT."
            )
        return self._empty

    def _is_of(self, scan: Scan, made: Made | None) -> bool:
        """Return whether a label map was made of this scan, with all extras that are asked for."""
        return made is not None and set(self._request.extras.names) <= set(made.extras) and made.scan == _digest(scan)

    def _name(self, output: Path) -> str:
        folder = self._request.folder
        return output.relative_to(folder).as_posix() if output.is_relative_to(folder) else output.as_posix()


def _digest(scan: Scan) -> str | None:
    """Return what tells a scan from another; None of one that cannot be read, so that its label map is not kept."""
    try:
        return digest_of_scan(scan.images)
    except OSError as error:
        log.debug("%s: %s", scan.images[0], error)
        return None


@contextmanager
def writing_to(place: Path) -> Iterator[None]:
    """Say of which place in OUT an error of the system within the block is.

    Raises:
        PredictionError: In its stead.
    """
    try:
        yield
    except OSError as error:
        raise PredictionError(
            f"{place}: OUT must be a folder that can be written to, got: {error}. Name another."
        ) from None
