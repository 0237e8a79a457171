"""Workspaces with tiny networks that nobody trained."""

from pathlib import Path

import torch

from autoseg.core.artefact import digest_of_file
from autoseg.core.workspace import Workspace
from autoseg.fingerprint import Fingerprint
from autoseg.fingerprint.schema import CaseFingerprint, ClassFingerprint, ClassFrequency, IntensityStatistics
from autoseg.network.checkpoint import save_weights
from autoseg.network.unet import UNet
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.train.record import MODEL, WEIGHTS, TrainingRecord
from tests.preprocess import plans

SHAPE, SPACING = (12, 12, 12), (2.0, 1.0, 1.0)


def untrained(
    root: Path, num_folds: int = 2, plan: Plan | None = None, configuration: ConfigurationName = "3d_fullres"
) -> Workspace:
    """Write a workspace with networks of random weights for each fold, as if they had been trained."""
    workspace = Workspace(root)
    planned = plan or plans.plan(configurations={"3d_fullres": plans.configuration(SPACING)})
    planned.save(workspace.plan)
    fingerprint(planned.channels).save(workspace.fingerprint)
    for fold in range(num_folds):
        leave_training(workspace, planned, configuration, fold)
    return workspace


def leave_training(
    workspace: Workspace, planned: Plan, configuration: ConfigurationName, fold: int, seed: int | None = None
) -> None:
    """Write what a training leaves, with random weights: by the seed, which is the fold unless one is given."""
    folder = workspace.fold(configuration, fold)
    torch.manual_seed(fold if seed is None else seed)
    save_weights(UNet(planned.configurations[configuration].network).state_dict(), folder.weights)
    record(planned, fold, digest_of_file(folder.weights), configuration).save(folder.record)


def record(
    planned: Plan, fold: int, weights_digest: str, configuration: ConfigurationName = "3d_fullres"
) -> TrainingRecord:
    """Return the record of a training."""
    return TrainingRecord(
        made_from={
            "recipe": planned.recipe_digest(configuration),
            MODEL: planned.model_digest(configuration),
            WEIGHTS: weights_digest,
        },
        configuration=configuration,
        fold=fold,
        identity="",
        seed=0,
        num_epochs=1,
        num_steps=1,
        seconds=1.0,
        device="cpu",
        precision="float32",
        versions={},
        validation_dice={},
    )


def fingerprint(channels: tuple[str, ...] = ("scan",)) -> Fingerprint:
    """Return what two training cases of a bright organ and a rare lesion are."""
    cases = tuple(
        CaseFingerprint(
            name=f"case {number}",
            shape=SHAPE,
            cropped_shape=SHAPE,
            spacing=(2.0 + number, 1.0, 1.0),
            left_right_axis=2,
            foreground_extent_mm=(10.0, 10.0, 10.0),
            classes=(_class("organ", 100 + 50 * number), _class("lesion", 10 * number)),
        )
        for number in range(2)
    )
    return Fingerprint(
        dataset="phantom",
        channels=channels,
        cases=cases,
        intensities=(
            IntensityStatistics(
                mean=1.0, median=1.0, std=0.5, min=0.0, max=3.0, percentile_00_5=0.5, percentile_99_5=2.5
            ),
        )
        * len(channels),
        median_relative_size_after_cropping=1.0,
        frequencies=(_frequency("organ", 1.0), _frequency("lesion", 0.5)),
    )


def _class(name: str, num_voxels: int) -> ClassFingerprint:
    return ClassFingerprint(
        name=name,
        num_voxels=num_voxels,
        num_components=min(num_voxels, 1),
        volume_mm3=2.0 * num_voxels,
        mean=(1.0,) if num_voxels else (),
        std=(0.1,) if num_voxels else (),
    )


def _frequency(name: str, case_share: float) -> ClassFrequency:
    return ClassFrequency(
        name=name, case_share=case_share, voxel_share=0.1, median_volume_mm3=200.0, median_components=1.0
    )
