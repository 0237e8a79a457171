"""Scores of held-out cases, each predicted by the fold that has not seen it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock

from autoseg.core.artefact import digest_of, digest_of_file
from autoseg.core.errors import PredictionError
from autoseg.core.progress import Progress
from autoseg.core.workspace import ALL_DATA, FoldName, Workspace
from autoseg.data.dataset import Case, Dataset
from autoseg.data.splits import Splits
from autoseg.evaluate.pairs import Pair
from autoseg.evaluate.run import Scoring, evaluate_sets
from autoseg.evaluate.scores import CaseScores, Evaluation, summarise
from autoseg.pipeline.heldout.maps import HeldOutPredictions, HeldOutRequest, candidate_folder, predict_held_out
from autoseg.pipeline.planning.folds import load_split
from autoseg.pipeline.planning.prepare import Planning, load_plan
from autoseg.pipeline.prediction.models import ModelChoice
from autoseg.plan.rulebook import Rulebook, load_rulebook
from autoseg.plan.rules import EvaluationRules
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

    Scores go to `evaluation.json` beside the label maps. It holds those of every fold whose label maps are of the
    networks that are there, also of folds that were scored before and are not asked for now; a fold is scored again if
    its label maps, the dataset or the rules have changed. Intervals draw the groups of the dataset, such as patients.

    Args:
        workspace: Of the trainings.
        request: Candidates and folds.
        num_workers: Processes that score.
        progress: Shows both.

    Returns:
        Scores of the held-out cases of the folds that were asked for.

    Raises:
        PredictionError: If a fold is not trained, the folds hold out no case, or a case cannot be predicted.
    """
    predict_held_out(workspace, request, progress)
    asked = {name for fold in request.folds for name in load_split(workspace, fold).validation}
    if not asked:
        folds = ", ".join(map(str, request.folds))
        raise PredictionError(f"folds {folds}: a case must be held out to be scored, got none. Choose other folds.")
    dataset, rules = Dataset.load(workspace.dataset), rules_of(workspace).empirical.evaluation
    cases = {case.name: case for case in dataset.cases}
    origins = {"dataset": dataset.digest(), "rules": digest_of(rules.model_dump(mode="json"))}
    with filelock.FileLock(workspace.scoring):
        standing = {together: _standing(workspace, together, origins) for together in request.candidates}
        names = {together: sorted(found.names | asked) for together, found in standing.items()}
        missing = {
            together: held_out_pairs(workspace, together, [cases[name] for name in wanted])
            for together, found in standing.items()
            if (wanted := [name for name in names[together] if name not in found.known])
        }
        scoring = Scoring(rules, {case.name: case.group for case in dataset.cases})
        scored = evaluate_sets(missing, dataset.labels, progress, num_workers, scoring) if missing else {}
        evaluations = {}
        for together, found in standing.items():
            new = {case.name: case for case in scored[together].cases} if together in scored else {}
            whole = summarise(({**found.known, **new}[name] for name in names[together]), dataset.labels, rules)
            whole = whole.model_copy(update={"made_from": found.made_from})
            whole.save(_scores_file(workspace, together))
            evaluations[together] = part_of(whole, asked, request.folds, rules)
    return evaluations


def known_evaluation(workspace: Workspace, together: Together, folds: Sequence[FoldName]) -> Evaluation | None:
    """Return the scores of the cases that folds hold out, as far as `evaluation.json` has them.

    Args:
        workspace: Of the trainings.
        together: Configurations that predict together.
        folds: Whose held-out cases are asked for.

    Returns:
        Scores of all held-out cases of these folds; None if a fold holds none out or was not scored, or if its label
        maps are of other networks than are there, or others than were scored.
    """
    path = _scores_file(workspace, together)
    if not path.exists():
        return None
    found = Evaluation.load(path)
    names: set[str] = set()
    for fold in folds:
        maps = None if fold == ALL_DATA else _current_maps(workspace, together, fold)
        if maps is None or found.made_from.get(_entry(fold)) != maps.digest():
            return None
        names |= maps.outputs.keys()
    return part_of(found, names, folds, rules_of(workspace).empirical.evaluation)


def part_of(found: Evaluation, names: Collection[str], folds: Sequence[FoldName], rules: EvaluationRules) -> Evaluation:
    """Return the evaluation of some of the cases of another.

    Args:
        found: Of more cases.
        names: Of the cases.
        folds: That hold them out.
        rules: Confidence and samples of the intervals.
    """
    cases = [case for case in found.cases if case.name in names]
    if len(cases) == len(found.cases):
        return found
    others = {entry for entry in found.made_from if entry.startswith(_entry(""))} - set(map(_entry, folds))
    made_from = {entry: digest for entry, digest in found.made_from.items() if entry not in others}
    scored_by = {"tolerance_mm": found.tolerance_mm, "min_lesion_iou": found.min_lesion_iou}
    part = summarise(cases, found.labels, rules.model_copy(update=scored_by))
    return part.model_copy(update={"made_from": made_from})


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


@dataclass(frozen=True)
class _Standing:
    """Held-out cases of a candidate whose label maps are of the networks that are there.

    Attributes:
        made_from: Digests of dataset and rules, and of the label maps of each fold.
        names: Of the cases.
        known: Scores of those that need not be scored again, by name.
    """

    made_from: dict[str, str]
    names: set[str]
    known: dict[str, CaseScores]


def _standing(workspace: Workspace, together: Together, origins: Mapping[str, str]) -> _Standing:
    """Return which cases of a candidate can be scored, and which of them were, from the same dataset by the same rules.

    Args:
        workspace: Of the trainings.
        together: The candidate.
        origins: Digests of dataset and rules.
    """
    path = _scores_file(workspace, together)
    before = Evaluation.load(path) if path.exists() else None
    if before is not None and not origins.items() <= before.made_from.items():
        before = None
    scored = {} if before is None else {case.name: case for case in before.cases}
    found = _Standing(dict(origins), set(), {})
    for fold, split in enumerate(Splits.load(workspace.splits).folds):
        maps = _current_maps(workspace, together, fold)
        if maps is None or not split.validation or not set(split.validation) <= maps.outputs.keys():
            continue
        digest = maps.digest()
        is_known = before is not None and before.made_from.get(_entry(fold)) == digest
        if is_known:
            found.known.update({name: scored[name] for name in split.validation if name in scored})
        elif not all((path.parent / file).exists() for file in maps.outputs.values()):
            continue
        found.made_from[_entry(fold)] = digest
        found.names.update(split.validation)
    return found


def _current_maps(workspace: Workspace, together: Together, fold: FoldName) -> HeldOutPredictions | None:
    """Return the record of the label maps of a fold; None if there is none, or if they are of other networks."""
    record = candidate_folder(workspace, together) / f"fold_{fold}.json"
    if not record.exists():
        return None
    found, planned = HeldOutPredictions.load(record), load_plan(workspace)
    stages = [planned.configurations[name].previous_stage for name in together]
    for name in dict.fromkeys((*together, *(stage for stage in stages if stage is not None))):
        weights = workspace.fold(name, fold).weights
        if not weights.exists() or found.made_from.get(name) != digest_of_file(weights):
            return None
    return found


def _entry(fold: FoldName | str) -> str:
    """Return under which name an evaluation says of which label maps of a fold it is."""
    return f"fold {fold}"


def _scores_file(workspace: Workspace, together: Together) -> Path:
    return candidate_folder(workspace, together) / "evaluation.json"
