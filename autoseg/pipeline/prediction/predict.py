"""Label maps for new scans, with the models of a workspace."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.core.artefact import digest_of, digest_of_file
from autoseg.core.errors import PredictionError
from autoseg.core.progress import Progress
from autoseg.core.temporary import remove_abandoned
from autoseg.core.workspace import FoldFolder, FoldName, Workspace
from autoseg.infer.batch import predict_files
from autoseg.infer.outcome import Outcome, Predictions, Scan
from autoseg.infer.predictor import Segments
from autoseg.pipeline.prediction.models import (
    ModelChoice,
    default_folds,
    digest_of_networks,
    load_model,
    load_selected,
)
from autoseg.pipeline.prediction.scans import Request, find_scans, split_done
from autoseg.select.choose import Selection
from autoseg.train.record import EARLIER_STAGE

SECONDS_BETWEEN_RECORDS = 5.0
"""How often the record of a batch is written at most, besides its start and end."""


def predict(
    workspace: Workspace,
    choice: ModelChoice,
    request: Request,
    progress: Progress,
    selection: Selection | None = None,
) -> Predictions:
    """Segment scans; one that fails does not stop the others. What became of each is also saved as `predictions.json`.

    What does not fit into memory waits in OUT, and what a killed call has left unfinished there is removed.

    Args:
        workspace: With trained models.
        choice: Which of them.
        request: Scans, outputs, what to keep.
        progress: Shows the scans.
        selection: Whose configurations, folds and postprocessing are used instead of those of the choice.

    Raises:
        PredictionError: If there is nothing to segment, a fold is not trained, outputs would collide, or outputs to be
            kept are those of other networks.
    """
    predictor: Segments
    choice = replace(choice, scratch=request.folder)
    if selection is None:
        predictor = load_model(workspace, choice)
        empty = _empty_predictions(workspace, choice, predictor)
    else:
        predictor = load_selected(workspace, choice, selection)
        empty = _empty_predictions(workspace, choice, predictor)
        together = {"configuration": " + ".join(selection.configurations), "folds": selection.folds}
        made_from = {**empty.made_from, "selection": selection.digest()}
        empty = empty.model_copy(update={**together, "made_from": made_from})
    scans = find_scans(request, predictor.model.plan)
    kept, upcoming = split_done(scans, request)
    for folder in {request.folder, *(scan.output.parent for scan in scans)}:
        remove_abandoned(folder)
    record = _Record(request.record, empty)
    if request.skip_existing:
        record.keep(kept)
    record.save()
    try:
        predict_files(predictor, upcoming, progress, request.extras, record.add)
    finally:
        record.save()
    return record.predictions


class _Record:
    """The `predictions.json` of a batch under way: written now and then, so that a killed batch leaves one."""

    def __init__(self, path: Path, predictions: Predictions) -> None:
        self._path = path
        self.predictions = predictions
        self._saved_s = time.monotonic()

    def keep(self, scans: Sequence[Scan]) -> None:
        """Take over what an earlier call has written of scans.

        Raises:
            PredictionError: If it was written with other networks or settings.
        """
        earlier = Predictions.load(self._path) if self._path.exists() else self.predictions
        if earlier.model_copy(update={"cases": ()}) != self.predictions:
            raise PredictionError(
                f"{self._path}: outputs to be kept must come from the same networks, device and settings, got others."
                " Leave out --skip-existing, or name another OUT."
            )
        known = {case.output: case for case in earlier.cases if case.error is None}
        for scan in scans:
            case = known.get(scan.output, Outcome(image=scan.images[0], output=scan.output))
            self._append(case.model_copy(update={"is_kept": True}))

    def add(self, outcome: Outcome) -> None:
        """Take over an outcome."""
        self._append(outcome)
        if time.monotonic() - self._saved_s > SECONDS_BETWEEN_RECORDS:
            self.save()

    def save(self) -> None:
        """Write what there is."""
        self.predictions.save(self._path)
        self._saved_s = time.monotonic()

    def _append(self, outcome: Outcome) -> None:
        self.predictions = self.predictions.model_copy(update={"cases": (*self.predictions.cases, outcome)})


def _empty_predictions(workspace: Workspace, choice: ModelChoice, predictor: Segments) -> Predictions:
    plan, settings = predictor.model.plan, predictor.settings
    trained = workspace.trainings(choice.configuration)
    folds = default_folds(workspace, choice.configuration) if choice.folds is None else choice.folds
    wanted: dict[FoldName, FoldFolder] = {fold: trained[fold] for fold in folds}
    made_from = {
        "model": plan.model_digest(choice.configuration),
        "inference": digest_of([plan.inference.model_dump(mode="json"), settings.tile_step]),
        "weights": digest_of({str(fold): digest_of_file(folder.weights) for fold, folder in wanted.items()}),
    }
    if stage := plan.configurations[choice.configuration].previous_stage:
        made_from[EARLIER_STAGE] = digest_of_networks(workspace, stage)
    return Predictions(
        made_from=made_from,
        dataset=plan.dataset,
        configuration=choice.configuration,
        folds=tuple(wanted),
        device=settings.device.type,
        precision=settings.precision,
        mirror=settings.mirror,
        cases=(),
    )
