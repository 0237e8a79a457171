"""Rules for a plan under a budget of time: width, batch and length, from what a step is predicted to take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from autoseg.core.artefact import Record
from autoseg.core.errors import PlanError
from autoseg.plan.duration import DeviceSpeed, prediction_s, training_step_s, validation_step_s
from autoseg.plan.rules import BudgetRules, CostRules, Rules
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan, Decision
from autoseg.plan.tiling import Scan


class TimeBudget(Record):
    """Time that a plan is made for.

    Attributes:
        configuration: That is trained.
        seconds: For all trainings and predictions.
        spent_s: Of the user's budget, what was spent before.
        num_trainings: That share the time.
        held_out: Names of the cases that are predicted within the time, of all trainings together.
        shared_with: Other configurations, which a run trains in further time.
    """

    configuration: ConfigurationName
    seconds: float
    spent_s: float = 0.0
    num_trainings: int = 1
    held_out: tuple[str, ...] = ()
    shared_with: tuple[ConfigurationName, ...] = ()


class Pace(Record):
    """How fast a device works with one network and batch, as predicted.

    Attributes:
        base_features: Width of the network at full resolution.
        patch_size: In voxels.
        batch_size: Patches per step.
        step_s, validation_s: Seconds of a training step and of a validation batch.
        scans_s, mirrored_scans_s: Seconds of all held-out scans, without and with their mirror images.
    """

    base_features: int
    patch_size: tuple[int, ...]
    batch_size: int
    step_s: float
    validation_s: float
    scans_s: float
    mirrored_scans_s: float


@dataclass(frozen=True)
class Offer:
    """What the time buys with one network and batch.

    Attributes:
        pace: Of the device.
        mirror: Whether held-out scans are averaged over their mirror images.
        prediction_s: Seconds set aside for all held-out scans.
        training_s: Seconds of each training.
        num_steps: Of each training.
    """

    pace: Pace
    mirror: bool
    prediction_s: float
    training_s: float
    num_steps: int


class TimedChoice(Record):
    """What was chosen for a budget of time.

    Attributes:
        configuration: That it was chosen for; the others of the plan share all but the batch.
        base_features: Width of the networks at full resolution.
        batch_size: Most patches per step of the configuration.
        batches: The same of others that share the time; the rest of the plan is as without a budget.
        steps_per_epoch, validation_steps, num_epochs: Length of a training.
        training_s: Seconds of a training.
        step_s: Seconds of a training step with its share of validation.
        mirror: Whether held-out scans are averaged over their mirror images.
        decisions: Why.
    """

    configuration: ConfigurationName
    base_features: int
    batch_size: int
    steps_per_epoch: int
    validation_steps: int
    num_epochs: int
    training_s: float
    step_s: float
    mirror: bool
    batches: dict[ConfigurationName, int] = Field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()

    def batch_of(self, name: ConfigurationName) -> int | None:
        """Return the most patches per step of a configuration; None where its time was not looked at."""
        return self.batch_size if name == self.configuration else self.batches.get(name)


def predicted_pace(
    configuration: ConfigurationPlan, scans: Sequence[Scan], speed: DeviceSpeed, rules: CostRules
) -> Pace:
    """Return how fast a device works with a configuration.

    Args:
        configuration: Network, patch and batch.
        scans: That are held out.
        speed: Of the device, the configuration's layers among those that were timed.
        rules: Constants.
    """

    def scans_s(*, mirror: bool) -> float:
        return sum(prediction_s(configuration, replace(scan, mirror=mirror), speed, rules) for scan in scans)

    return Pace(
        base_features=configuration.network.features[0],
        patch_size=configuration.patch_size,
        batch_size=configuration.batch_size,
        step_s=training_step_s(configuration, speed, rules),
        validation_s=validation_step_s(configuration, speed, rules),
        scans_s=scans_s(mirror=False),
        mirrored_scans_s=scans_s(mirror=True),
    )


def offer(pace: Pace, budget: TimeBudget, rules: BudgetRules) -> Offer:
    """Return what the time buys at a pace: prediction is set aside first, mirrored if that takes a small share.

    Source:
        rules/inferred.toml [budget].
    """
    mirror = rules.prediction_margin * pace.mirrored_scans_s <= rules.mirrored_share * budget.seconds
    prediction = rules.prediction_margin * (pace.mirrored_scans_s if mirror else pace.scans_s)
    training_s = max(budget.seconds - prediction, 0.0) / budget.num_trainings
    return Offer(pace, mirror, prediction, training_s, math.floor(training_s / step_with_validation_s(pace, rules)))


def step_with_validation_s(pace: Pace, rules: BudgetRules) -> float:
    """Return the seconds of a training step together with its share of validation."""
    return pace.step_s + rules.validation_share * pace.validation_s


def widest(offers: Sequence[Offer], rules: BudgetRules) -> Offer:
    """Return the widest network that the time buys enough steps for; if there is none, that with most steps.

    Args:
        offers: By width, the narrowest first.
        rules: Constants.

    Source:
        rules/inferred.toml [budget]; docs/budgets.md.
    """
    enough = [found for found in offers if found.num_steps >= rules.widths[found.pace.base_features]]
    return enough[-1] if enough else max(offers, key=lambda found: found.num_steps)


def largest_batch(offers: Sequence[Offer], rules: BudgetRules) -> Offer:
    """Return the largest batch that leaves many steps; if there is none, the smallest.

    Args:
        offers: By batch, the smallest first.
        rules: Constants.

    Source:
        rules/inferred.toml [budget].
    """
    enough = [found for found in offers if found.num_steps >= rules.min_steps_of_more_patches]
    return enough[-1] if enough else offers[0]


def batches_to_try(least: int, most: int) -> tuple[int, ...]:
    """Return the batch sizes from the least to the most, doubling, both among them."""
    found = [least]
    while found[-1] < most:
        found.append(min(2 * found[-1], most))
    return tuple(found)


def epochs_of(bought: Offer, rules: BudgetRules) -> tuple[int, int, int]:
    """Return steps per epoch, validation steps and epochs of a training.

    Source:
        rules/inferred.toml [budget].
    """
    wanted = round(bought.num_steps / rules.num_epochs)
    steps = min(max(wanted, rules.min_steps_per_epoch), rules.max_steps_per_epoch)
    validation = max(round(rules.validation_share * steps), 1)
    epoch_s = steps * bought.pace.step_s + validation * bought.pace.validation_s
    return steps, validation, max(math.floor(bought.training_s / epoch_s), 1)


def require_enough(offers: Sequence[Offer], budget: TimeBudget, rules: BudgetRules) -> None:
    """Refuse a budget that is too small for any plan.

    Args:
        offers: All that was tried.
        budget: Time.
        rules: Constants.

    Raises:
        PlanError: Naming the least budget.
    """
    best = max(offers, key=lambda found: found.num_steps)
    if best.num_steps >= rules.least_steps:
        return
    least = [
        rules.least_steps * step_with_validation_s(found.pace, rules) * budget.num_trainings
        + rules.prediction_margin * found.pace.scans_s
        for found in offers
    ]
    raise PlanError(
        too_short(budget.spent_s + min(least), budget.num_trainings, best.pace.step_s, best.num_steps, rules)
    )


def too_short(least_s: float, num_trainings: int, step_s: float, num_steps: int, rules: BudgetRules) -> str:
    """Return the message for a budget that is too small for any plan.

    Args:
        least_s: Seconds that would suffice.
        num_trainings: That share the time.
        step_s: Seconds of a step.
        num_steps: That the given budget buys.
        rules: Constants.
    """
    each = f" in each of {num_trainings} trainings" if num_trainings > 1 else ""
    fewer = ", or train fewer --folds" if num_trainings > 1 else ""
    return (
        f"--budget: must buy {rules.least_steps} training steps{each}, got time for {num_steps} of"
        f" {step_s:.2g} s. Give at least {10 * math.ceil(least_s / 10)}s{fewer}."
    )


def with_choice(rules: Rules, choice: TimedChoice) -> Rules:
    """Return the rules with the width and the length of training that were chosen.

    Patches stay as large as for the preset's own width: maps grow with the width, and what they may hold with them.

    Source:
        docs/budgets.md: a smaller patch cost a wide network more than its width brought.
    """
    blueprint, sizing = rules.blueprint, rules.inferred.sizing
    widened = choice.base_features / blueprint.network.base_features
    elements = {
        "reference_elements_2d": sizing.reference_elements_2d * widened,
        "reference_elements_3d": sizing.reference_elements_3d * widened,
    }
    inferred = rules.inferred.model_copy(update={"sizing": sizing.model_copy(update=elements)})
    network = blueprint.network.model_copy(update={"base_features": choice.base_features})
    length = {
        "steps_per_epoch": choice.steps_per_epoch,
        "validation_steps": choice.validation_steps,
        "num_epochs": choice.num_epochs,
    }
    training = blueprint.training.model_copy(update=length)
    changed = blueprint.model_copy(update={"network": network, "training": training})
    return rules.model_copy(update={"blueprint": changed, "inferred": inferred})
