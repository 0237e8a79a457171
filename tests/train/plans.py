"""Small plans and stored cases for tests of training."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.core.geometry import Geometry
from autoseg.core.labels import Labels, declare_labels
from autoseg.data.store import CaseProperties, write_case
from autoseg.plan.schema import AugmentationPlan, ConfigurationPlan, Plan, TrainingPlan
from tests.preprocess.plans import channel, configuration, plan

LABELS = declare_labels({0: "background", 1: "cube"})


def augmentation(probability: float = 0.5, **changes: object) -> AugmentationPlan:
    """Return augmentations that each happen with one probability, with changes."""
    ranges: dict[str, object] = {
        "rotation_angle_3d": 0.5,
        "rotation_angle_2d": 3.1,
        "rotation_angle_2d_elongated": 0.25,
        "elongation_ratio": 1.5,
        "slicewise_ratio": 3.0,
        "scaling_range": (0.7, 1.4),
        "noise_std_range": (0.0, 0.1),
        "blur_sigma_range": (0.5, 1.0),
        "brightness_range": (0.75, 1.25),
        "contrast_range": (0.75, 1.25),
        "low_resolution_range": (0.5, 1.0),
        "gamma_range": (0.7, 1.5),
        "earlier_reshaping_radius_range": (1.0, 8.0),
        "earlier_removal_largest_share": 0.15,
    }
    chances = {name: probability for name in AugmentationPlan.model_fields if name.endswith("_probability")}
    return AugmentationPlan.model_validate({**chances, **ranges, **changes})


def training(**changes: object) -> TrainingPlan:
    """Return a recipe that learns fast, with changes."""
    recipe: dict[str, object] = {
        "optimizer": "adamw",
        "num_epochs": 5,
        "steps_per_epoch": 4,
        "validation_steps": 2,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "second_momentum": 0.999,
        "weight_decay": 1e-4,
        "schedule_exponent": 0.9,
        "warmup_fraction": 0.1,
        "weight_average_decay": 0.0,
        "weight_average_ramp_steps": 10,
        "gradient_clip": 12.0,
        "foreground_fraction": 0.33,
        "dice_smoothing": 1e-5,
        "deep_supervision_decay": 0.5,
        "augmentation": augmentation(0.1),
    }
    return TrainingPlan.model_validate({**plan().training.model_dump(), **recipe, **changes})


def cube_configuration(patch_size: tuple[int, ...] = (8, 8, 8), *, within_mask: bool = False) -> ConfigurationPlan:
    """Return a configuration for one channel and two classes."""
    channels = (channel(within_mask=within_mask),)
    spacing = (1.0,) * len(patch_size)
    return configuration(spacing=spacing, patch_size=patch_size, channels=channels, num_outputs=LABELS.num_classes)


def cube_plan(recipe: TrainingPlan | None = None, *, within_mask: bool = False, labels: Labels = LABELS) -> Plan:
    """Return a plan for the scans of `store_cube`."""
    made = plan(labels=labels, configurations={"3d_fullres": cube_configuration(within_mask=within_mask)})
    return made.model_copy(update={"training": recipe or training()})


def store(folder: Path, name: str, image: NDArray[np.number], label: NDArray[np.integer], num_classes: int) -> None:
    """Store a case as preprocessing would: image (C, Z, Y, X), label (Z, Y, X), not annotated where `num_classes`."""
    depth, height, width = label.shape
    properties = CaseProperties(
        name=name,
        geometry=Geometry(spacing=(1, 1, 1)),
        original_shape=(depth, height, width),
        transpose=(0, 1, 2),
        crop_box=((0, depth), (0, height), (0, width)),
        cropped_shape=(depth, height, width),
        cropped_spacing=(1, 1, 1),
        stored_shape=(depth, height, width),
        num_voxels_per_class=tuple(int((label == index).sum()) for index in range(num_classes)),
        num_ignored_voxels=int((label == num_classes).sum()),
    )
    write_case(folder, image.astype(np.float32), label, properties, (8, 8, 8))


def store_cube(folder: Path, name: str, seed: int) -> None:
    """Store a noisy scan with a bright cube somewhere."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.3, size=(1, 12, 14, 16))
    label = np.zeros(image.shape[1:], dtype=np.int16)
    corner = rng.integers(1, 6, size=3)
    cube = tuple(slice(int(first), int(first) + 6) for first in corner)
    label[cube] = 1
    image[0][cube] += 2
    store(folder, name, image, label, LABELS.num_classes)
