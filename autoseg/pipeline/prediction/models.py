"""Trained networks of a workspace: which there are, whether their files belong together, and predictors with them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.core.artefact import digest_of, digest_of_file
from autoseg.core.errors import AutosegError, PredictionError
from autoseg.core.workspace import ALL_DATA, FoldFolder, FoldName, Workspace
from autoseg.fingerprint import Fingerprint
from autoseg.infer.case import Pace, default_settings
from autoseg.infer.predictor import Predictor
from autoseg.infer.unlike import Familiar
from autoseg.network.device import choose_device
from autoseg.network.shortage import is_shortage_of_device
from autoseg.pipeline.planning.prepare import load_plan
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.select.choose import Selection
from autoseg.select.predictor import SelectedPredictor
from autoseg.train.record import EARLIER_STAGE, MODEL, WEIGHTS, TrainingRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelChoice:
    """Which of the trained networks predict, and how.

    Attributes:
        configuration: Of the plan.
        folds: Whose networks are averaged; None for those of `default_folds`. The network that has learnt from all data
            predicts on its own.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        mirror: Whether to average over mirrored scans.
        earlier_folds: Whose networks are averaged in the stage before, if the configuration is that of a cascade; None
            for those of `default_folds`.
        pace: `fast` and `accurate` tile and mirror by their rules instead of the plan's.
        exact: Whether networks compute in float32 where the fastest precision of the device is another.
        scratch: Folder for what does not fit into memory; None for the system's folder of temporary files.
    """

    configuration: ConfigurationName
    folds: tuple[FoldName, ...] | None
    device: str
    mirror: bool
    earlier_folds: tuple[int, ...] | None = None
    pace: Pace = "standard"
    exact: bool = False
    scratch: Path | None = None


def load_model(workspace: Workspace, choice: ModelChoice) -> Predictor:
    """Return a predictor with the chosen folds of a workspace, and in a cascade with the stage before them.

    A device without memory for the networks is left for the CPU, which the log says.

    Raises:
        PredictionError: If a fold is not trained to its end, its files do not belong together or to the plan, or the
            stage before was trained anew since.
        ArtefactError: If a file is damaged.
    """
    try:
        return _loaded(workspace, choice)
    except (RuntimeError, AutosegError) as error:
        shortage = error.__cause__ or error  # A device that is full from the start is refused because of it.
        if not is_shortage_of_device(shortage):
            raise
        reason = str(shortage).partition("\n")[0]
    # Outside of the handler, whose error would keep the networks on the device alive.
    log.warning(
        "%s: must have memory for the networks, got: %s. Predicts on the CPU, which takes longer.",
        choice.device,
        reason,
    )
    return _loaded(workspace, replace(choice, device="cpu"))


def _loaded(workspace: Workspace, choice: ModelChoice) -> Predictor:
    planned = load_plan(workspace)
    trained = workspace.trainings(choice.configuration)
    wanted = default_folds(workspace, choice.configuration) if choice.folds is None else choice.folds
    require_trained(workspace, choice.configuration, wanted)
    device = choose_device(choice.device)
    settings = default_settings(device, planned.configurations[choice.configuration], choice.pace)
    settings = replace(
        settings,
        mirror=settings.mirror and choice.mirror,
        precision="float32" if choice.exact else settings.precision,
        scratch=choice.scratch,
    )
    for fold in wanted:
        _require_own(trained[fold], planned, choice.configuration, fold)
    weights = [trained[fold].weights for fold in wanted]
    predictor = replace(
        Predictor.load(planned, choice.configuration, weights, settings), familiar=_familiar(workspace, planned)
    )
    stage = planned.configurations[choice.configuration].previous_stage
    if stage is None:
        return predictor
    _require_unchanged(workspace, stage, [trained[fold] for fold in wanted])
    earlier = _loaded(workspace, replace(choice, configuration=stage, folds=choice.earlier_folds))
    return replace(predictor, model=replace(predictor.model, earlier=earlier.model))


def require_trained(workspace: Workspace, configuration: ConfigurationName, folds: Sequence[FoldName]) -> None:
    """Refuse folds that do not predict together.

    Raises:
        PredictionError: If one is not trained to its end, there is none, or all data and folds are mixed.
    """
    if ALL_DATA in folds and len(folds) > 1:
        raise PredictionError(f"--folds: must be folds, or {ALL_DATA} on its own, got both. Choose one of the two.")
    trained = workspace.trainings(configuration)
    missing = [fold for fold in folds if fold not in trained]
    if missing or not folds:
        got = f"folds {', '.join(map(str, trained))}" if trained else "none"
        first = (missing or [0])[0]
        raise PredictionError(
            f"{workspace.root}: trained networks of {configuration} are needed, got {got}."
            f" Run `autoseg train --fold {first} --configuration {configuration}`, or choose others with --folds."
        )


def default_folds(workspace: Workspace, configuration: ConfigurationName) -> tuple[FoldName, ...]:
    """Return whose networks predict unless others are named: all numbered folds, or that of all data where it is alone.

    None is trained where the result is empty.
    """
    return tuple(workspace.folds(configuration)) or tuple(workspace.trainings(configuration))


def load_selection(workspace: Workspace) -> Selection | None:
    """Return what was selected in a workspace; None if nothing was.

    Raises:
        PredictionError: If networks that it is made from have changed since.
    """
    if not workspace.selection.exists():
        return None
    selection = Selection.load(workspace.selection)
    for name in selection.configurations:
        for fold, folder in workspace.folds(name).items():
            digest = digest_of_file(folder.weights)
            if selection.made_from.get(f"{name} fold {fold}", digest) != digest:
                raise PredictionError(
                    f"{workspace.selection}: must be of the networks that are there, got others in {folder.root}."
                    " Run `autoseg select` again, or name one with --configuration."
                )
    return selection


def load_selected(workspace: Workspace, choice: ModelChoice, selection: Selection) -> SelectedPredictor:
    """Return a predictor with the configurations and postprocessing of a selection, and with its folds or the choice's.

    Raises:
        PredictionError: See `load_model`.
    """
    members = (
        load_model(workspace, replace(choice, configuration=name, folds=choice.folds or selection.folds))
        for name in selection.configurations
    )
    return SelectedPredictor(tuple(members), selection.postprocessing)


def _familiar(workspace: Workspace, planned: Plan) -> Familiar | None:
    """Return what the networks know; None for imported models without a fingerprint."""
    if not workspace.fingerprint.exists():
        return None
    return Familiar(planned, Fingerprint.load(workspace.fingerprint), load_rulebook().empirical.unlike)


def digest_of_networks(workspace: Workspace, configuration: ConfigurationName) -> str:
    """Return the digest of the weights of a configuration that predict unless others are named."""
    trained = workspace.trainings(configuration)
    folds = default_folds(workspace, configuration)
    return digest_of({str(fold): digest_of_file(trained[fold].weights) for fold in folds})


def _require_unchanged(workspace: Workspace, stage: ConfigurationName, folders: Sequence[FoldFolder]) -> None:
    """Refuse networks of a cascade that have learnt to refine others than those that are there now."""
    digest = digest_of_networks(workspace, stage)
    for folder in folders:
        if TrainingRecord.load(folder.record).made_from.get(EARLIER_STAGE) != digest:
            raise PredictionError(
                f"{folder.root}: a network of a cascade must be used with the networks of {stage} that it was trained"
                " with, got others. Train it again with --restart."
            )


def _require_own(folder: FoldFolder, planned: Plan, configuration: ConfigurationName, fold: FoldName) -> None:
    """Refuse weights that are not those which the record beside them speaks of, or are of another plan.

    Raises:
        PredictionError: If they are.
    """
    record = TrainingRecord.load(folder.record)
    if (record.configuration, record.fold) != (configuration, fold):
        raise PredictionError(
            f"{folder.record}: must be the record of fold {fold} of {configuration}, got that of fold {record.fold} of"
            f" {record.configuration}. Put the files back where they were."
        )
    if record.made_from.get(MODEL, planned.model_digest(configuration)) != planned.model_digest(configuration):
        raise PredictionError(
            f"{folder.root}: networks must be of the plan and the dataset of this workspace, got others. Restore the"
            f" plan.json that they were trained with, or train again with --restart."
        )
    digest = digest_of_file(folder.weights) if folder.weights.exists() else ""
    if record.made_from.get(WEIGHTS, digest) != digest:
        raise PredictionError(
            f"{folder.weights}: must be the weights that {folder.record.name} was written with, got others, or a"
            " damaged file. Restore them, or train again with --restart."
        )
