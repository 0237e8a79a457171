"""Trained models of nnU-Net v2 become models of a workspace, with which `autoseg predict` works."""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import autoseg
from autoseg.core.artefact import Record, digest_of, digest_of_file
from autoseg.core.errors import ArtefactError, DatasetError, PlanError
from autoseg.core.temporary import scratch_folder
from autoseg.core.workspace import ALL_DATA, FoldName, Workspace
from autoseg.data.archive import archive_suffix, unpack
from autoseg.data.description import DESCRIPTION_NAME
from autoseg.fingerprint import Fingerprint
from autoseg.interop.fingerprint_files import DescribedDataset, read_dataset_description, read_fingerprint
from autoseg.interop.nnunet_description import (
    CHECKPOINT_NAME,
    NnunetPlans,
    import_configuration,
    not_usable,
    parse_plans,
)
from autoseg.interop.nnunet_weights import NnunetCheckpoint, convert_weights, read_checkpoint
from autoseg.network.checkpoint import save_weights
from autoseg.pipeline.prediction.models import digest_of_networks
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan, GaussianCentre, InferencePlan, Plan, TrainingPlan
from autoseg.train.record import EARLIER_STAGE, MODEL, WEIGHTS, TrainingRecord

PLANS_NAME = "plans.json"
FINGERPRINT_NAME = "dataset_fingerprint.json"

TILE_STEP = 0.5
"""Of nnU-Net's prediction unless told otherwise."""

GAUSSIAN_SIGMA = 1 / 8
"""Of nnU-Net's weight of a tile's voxels, as a share of the patch."""

GAUSSIAN_CENTRE: GaussianCentre = "half"
"""Of that weight."""

DECLARATIONS = ("channel_names", "labels", "regions_class_order")
"""Of `dataset.json`, on which the meaning of a network's inputs and outputs depends."""

PLAIN_TRAINER = "nnUNetTrainer"
"""Other trainers are variants, which may have built another network or normalised otherwise than the plan says."""

_logger = logging.getLogger(__name__)


class ImportedModel(Record):
    """A configuration that was imported.

    Attributes:
        configuration: As we call it.
        source: Folder that it comes from, inside the archive if it was one.
        trainer: nnU-Net's class that trained it.
        folds: Whose networks were imported.
    """

    configuration: ConfigurationName
    source: Path
    trainer: str
    folds: tuple[FoldName, ...]


@dataclass(frozen=True)
class _ModelFolder:
    """A folder that nnU-Net has trained one configuration into."""

    root: Path
    name: Path
    plans: NnunetPlans
    plans_digest: str
    dataset: DescribedDataset
    checkpoints: dict[FoldName, Path]


def import_nnunet(
    sources: Sequence[Path], workspace: Workspace, checkpoint_name: str = CHECKPOINT_NAME
) -> tuple[ImportedModel, ...]:
    """Write the plan and the weights of trained nnU-Net v2 models to a workspace; nothing that they hold is run.

    Nothing is written if one of them cannot be used. What an earlier import of the same models wrote is replaced.

    Args:
        sources: Model folders, folders or archives (`.zip`, `.tar`, `.tar.gz`) with model folders in them; several
            configurations of one dataset and one plan, such as the stages of a cascade, make one workspace.
        workspace: New, or that of an earlier import of the same models.
        checkpoint_name: File of each fold.

    Raises:
        ArtefactError: If there is no model, a file is damaged or holds code, weights and plan do not fit, or a model
            does what autoseg does not.
        DatasetError: If an archive is damaged or unsafe, or `dataset.json` cannot be used.
        PlanError: If the models do not belong together, or the workspace holds something else.
    """
    workspace.root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder(workspace.root))
        folders = [found for source in sources for found in _find_models(source, scratch, checkpoint_name)]
        staged = Workspace(scratch / "staged")
        plans, models = zip(*(_import_model(folder, staged) for folder in folders), strict=True)
        plan = reduce(_joined, plans)
        _require_stages(plan)
        _require_room(workspace, plan)
        _tie(staged, plan)
        fingerprint = _fingerprint(folders)
        shutil.copyfile(folders[0].root / DESCRIPTION_NAME, staged.imported)
        for model in models:
            _move_folds(model, staged, workspace)
        staged.imported.replace(workspace.imported)
        if fingerprint is not None:
            fingerprint.save(workspace.fingerprint)
        plan.save(workspace.plan)
    return models


def _fingerprint(folders: Sequence[_ModelFolder]) -> Fingerprint | None:
    """Return what the training data were like, from the first file that can be used; without it no scan is unusual."""
    for folder in folders:
        path = folder.root / FINGERPRINT_NAME
        if not path.is_file():
            continue
        try:
            return read_fingerprint(path, folder.dataset)
        except (ArtefactError, DatasetError) as error:
            _logger.warning("%s Scans that are unlike the training data are not warned of by it.", error)
    return None


