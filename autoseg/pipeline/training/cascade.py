"""What a cascade's later stage learns from: predictions of the stage before it, of cases that it had not seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock

from autoseg.core.artefact import digest_of, digest_of_file
from autoseg.core.errors import TrainingError
from autoseg.core.progress import Progress, Task
from autoseg.core.workspace import Workspace
from autoseg.data.splits import Splits
from autoseg.data.store import CaseProperties, EarlierPrediction, open_case, stored_earlier, write_earlier
from autoseg.infer.case import predict_classes_on
from autoseg.pipeline.planning.prepare import Planning, load_plan, preprocess
from autoseg.pipeline.prediction.models import ModelChoice, digest_of_networks, load_model
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.preprocess.case import Prepared


@dataclass(frozen=True)
class _Stages:
    """Two stages of a cascade, and where their preprocessed cases lie."""

    plan: Plan
    earlier: ConfigurationName
    earlier_folder: Path
    later: ConfigurationName
    later_folder: Path


def require_earlier_stage(workspace: Workspace, configuration: ConfigurationName) -> ConfigurationName | None:
    """Return the stage before a configuration in a cascade, None where there is none; all its folds must be trained.

    Raises:
        TrainingError: Naming the folds that are not.
    """
    stage = load_plan(workspace).configurations[configuration].previous_stage
    if stage is None:
        return None
    trained = workspace.folds(stage)
    missing = [str(fold) for fold in range(len(Splits.load(workspace.splits).folds)) if fold not in trained]
    if missing:
        raise TrainingError(
            f"{configuration}: refines what each fold of {stage} predicts of the cases that it has not seen, so that"
            f" all its folds must be trained first; missing: {', '.join(missing)}."
            f" Run `autoseg train --configuration {stage} --fold {missing[0]}`"
            f"{' and so on' if len(missing) > 1 else ''}, then this command again."
        )
    return stage


def predict_earlier_stage(
    workspace: Workspace, configuration: ConfigurationName, device: str, num_workers: int, progress: Progress
) -> str:
    """Predict every case with the fold of the stage before that has not seen it, onto the grid of a configuration.

    Predictions lie beside the preprocessed cases; those of unchanged networks and cases are kept.

    Args:
        workspace: Of the plan.
        configuration: Whose stage before predicts.
        device: See `choose_device`.
        num_workers: Processes that preprocess.
        progress: Told of the share of each case that is done.

    Returns:
        The digest of the networks that predicted.

    Raises:
        TrainingError: If a fold of the stage before is not trained.
        PredictionError: If a case cannot be predicted.
    """
    stage = require_earlier_stage(workspace, configuration)
    assert stage is not None
    planned, folder = preprocess(workspace, configuration, num_workers, progress)
    _, earlier_folder = preprocess(workspace, stage, num_workers, progress)
    stages = _Stages(planned, stage, earlier_folder, configuration, folder)
    folds = Splits.load(workspace.splits).folds
    # Folds that are trained side by side need the same predictions: the first one makes them.
    with (
        filelock.FileLock(folder / f"{stage}.lock"),
        progress.task(f"predicting with {stage}", total=sum(len(split.validation) for split in folds)) as task,
    ):
        for fold, split in enumerate(folds):
            _predict_cases(workspace, stages, (fold, device), split.validation, task)
    return digest_of_networks(workspace, stage)


def _predict_cases(
    workspace: Workspace, stages: _Stages, fold_on_device: tuple[int, str], names: Sequence[str], task: Task
) -> None:
    """Predict the cases of a fold whose prediction is missing or was made from something else."""
    fold, device = fold_on_device
    mirror = _mirrors(workspace)
    weights = digest_of_file(workspace.fold(stages.earlier, fold).weights)
    origins = {name: _origin(stages, name, weights, mirror=mirror) for name in names}
    outdated = [
        name
        for name, made_from in origins.items()
        if stored_earlier(stages.later_folder, name, stages.earlier) != EarlierPrediction(made_from=made_from)
    ]
    task.advance(len(names) - len(outdated))
    if not outdated:
        return
    choice = ModelChoice(stages.earlier, (fold,), device, mirror, scratch=workspace.root)
    predictor = load_model(workspace, choice)
    later = stages.plan.configurations[stages.later]
    for name in outdated:
        properties = open_case(stages.later_folder, name).properties
        indices = predict_classes_on(
            (properties.stored_shape, later.spacing),
            _prepared(stages.earlier_folder, name),
            predictor.model,
            predictor.settings,
            task.advance,
        )
        write_earlier(stages.later_folder, properties, stages.earlier, indices, later.patch_size, origins[name])


def _mirrors(workspace: Workspace) -> bool:
    """Return whether scans are averaged over their mirror images: as a budget has decided, without one they are."""
    timing = Planning.load(workspace.planning).timing if workspace.planning.exists() else None
    return timing is None or timing.choice.mirror


def _origin(stages: _Stages, name: str, weights: str, *, mirror: bool) -> dict[str, str]:
    """Return the digests of all that decides a prediction."""
    seen, wanted = (_properties(folder, name).digest() for folder in (stages.earlier_folder, stages.later_folder))
    inference = digest_of(stages.plan.inference.model_dump(mode="json"))
    inputs = {"weights": weights, "case as seen": seen, "case as stored": wanted}
    return {**inputs, "inference": inference, "mirrored": str(mirror)}


def _properties(folder: Path, name: str) -> CaseProperties:
    return open_case(folder, name).properties


def _prepared(folder: Path, name: str) -> Prepared:
    """Return a preprocessed case as prediction prepares a scan."""
    case = open_case(folder, name)
    return Prepared(case.image[(slice(None),) * len(case.image.shape)], case.properties)
