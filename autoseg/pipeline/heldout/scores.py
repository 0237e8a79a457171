"""Scores of held-out cases, each predicted by the fold that has not seen it."""

from collections.abc import Sequence
from pathlib import Path

from autoseg.core.artefact import digest_of
from autoseg.core.errors import PredictionError
from autoseg.core.progress import Progress
from autoseg.core.workspace import ALL_DATA, Workspace
from autoseg.data.dataset import Case, Dataset
from autoseg.evaluate.pairs import Pair
from autoseg.evaluate.run import Scoring, evaluate_sets
from autoseg.evaluate.scores import Evaluation
from autoseg.pipeline.heldout.maps import HeldOutPredictions, HeldOutRequest, candidate_folder, predict_held_out
from autoseg.pipeline.planning.folds import load_split
from autoseg.pipeline.planning.prepare import Planning
from autoseg.pipeline.prediction.models import ModelChoice
from autoseg.plan.rulebook import Rulebook, load_rulebook
from autoseg.select.choose import Together


def score_held_out(workspace: Workspace, choice: ModelChoice, num_workers: int, progress: Progress) -> Evaluation:
    """Predict the held-out cases of folds, each by its own network, and score them together.

    Label maps go to `crossval/<configuration>/`; those of unchanged weights, mirrored as before, are kept.

    Args:
        workspace: Of the trainings.
        choice: Whose held-out cases; without folds, those of all that are trained.
        num_workers: Processes that score.
        progress: Shows both.

    Raises:
        PredictionError: If a fold is not trained, holds out no case, or a case cannot be predicted.
    """
    wanted = tuple(workspace.folds(choice.configuration)) if choice.folds is None else choice.folds
    folds = tuple(fold for fold in wanted if fold != ALL_DATA)
    if folds != wanted:
        raise PredictionError(f"{ALL_DATA}: a case must be held out to be scored, got none held out. Choose folds.")
    together = (choice.configuration,)
    request = HeldOutRequest((together,), folds, choice.device, choice.mirror)
    return score_candidates(workspace, request, num_workers, progress)[together]


def score_candidates(
    workspace: Workspace, request: HeldOutRequest, num_workers: int, progress: Progress
) -> dict[Together, Evaluation]:
    """Predict held-out cases and score every candidate on all of them; what is there already is kept.

    Scores go to `evaluation.json` beside the label maps. Their intervals draw the groups of the dataset, such as
    patients.

    Args:
        workspace: Of the trainings.
        request: Candidates and folds.
        num_workers: Processes that score.
        progress: Shows both.

    Raises:
        PredictionError: If a fold is not trained, or a case cannot be predicted.
    """
    predict_held_out(workspace, request, progress)
    dataset = Dataset.load(workspace.dataset)
    names = sorted(name for fold in request.folds for name in load_split(workspace, fold).validation)
    cases = {case.name: case for case in dataset.cases}
    rules = rules_of(workspace).empirical.evaluation
    origins = {"dataset": dataset.digest(), "rules": digest_of(rules.model_dump(mode="json"))}
    made_from = {
        together: {**origins, "predictions": _predictions_digest(workspace, together, request.folds)}
        for together in request.candidates
    }
    files = {together: candidate_folder(workspace, together) / "evaluation.json" for together in request.candidates}
    known = {together: Evaluation.load(path) for together, path in files.items() if path.exists()}
    known = {together: found for together, found in known.items() if found.made_from == made_from[together]}
    missing = {
        together: held_out_pairs(workspace, together, [cases[name] for name in names])
        for together in request.candidates
        if together not in known
    }
    if missing:
        scoring = Scoring(rules, {name: cases[name].group for name in names})
        for together, found in evaluate_sets(missing, dataset.labels, progress, num_workers, scoring).items():
            known[together] = found.model_copy(update={"made_from": made_from[together]})
            known[together].save(files[together])
    return {together: known[together] for together in request.candidates}


def held_out_pairs(workspace: Workspace, together: Together, cases: Sequence[Case]) -> list[Pair]:
    """Return each case's name, its held-out label map by a candidate, and its reference.

    Raises:
        PredictionError: If a label map was never written.
    """
    folder = candidate_folder(workspace, together)
    files = {name: file for record in _records(folder) for name, file in record.outputs.items()}
    if missing := [case.name for case in cases if case.name not in files]:
        raise PredictionError(
            f"{folder}: a label map of each held-out case must be there, found none of {', '.join(missing)}."
            " Run `autoseg select` again."
        )
    return [(case.name, folder / files[case.name], Path(str(case.label))) for case in cases]


def rules_of(workspace: Workspace) -> Rulebook:
    """Return the rules that a workspace was planned with; those of this version where nothing was planned in it."""
    return load_rulebook(Planning.load(workspace.planning).rules if workspace.planning.exists() else None)


def _records(folder: Path) -> list[HeldOutPredictions]:
    return [HeldOutPredictions.load(path) for path in sorted(folder.glob("fold_*.json"))]


def _predictions_digest(workspace: Workspace, together: Together, folds: Sequence[int]) -> str:
    folder = candidate_folder(workspace, together)
    return digest_of({str(fold): HeldOutPredictions.load(folder / f"fold_{fold}.json").digest() for fold in folds})