def _find_models(source: Path, scratch: Path, checkpoint_name: str) -> Iterator[_ModelFolder]:
    """Give the model folders in a folder or an archive."""
    is_archive = source.is_file() and archive_suffix(source) is not None
    root = unpack(source, scratch / f"unpacked_{digest_of(str(source))}") if is_archive else source
    found = sorted(path.parent for path in root.rglob(PLANS_NAME) if any(path.parent.glob("fold_*")))
    if not found:
        raise ArtefactError(
            f"{source}: a folder or archive of a trained nnU-Net v2 model must hold {PLANS_NAME} beside fold_0, found"
            " none. Name the folder nnUNetTrainer__nnUNetPlans__3d_fullres or its like."
        )
    for folder in found:
        yield _read_folder(folder, source / folder.relative_to(root), checkpoint_name)


def _read_folder(root: Path, name: Path, checkpoint_name: str) -> _ModelFolder:
    document = _read_json(root / PLANS_NAME, name / PLANS_NAME)
    if not (root / DESCRIPTION_NAME).is_file():
        raise ArtefactError(f"{name}: a model folder must hold {DESCRIPTION_NAME}, found none. Copy it there.")
    checkpoints: dict[FoldName, Path] = {
        ours: folder / checkpoint_name
        for folder in sorted(root.glob("fold_*"))
        if (ours := _fold_name(folder.name)) is not None and (folder / checkpoint_name).is_file()
    }
    if not checkpoints:
        raise ArtefactError(
            f"{name}: at least one fold must hold {checkpoint_name}, found none. Train one to its end, or name another"
            " file with --checkpoint."
        )
    return _ModelFolder(
        root=root,
        name=name,
        plans=parse_plans(document, name / PLANS_NAME),
        plans_digest=digest_of(document),
        dataset=read_dataset_description(root / DESCRIPTION_NAME),
        checkpoints=checkpoints,
    )


def _fold_name(folder: str) -> FoldName | None:
    """Return what we call the training in a folder of nnU-Net; None for one that is none."""
    name = folder.removeprefix("fold_")
    return ALL_DATA if name == "all" else int(name) if name.isdecimal() else None


def _import_model(folder: _ModelFolder, staged: Workspace) -> tuple[Plan, ImportedModel]:
    """Write the weights and records of a model; return its plan and what was written."""
    places = {fold: folder.name / path.relative_to(folder.root) for fold, path in folder.checkpoints.items()}
    leading = next(iter(places))
    # nnU-Net takes the configuration and the mirroring of all folds from the first.
    first = read_checkpoint(folder.checkpoints[leading], places[leading])
    name, configuration = _configuration(folder, first)
    for fold, place in places.items():
        checkpoint = first if fold == leading else read_checkpoint(folder.checkpoints[fold], place)
        _require_own(folder, first.configuration, checkpoint, place)
        target = staged.fold(name, fold)
        save_weights(convert_weights(checkpoint.weights, configuration.network, place), target.weights)
        _record(folder, checkpoint, name, fold).save(target.record)
    if first.trainer != PLAIN_TRAINER:
        _logger.warning(
            "%s: trained by %s; network and normalisation are taken to be those of %s. Compare one prediction with"
            " nnU-Net's.",
            folder.name,
            first.trainer,
            PLANS_NAME,
        )
    model = ImportedModel(configuration=name, source=folder.name, trainer=first.trainer, folds=tuple(places))
    return _plan(folder, name, configuration), model


def _require_own(folder: _ModelFolder, configuration: str, checkpoint: NnunetCheckpoint, place: Path) -> None:
    """Refuse the checkpoint of another fold, configuration or dataset, as far as it notes where it comes from."""
    in_folder = place.parent.name
    if checkpoint.fold is not None and in_folder != f"fold_{checkpoint.fold}":
        raise ArtefactError(
            f"{place}: must be the checkpoint of {in_folder}, got that of fold_{checkpoint.fold}. Put it into the"
            " folder where it belongs."
        )
    if checkpoint.configuration != configuration:
        raise ArtefactError(
            f"{place}: must be of {configuration}, as the other folds, got a checkpoint of {checkpoint.configuration}."
            " Put it into the folder where it belongs."
        )
    trained_on = checkpoint.dataset_name or folder.plans.dataset_name
    if trained_on != folder.plans.dataset_name:
        raise ArtefactError(
            f"{place}: must be trained on {folder.plans.dataset_name}, the dataset of {PLANS_NAME}, got a checkpoint of"
            f" {trained_on}. Use the {PLANS_NAME} that it was trained with."
        )
    declared = _read_json(folder.root / DESCRIPTION_NAME, folder.name / DESCRIPTION_NAME)
    for key in DECLARATIONS:
        if key in checkpoint.declared and checkpoint.declared[key] != declared.get(key):
            raise ArtefactError(
                f"{place}: must be trained with the {key} of {DESCRIPTION_NAME}, {declared.get(key)}, got"
                f" {checkpoint.declared[key]}. Use the {DESCRIPTION_NAME} that it was trained with."
            )


def _configuration(folder: _ModelFolder, checkpoint: NnunetCheckpoint) -> tuple[ConfigurationName, ConfigurationPlan]:
    theirs, dataset = checkpoint.configuration, folder.dataset
    try:
        name = folder.plans.our_name(theirs)
        plan = import_configuration(folder.plans, theirs, dataset.channels, dataset.labels, checkpoint.mirror_axes)
    except ValueError as error:
        raise not_usable(f"{folder.name / PLANS_NAME}, {theirs}", error) from None
    if name != theirs:
        _logger.info("%s: %s becomes %s", folder.name, theirs, name)
    return name, plan


