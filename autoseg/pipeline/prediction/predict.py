"""Label maps for new scans, with the models of a workspace."""

from dataclasses import replace

from autoseg.core.artefact import digest_of, digest_of_file
from autoseg.core.errors import PredictionError
from autoseg.core.progress import Progress
from autoseg.core.temporary import remove_abandoned
from autoseg.core.workspace import Workspace
from autoseg.infer.batch import predict_files
from autoseg.infer.outcome import Predictions
from autoseg.infer.predictor import Segments
from autoseg.pipeline.prediction.models import (
    ModelChoice,
    default_folds,
    digest_of_networks,
    load_model,
    load_selected,
)
from autoseg.pipeline.prediction.record import BatchRecord, writing_to
from autoseg.pipeline.prediction.scans import Request, find_scans
from autoseg.select.choose import Selection, Together
from autoseg.train.record import EARLIER_STAGE


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
        selection: Whose configurations and postprocessing are used instead of those of the choice.

    Raises:
        PredictionError: If there is nothing to segment, a fold is not trained, a single one is asked for disagreement,
            outputs would collide, or outputs to be kept are those of other networks.
    """
    predictor: Segments
    choice = replace(choice, scratch=request.folder)
    if selection is None:
        predictor = load_model(workspace, choice)
        empty = _empty_predictions(workspace, choice, predictor)
    else:
        choice = replace(choice, folds=choice.folds or selection.folds)
        predictor = load_selected(workspace, choice, selection)
        empty = _empty_predictions(workspace, choice, predictor, selection.configurations)
        made_from = {**empty.made_from, "selection": selection.digest()}
        empty = empty.model_copy(update={"made_from": made_from})
    if "disagreement" in request.extras.uncertainty and len(empty.folds) < 2:
        raise PredictionError(
            "--uncertainty disagreement: at least two folds must predict, got one, which agrees with itself. Name more"
            " --folds, or ask for entropy."
        )
    scans = find_scans(request, predictor.model.plan)
    with writing_to(request.folder):
        record = BatchRecord(request, empty)
        kept = set(record.keep(scans)) if request.skip_existing else set()
        for folder in {request.folder, *(scan.output.parent for scan in scans if scan.problem is None)}:
            remove_abandoned(folder)
    upcoming = [scan for scan in scans if scan not in kept]
    record.expect(upcoming)
    record.save()
    try:
        predict_files(predictor, upcoming, progress, request.extras, record.add)
    finally:
        record.save()
    return record.predictions


def _empty_predictions(
    workspace: Workspace, choice: ModelChoice, predictor: Segments, together: Together | None = None
) -> Predictions:
    """Return what is known before the first scan; `together` predict in place of the choice's configuration."""
    plan, settings = predictor.model.plan, predictor.settings
    folds = default_folds(workspace, choice.configuration) if choice.folds is None else choice.folds
    names = together or (choice.configuration,)
    weights = {f"{name} fold {fold}": workspace.fold(name, fold).weights for name in names for fold in folds}
    tiles = [(plan.configurations[name].patch_size, plan.configurations[name].mirror_axes) for name in names]
    made_from = {
        "model": plan.model_digest(choice.configuration),
        "inference": digest_of([plan.inference.model_dump(mode="json"), settings.tile_step, tiles]),
        "weights": digest_of({name: digest_of_file(path) for name, path in weights.items()}),
    }
    if stage := plan.configurations[choice.configuration].previous_stage:
        made_from[EARLIER_STAGE] = digest_of_networks(workspace, stage)
    return Predictions(
        made_from=made_from,
        dataset=plan.dataset,
        configuration=" + ".join(names),
        folds=folds,
        device=settings.device.type,
        precision=settings.precision,
        mirror=settings.mirror,
        cases=(),
    )
