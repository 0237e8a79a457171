"""The recipe against nnU-Net's own, copied by hand: a constant that is changed in `rules/` alone is found here."""

import math

from autoseg.plan.rulebook import load_rulebook

AUGMENTATION = {
    "rotation_probability": 0.2,
    "rotation_angle_3d": math.radians(30),
    "rotation_angle_2d": math.radians(180),
    "rotation_angle_2d_elongated": math.radians(15),
    "elongation_ratio": 1.5,
    "slicewise_ratio": 3.0,
    "scaling_probability": 0.2,
    "scaling_range": (0.7, 1.4),
    "noise_probability": 0.1,
    "noise_std_range": (0.0, 0.1),
    "blur_probability": 0.2,
    "blur_channel_probability": 0.5,
    "blur_sigma_range": (0.5, 1.0),
    "brightness_probability": 0.15,
    "brightness_range": (0.75, 1.25),
    "contrast_probability": 0.15,
    "contrast_range": (0.75, 1.25),
    "low_resolution_probability": 0.25,
    "low_resolution_channel_probability": 0.5,
    "low_resolution_range": (0.5, 1.0),
    "gamma_inverted_probability": 0.1,
    "gamma_probability": 0.3,
    "gamma_range": (0.7, 1.5),
    "mirror_probability": 0.5,
    "earlier_reshaping_probability": 0.4,
    "earlier_reshaping_class_probability": 0.5,
    "earlier_reshaping_radius_range": (1.0, 8.0),
    "earlier_removal_probability": 0.2,
    "earlier_removal_class_probability": 0.5,
    "earlier_removal_largest_share": 0.15,
}
"""Of nnU-Net 2.8.1's trainer; ranges of standard deviations and radii in voxels, angles in radians."""

TRAINING = {
    "optimizer": "sgd",
    "num_epochs": 1000,
    "steps_per_epoch": 250,
    "validation_steps": 50,
    "learning_rate": 0.01,
    "momentum": 0.99,
    "weight_decay": 3e-5,
    "schedule_exponent": 0.9,
    "warmup_fraction": 0.0,
    "weight_average_decay": 0.0,
    "gradient_clip": 12.0,
    "foreground_fraction": 0.33,
    "dice_smoothing": 1e-5,
    "deep_supervision_decay": 0.5,
}
"""Of nnU-Net 2.8.1's trainer, with neither warm-up nor averaged weights."""

OF_OTHERS = {"second_momentum", "weight_average_ramp_steps", "augmentation"}
"""Entries of the recipe that mean nothing to SGD without averaging, or are in the other table."""


def test_augmentation_is_that_of_nnunet() -> None:
    assert load_rulebook().for_preset("plain").blueprint.augmentation.model_dump() == AUGMENTATION


def test_training_is_that_of_nnunet() -> None:
    found = load_rulebook().for_preset("plain").blueprint.training.model_dump()
    assert {name: value for name, value in found.items() if name not in OF_OTHERS} == TRAINING