def _plan(folder: _ModelFolder, name: ConfigurationName, configuration: ConfigurationPlan) -> Plan:
    """Return the plan of one model; nnU-Net's files do not hold the recipe of training, our preset's stands there."""
    preset = "plain" if configuration.network.kind == "plain" else "residual"
    blueprint = load_rulebook().for_preset(preset).blueprint
    return Plan(
        made_from={"plans": folder.plans_digest},
        dataset=folder.plans.dataset_name,
        preset=preset,
        channels=folder.dataset.channels,
        labels=folder.dataset.labels,
        transpose=folder.plans.transpose_forward,
        configurations={name: configuration},
        training=TrainingPlan(**blueprint.training.model_dump(), augmentation=blueprint.augmentation),
        inference=InferencePlan(tile_step=TILE_STEP, gaussian_sigma=GAUSSIAN_SIGMA, gaussian_centre=GAUSSIAN_CENTRE),
    )


def _record(
    folder: _ModelFolder, checkpoint: NnunetCheckpoint, name: ConfigurationName, fold: FoldName
) -> TrainingRecord:
    """Return what a checkpoint tells about its training; the number of steps and the seed are not in it, and are 0."""
    names = [entry.name for entry in folder.dataset.labels.foreground]
    dice = checkpoint.dice if len(checkpoint.dice) == len(names) else (None,) * len(names)
    return TrainingRecord(
        configuration=name,
        fold=fold,
        identity=digest_of_file(folder.checkpoints[fold]),
        seed=0,
        num_epochs=checkpoint.num_epochs,
        num_steps=0,
        seconds=checkpoint.seconds,
        device=checkpoint.device,
        precision="float16" if checkpoint.device.startswith("cuda") else "float32",
        versions={"autoseg": autoseg.__version__, "nnU-Net": f"{checkpoint.trainer}, {folder.plans.plans_name}"},
        validation_dice=dict(zip(names, dice, strict=True)),
    )


def _joined(plan: Plan, other: Plan) -> Plan:
    """Return a plan with the configurations of both.

    Raises:
        PlanError: If they are not of one dataset and one plan, or hold the same configuration.
    """
    shared = ("dataset", "channels", "labels", "transpose")
    if different := [name for name in shared if getattr(plan, name) != getattr(other, name)]:
        raise PlanError(
            f"{', '.join(other.configurations)}: models of one workspace must have the same {different[0]}, got another"
            f" than that of {', '.join(plan.configurations)}. Import them into a --workspace of their own."
        )
    if twice := plan.configurations.keys() & other.configurations.keys():
        raise PlanError(
            f"{min(twice)}: each configuration must be given once, got it twice. Import one of them into another"
            " --workspace."
        )
    return plan.model_copy(
        update={
            "made_from": {"plans": digest_of([plan.made_from, other.made_from])},
            "configurations": {**plan.configurations, **other.configurations},
        }
    )


def _require_stages(plan: Plan) -> None:
    for name, configuration in plan.configurations.items():
        previous = configuration.previous_stage
        if previous is not None and previous not in plan.configurations:
            raise ArtefactError(
                f"{name}: a cascade needs its first stage, {previous}, got {', '.join(plan.configurations)} only."
                " Name the model folders of both stages."
            )


def _tie(staged: Workspace, plan: Plan) -> None:
    """Note in the records which plan, weights and, in a cascade, networks of the earlier stage belong together."""
    for name, configuration in plan.configurations.items():
        made_from = {MODEL: plan.model_digest(name)}
        if configuration.previous_stage is not None:
            made_from[EARLIER_STAGE] = digest_of_networks(staged, configuration.previous_stage)
        for folder in staged.trainings(name).values():
            own = {**made_from, WEIGHTS: digest_of_file(folder.weights)}
            TrainingRecord.load(folder.record).model_copy(update={"made_from": own}).save(folder.record)


def _require_room(workspace: Workspace, plan: Plan) -> None:
    if workspace.plan.exists() and Plan.load(workspace.plan).digest() != plan.digest():
        raise PlanError(
            f"{workspace.root}: must be new, or hold an earlier import of the same models, got another plan."
            " Name another folder with --workspace."
        )


def _move_folds(model: ImportedModel, staged: Workspace, workspace: Workspace) -> None:
    for fold in model.folds:
        source, target = staged.fold(model.configuration, fold), workspace.fold(model.configuration, fold)
        target.root.mkdir(parents=True, exist_ok=True)
        # The record goes last: with it the fold counts as trained.
        source.weights.replace(target.weights)
        source.record.replace(target.record)


def _read_json(path: Path, where: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{where}: must be readable JSON, got: {error}. Fetch it again.") from None
    if not isinstance(document, dict):
        raise ArtefactError(f"{where}: must hold a JSON object, got a {type(document).__name__}. Fetch it again.")
    return document
