"""Held-out cases: predicted by the fold that has not seen them, and scored."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.core.artefact import Artefact, digest_of_file
from autoseg.core.errors import PredictionError
from autoseg.core.progress import Progress
from autoseg.core.workspace import ALL_DATA, Workspace
from autoseg.data.dataset import Case, Dataset
from autoseg.evaluate.run import evaluate_pairs
from autoseg.evaluate.scores import Evaluation
from autoseg.infer.batch import predict_files
from autoseg.infer.outcome import Scan
from autoseg.infer.output import output_path
from autoseg.pipeline.prediction import ModelChoice, load_model
from autoseg.pipeline.prepare import load_plan
from autoseg.pipeline.training import load_split
from autoseg.train.record import EARLIER_STAGE


class HeldOutPredictions(Artefact):
    """Files that the network of a fold wrote for held-out cases; `made_from` names its weights, and the mirroring."""

    outputs: dict[str, str]


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
    dataset = Dataset.load(workspace.dataset)
    cases = {case.name: case for case in dataset.cases}
    outputs: dict[str, Path] = {}
    for fold in folds:
        held_out = [cases[name] for name in load_split(workspace, fold).validation]
        own = replace(choice, folds=(fold,), earlier_folds=(fold,))
        outputs |= _predict_fold(workspace, own, held_out, progress)
    pairs = [(name, path, Path(str(cases[name].label))) for name, path in sorted(outputs.items())]
    evaluation = evaluate_pairs(pairs, dataset.labels, progress, num_workers)
    evaluation.save(workspace.crossval(choice.configuration) / "evaluation.json")
    return evaluation


def _predict_fold(
    workspace: Workspace, choice: ModelChoice, held_out: Sequence[Case], progress: Progress
) -> dict[str, Path]:
    """Return the label map of each held-out case of a fold."""
    assert choice.folds is not None
    (fold,) = choice.folds
    folder = workspace.crossval(choice.configuration)
    predictor = load_model(workspace, choice)
    planned = load_plan(workspace)
    labels = planned.labels
    weights = workspace.fold(choice.configuration, fold).weights
    made_from = {"weights": digest_of_file(weights), "mirrored": str(choice.mirror)}
    if stage := planned.configurations[choice.configuration].previous_stage:
        made_from[EARLIER_STAGE] = digest_of_file(workspace.fold(stage, fold).weights)
    record = folder / f"fold_{fold}.json"
    outputs = {case.name: output_path(Path(case.images[0]), folder, labels) for case in held_out}
    outputs = {name: path.with_name(name + "".join(path.suffixes[-2:])) for name, path in outputs.items()}
    done = HeldOutPredictions.load(record) if record.exists() else None
    if done is not None and done.made_from == made_from and all(path.exists() for path in outputs.values()):
        return outputs
    scans = [Scan(tuple(Path(path) for path in case.images), outputs[case.name]) for case in held_out]
    failed = [outcome.error for outcome in predict_files(predictor, scans, progress) if outcome.error is not None]
    if failed:
        raise PredictionError("\n".join(failed))
    written = {name: path.name for name, path in outputs.items()}
    HeldOutPredictions(made_from=made_from, outputs=written).save(record)
    return outputs
