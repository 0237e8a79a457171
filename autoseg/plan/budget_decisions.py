"""Decisions under a budget of time in words."""

from collections.abc import Sequence

from autoseg.plan.budget import Offer, TimeBudget, TimedChoice, epochs_of, step_with_validation_s
from autoseg.plan.decisions import Reasons, for_configuration, size_text
from autoseg.plan.schema import Alternative, ConfigurationName, Decision


def choice_of(
    reasons: Reasons, budget: TimeBudget, device: str, widths: Sequence[Offer], batches: Sequence[Offer], bought: Offer
) -> TimedChoice:
    """Return the choice of one offer, with its reasons.

    Args:
        reasons: Context.
        budget: Time.
        device: Name of the device that was timed.
        widths: Every width that was tried, with the smallest batch, the narrowest first.
        batches: Every batch that was tried with the width chosen, the smallest first.
        bought: The offer that was chosen, one of `batches`.
    """
    rules = reasons.rules.inferred.budget
    steps, validation, epochs = epochs_of(bought, rules)
    decisions = [
        _width_decision(reasons, budget, device, widths, batches[0]),
        *_length_decisions(reasons, bought),
        batch_decision(reasons, budget.configuration, device, batches, bought),
    ]
    if budget.held_out:
        decisions.insert(-1, _mirror_decision(reasons, budget, bought))
    return TimedChoice(
        configuration=budget.configuration,
        base_features=bought.pace.base_features,
        batch_size=bought.pace.batch_size,
        steps_per_epoch=steps,
        validation_steps=validation,
        num_epochs=epochs,
        training_s=bought.training_s,
        step_s=step_with_validation_s(bought.pace, rules),
        mirror=bought.mirror,
        decisions=tuple(decisions),
    )


def _bought(found: Offer) -> str:
    pace = found.pace
    return (
        f"{found.num_steps} steps of {pace.batch_size} patches of {size_text(pace.patch_size)} voxels,"
        f" {pace.step_s:.3g} s each"
    )


def _width_decision(
    reasons: Reasons, budget: TimeBudget, device: str, widths: Sequence[Offer], chosen: Offer
) -> Decision:
    """Return why the networks have their width."""
    needed = reasons.rules.inferred.budget.widths
    least = needed[chosen.pace.base_features]
    reason = (
        f"The widest network for which {chosen.training_s:.0f} s of {budget.configuration} on {device} buy enough "
        f"steps, at least {least}: {_bought(chosen)}."
        if chosen.num_steps >= least
        else f"No width gets enough steps in {chosen.training_s:.0f} s of {budget.configuration} on {device}; "
        f"this one gets the most: {_bought(chosen)}."
    )
    inputs = {
        "device": device,
        "budget left, s": budget.seconds,
        "trainings": budget.num_trainings,
        "held-out scans": len(budget.held_out),
        "time of a training, s": chosen.training_s,
        "seconds per step": chosen.pace.step_s,
        "seconds per validation batch": chosen.pace.validation_s,
    }
    used = ["budget.widths", "budget.least_steps", "budget.validation_share"]
    found = reasons.decision("base_features", chosen.pace.base_features, reason, inputs, used)
    others = [other for other in widths if other.pace.base_features != chosen.pace.base_features]
    tried = tuple(
        Alternative(
            value=other.pace.base_features,
            outcome=f"needs {needed[other.pace.base_features]} steps or more, buys {_bought(other)}",
        )
        for other in others
    )
    return found.model_copy(update={"alternatives": tried})


def batch_decision(
    reasons: Reasons, name: ConfigurationName, device: str, batches: Sequence[Offer], chosen: Offer
) -> Decision:
    """Return why the batch of a configuration is smaller than memory, dataset and preset allow.

    Args:
        reasons: Context.
        name: Of the configuration.
        device: Name of the device that was timed.
        batches: Every batch that was tried, the smallest first.
        chosen: One of them.
    """
    least = reasons.rules.inferred.budget.min_steps_of_more_patches
    reason = (
        f"The smallest, as a larger one would leave fewer than {least} steps: {_bought(chosen)}."
        if chosen is batches[0]
        else f"The largest that leaves at least {least} steps: {_bought(chosen)}."
    )
    inputs = {"device": device, "time of a training, s": chosen.training_s, "seconds per step": chosen.pace.step_s}
    used = ["batch_size", "budget.min_steps_of_more_patches", "budget.validation_share"]
    found = reasons.decision("batch_size", chosen.pace.batch_size, reason, inputs, used)
    others = [other for other in batches if other is not chosen]
    tried = tuple(Alternative(value=other.pace.batch_size, outcome=f"buys {_bought(other)}") for other in others)
    return for_configuration(found.model_copy(update={"alternatives": tried}), name)


def _length_decisions(reasons: Reasons, bought: Offer) -> tuple[Decision, Decision, Decision]:
    """Return why an epoch has its steps and a training its epochs."""
    rules = reasons.rules.inferred.budget
    steps, validation, epochs = epochs_of(bought, rules)
    pace = bought.pace
    limits = f"at least {rules.min_steps_per_epoch}, at most {rules.max_steps_per_epoch}"
    inputs = {"steps of a training": bought.num_steps, "time of a training, s": bought.training_s}
    epoch_s = steps * pace.step_s + validation * pace.validation_s
    return (
        reasons.decision(
            "steps_per_epoch",
            steps,
            f"{bought.num_steps} steps in about {rules.num_epochs} epochs; {limits}.",
            inputs,
            ["budget.num_epochs", "budget.min_steps_per_epoch", "budget.max_steps_per_epoch"],
        ),
        reasons.decision(
            "validation_steps",
            validation,
            f"{rules.validation_share:.0%} of the {steps} steps of an epoch, at least one.",
            {"steps per epoch": steps, "seconds per validation batch": pace.validation_s},
            ["budget.validation_share"],
        ),
        reasons.decision(
            "num_epochs",
            epochs,
            f"So many epochs of {epoch_s:.3g} s fit into {bought.training_s:.0f} s.",
            {**inputs, "seconds per epoch": epoch_s},
            ["budget.num_epochs"],
        ),
    )


def _mirror_decision(reasons: Reasons, budget: TimeBudget, bought: Offer) -> Decision:
    """Return why held-out scans are, or are not, averaged over their mirror images."""
    rules = reasons.rules.inferred.budget
    mirrored_s = rules.prediction_margin * bought.pace.mirrored_scans_s
    share = mirrored_s / budget.seconds
    reason = (
        f"With mirror images, {len(budget.held_out)} held-out scans take about {mirrored_s:.0f} s, {share:.0%} of the "
        f"time that is left; {rules.mirrored_share:.0%} may go into that"
        + ("." if bought.mirror else f". Without them, it is {bought.prediction_s:.0f} s.")
    )
    inputs = {
        "budget left, s": budget.seconds,
        "held-out scans": len(budget.held_out),
        "seconds with mirror images": bought.pace.mirrored_scans_s,
        "seconds without": bought.pace.scans_s,
    }
    used = ["budget.mirrored_share", "budget.prediction_margin"]
    return reasons.decision("mirror_held_out", bought.mirror, reason, inputs, used)
