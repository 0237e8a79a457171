"""Label maps for new scans, with the models of a workspace."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.core.artefact import digest_of, digest_of_file
from autoseg.core.errors import PredictionError
from autoseg.core.progress import Progress
from autoseg.core.workspace import FoldFolder, Workspace
from autoseg.data.image import IMAGE_SUFFIXES
from autoseg.infer.case import default_settings
from autoseg.infer.predictor import Outcome, Predictor, Scan, output_path
from autoseg.network.device import choose_device
from autoseg.pipeline.prepare import load_plan
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.train.record import EARLIER_STAGE, TrainingRecord


@dataclass(frozen=True)
class ModelChoice:
    """Which of the trained networks predict, and how.

    Attributes:
        configuration: Of the plan.
        folds: Whose networks are averaged; None for all that are trained.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        mirror: Whether to average over mirrored scans.
        earlier_folds: Whose networks are averaged in the stage before, if the configuration is that of a cascade; None
            for all.
    """

    configuration: ConfigurationName
    folds: tuple[int, ...] | None
    device: str
    mirror: bool
    earlier_folds: tuple[int, ...] | None = None


def load_model(workspace: Workspace, choice: ModelChoice) -> Predictor:
    """Return a predictor with the chosen folds of a workspace, and in a cascade with the stage before them.

    Raises:
        PredictionError: If a fold is not trained to its end, or the stage before was trained anew since.
    """
    planned = load_plan(workspace)
    trained = workspace.folds(choice.configuration)
    wanted = tuple(trained) if choice.folds is None else choice.folds
    missing = [fold for fold in wanted if fold not in trained]
    if missing or not wanted:
        got = f"folds {', '.join(map(str, trained))}" if trained else "none"
        first = (missing or [0])[0]
        raise PredictionError(
            f"{workspace.root}: trained networks of {choice.configuration} are needed, got {got}."
            f" Run `autoseg train --fold {first} --configuration {choice.configuration}`,"
            " or choose others with --folds."
        )
    settings = default_settings(choose_device(choice.device), planned.configurations[choice.configuration])
    settings = replace(settings, mirror=choice.mirror)
    weights = [trained[fold].weights for fold in wanted]
    predictor = Predictor.load(planned, choice.configuration, weights, settings)
    stage = planned.configurations[choice.configuration].previous_stage
    if stage is None:
        return predictor
    _require_unchanged(workspace, stage, [trained[fold] for fold in wanted])
    earlier = load_model(workspace, replace(choice, configuration=stage, folds=choice.earlier_folds))
    return replace(predictor, model=replace(predictor.model, earlier=earlier.model))


def digest_of_networks(workspace: Workspace, configuration: ConfigurationName) -> str:
    """Return the digest of the weights of all folds of a configuration that are trained."""
    trained = workspace.folds(configuration)
    return digest_of({str(fold): digest_of_file(folder.weights) for fold, folder in trained.items()})


def _require_unchanged(workspace: Workspace, stage: ConfigurationName, folders: Sequence[FoldFolder]) -> None:
    """Refuse networks of a cascade that have learnt to refine others than those that are there now."""
    digest = digest_of_networks(workspace, stage)
    for folder in folders:
        if TrainingRecord.load(folder.record).made_from.get(EARLIER_STAGE) != digest:
            raise PredictionError(
                f"{folder.root}: a network of a cascade must be used with the networks of {stage} that it was trained"
                " with, got others. Train it again with --restart."
            )


def predict(
    workspace: Workspace, choice: ModelChoice, source: Path, target: Path, progress: Progress
) -> tuple[Outcome, ...]:
    """Segment a scan, or the scans of a folder; a scan that fails does not stop the others.

    Args:
        workspace: With trained models.
        choice: Which of them.
        source: A file, or a folder of files.
        target: A file for a file; a folder for a folder, or for a file if it has no suffix of an image.
        progress: Shows the scans.

    Raises:
        PredictionError: If there is nothing to segment, a fold is not trained, or outputs would collide.
    """
    predictor = load_model(workspace, choice)
    scans = find_scans(source, target, predictor.model.plan)
    return predictor.predict_files(scans, progress)


def find_scans(source: Path, target: Path, planned: Plan) -> list[Scan]:
    """Return the scans of a file or folder, each with its output.

    The channels of a scan are one file, or one file per channel named `..._0000`, `..._0001`, as nnU-Net names them.

    Raises:
        PredictionError: If there is none, a channel is missing, or two scans would be written to one file.
    """
    if source.is_file():
        output = target if _is_image(target) else output_path(source, target, planned.labels)
        return [Scan((source,), output)]
    if not source.is_dir():
        raise PredictionError(f"{source}: a scan or a folder of scans must be there, found none. Correct the path.")
    if _is_image(target):
        raise PredictionError(f"{target}: OUT must be a folder when IN is one, got a file name. Name a folder.")
    files = sorted(path for path in source.iterdir() if path.is_file() and _is_image(path))
    if not files:
        raise PredictionError(
            f"{source}: at least one scan must be in the folder, found none."
            f" Known formats: {', '.join(IMAGE_SUFFIXES)}."
        )
    scans = _channel_groups(files, len(planned.channels))
    outputs = [output_path(_named_for_case(paths), target, planned.labels) for paths in scans]
    if twice := next((path for path in outputs if outputs.count(path) > 1), None):
        raise PredictionError(f"{source}: each scan must have a name of its own, got two for {twice}. Rename one.")
    return [Scan(paths, output) for paths, output in zip(scans, outputs, strict=True)]


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(tuple(IMAGE_SUFFIXES))


def _channel_groups(files: Sequence[Path], num_channels: int) -> list[tuple[Path, ...]]:
    """Return the files of each scan: those that differ in the channel number alone belong together."""
    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault(_case_key(path, num_channels), []).append(path)
    return [tuple(paths) for paths in groups.values()]


def _case_key(path: Path, num_channels: int) -> str:
    stem, _, ending = path.name.partition(".")
    head, _, number = stem.rpartition("_")
    is_channel = len(number) == 4 and number.isdigit() and int(number) < num_channels and head
    return f"{head}.{ending}" if is_channel else path.name


def _named_for_case(paths: tuple[Path, ...]) -> Path:
    return paths[0].with_name(_case_key(paths[0], len(paths)))
