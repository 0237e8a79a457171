"""What a plan costs on a device: memory, time and disk, predicted before anything is computed."""

import math
import statistics

from autoseg.core.artefact import Artefact, Record
from autoseg.core.geometry import Shape
from autoseg.fingerprint.schema import CaseFingerprint, Fingerprint
from autoseg.plan.cost import num_parameters
from autoseg.plan.duration import DeviceSpeed, prediction_s, training_step_s, validation_step_s
from autoseg.plan.memory import SINGLE, Arithmetic, MemoryEstimate, training_memory
from autoseg.plan.rules import CostRules
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan, Plan
from autoseg.plan.tiling import Scan, prediction_memory

ON_GPU = Arithmetic(is_cpu=False, number_bytes=2)
"""How GPUs compute in training."""

STORED_LABEL_BYTES = 1
"""Of a voxel's class index on disk, for up to 127 classes."""


class ConfigurationCosts(Record):
    """What one configuration costs.

    Attributes:
        training: Peak memory of a training step.
        training_on_gpu: The same on a GPU, in half precision.
        prediction: Peak memory of predicting a scan of median size with one network.
        step_s: Of a training step.
        epoch_s: Of an epoch, validation included.
        training_s: Of all epochs of a training.
        fold_s: Of a whole training, and of predicting the cases that it holds out.
        cross_validation_s: Of all folds.
        scan_s: Of predicting a scan of median size with one network.
        preprocessed_bytes: Upper bound of the preprocessed cases on disk, as if they could not be compressed.
        model_bytes: Of the weights of all folds.
        checkpoint_bytes: From which one training can go on; it is deleted at its end.
        predictions_bytes: Upper bound of the held-out label maps, as if they could not be compressed.
    """

    training: MemoryEstimate
    training_on_gpu: MemoryEstimate
    prediction: MemoryEstimate
    step_s: float
    epoch_s: float
    training_s: float
    fold_s: float
    cross_validation_s: float
    scan_s: float
    preprocessed_bytes: int
    model_bytes: int
    checkpoint_bytes: int
    predictions_bytes: int


class Costs(Artefact):
    """What a plan costs on one machine.

    Attributes:
        speed: Of its device.
        num_folds: Of the cross-validation.
        configurations: By name.
    """

    speed: DeviceSpeed
    num_folds: int
    configurations: dict[ConfigurationName, ConfigurationCosts]


def predict_costs(plan: Plan, fingerprint: Fingerprint, num_folds: int, speed: DeviceSpeed, rules: CostRules) -> Costs:
    """Return what a plan costs on a device.

    Args:
        plan: Configurations and recipe.
        fingerprint: Of the dataset: how many cases there are, and how large.
        num_folds: Of the cross-validation.
        speed: Of the device.
        rules: Constants.
    """
    configurations = {
        name: _configuration_costs(plan, configuration, fingerprint, num_folds, (speed, rules))
        for name, configuration in plan.configurations.items()
    }
    made_from = {"plan": plan.digest(), "fingerprint": fingerprint.digest()}
    return Costs(made_from=made_from, speed=speed, num_folds=num_folds, configurations=configurations)


def scan_shape(plan: Plan, configuration: ConfigurationPlan, fingerprint: Fingerprint) -> Shape:
    """Return the shape of a scan of median size as a configuration sees it, (z, y, x), transposed axes, in voxels."""
    seen = [round(size) for size in configuration.median_shape]
    if len(seen) == 2:
        slices = [case.cropped_shape[plan.transpose[0]] for case in fingerprint.cases]
        seen = [round(statistics.median(slices)), *seen]
    return tuple(max(size, 1) for size in seen)


def scan_of_case(plan: Plan, configuration: ConfigurationPlan, case: CaseFingerprint, arithmetic: Arithmetic) -> Scan:
    """Return a case as a configuration sees it, to be predicted by one network with mirror images.

    Args:
        plan: Order of axes and tiling.
        configuration: Spacing and patch.
        case: Measured as if it were stored in the plan's orientation.
        arithmetic: Of the device.
    """
    spacing, shape = ([sizes[axis] for axis in plan.transpose] for sizes in (case.spacing, case.cropped_shape))
    target = [*spacing[: 3 - len(configuration.spacing)], *configuration.spacing]
    z, y, x = (max(round(size * now / new), 1) for size, now, new in zip(shape, spacing, target, strict=True))
    return _scan((z, y, x), plan, configuration, arithmetic)


def _median_scan(plan: Plan, configuration: ConfigurationPlan, fingerprint: Fingerprint, speed: DeviceSpeed) -> Scan:
    """Return a scan of median size, predicted by one network on its mirror images too."""
    return _scan(scan_shape(plan, configuration, fingerprint), plan, configuration, speed.arithmetic)


def _scan(shape: Shape, plan: Plan, configuration: ConfigurationPlan, arithmetic: Arithmetic) -> Scan:
    return Scan(
        shape=shape,
        num_networks=1,
        mirror=True,
        tiles_at_once=1 if arithmetic.is_cpu else configuration.batch_size,
        tile_step=plan.inference.tile_step,
    )


def _configuration_costs(
    plan: Plan,
    configuration: ConfigurationPlan,
    fingerprint: Fingerprint,
    num_folds: int,
    machine: tuple[DeviceSpeed, CostRules],
) -> ConfigurationCosts:
    speed, rules = machine
    recipe = plan.training
    num_cases = len(fingerprint.cases)
    scan = _median_scan(plan, configuration, fingerprint, speed)
    step_s = training_step_s(configuration, speed, rules)
    validation_s = validation_step_s(configuration, speed, rules)
    epoch_s = recipe.steps_per_epoch * step_s + recipe.validation_steps * validation_s
    scan_s = prediction_s(configuration, scan, speed, rules)
    training_s = recipe.num_epochs * epoch_s
    cross_validation_s = num_folds * training_s + num_cases * scan_s
    weights = SINGLE * num_parameters(configuration.network)
    copies = {"sgd": 2, "adamw": 3}[recipe.optimizer] + (recipe.weight_average_decay > 0)
    voxels = math.prod(scan.shape) * num_cases
    original = [math.prod(case.shape) for case in fingerprint.cases]
    return ConfigurationCosts(
        training=training_memory(configuration, recipe, speed.arithmetic, rules),
        training_on_gpu=training_memory(configuration, recipe, ON_GPU, rules),
        prediction=prediction_memory(configuration, scan, speed.arithmetic, rules),
        step_s=step_s,
        epoch_s=epoch_s,
        training_s=training_s,
        fold_s=cross_validation_s / num_folds,
        cross_validation_s=cross_validation_s,
        scan_s=scan_s,
        preprocessed_bytes=voxels * (SINGLE * len(plan.channels) + STORED_LABEL_BYTES),
        model_bytes=num_folds * weights,
        checkpoint_bytes=copies * weights,
        predictions_bytes=sum(original),
    )
