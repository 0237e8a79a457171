"""A plan for a budget of time: networks of several widths are planned, the device is timed, the rules choose."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoseg.core.artefact import Record
from autoseg.core.errors import PlanError
from autoseg.fingerprint import Fingerprint
from autoseg.plan.budget import (
    Offer,
    TimeBudget,
    TimedChoice,
    batches_to_try,
    largest_batch,
    offer,
    predicted_pace,
    require_enough,
    widest,
)
from autoseg.plan.budget_decisions import batch_decision, choice_of
from autoseg.plan.costs import scan_of_case
from autoseg.plan.decisions import Reasons
from autoseg.plan.duration import DeviceSpeed
from autoseg.plan.orientation import turned_fingerprint
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.plan.tiling import Scan

if TYPE_CHECKING:
    import torch

ANY_BATCH = 2**31
"""More patches than any plan has in a batch: memory, dataset and preset decide."""


class Timing(Record):
    """What a budget of time led to; it is kept, so that the same request leads to the same plan again.

    Attributes:
        rules: Digest of the rulebook.
        budget: Time.
        speed: Of the device, as it was measured.
        choice: Width, batch and length.
    """

    rules: str
    budget: TimeBudget
    speed: DeviceSpeed
    choice: TimedChoice


@dataclass(frozen=True)
class _Search:
    """What all candidates share.

    Attributes:
        make: Plans for a choice.
        fingerprint: Of the dataset.
        reasons: Rules in force.
        budget: Time.
        device: That is timed.
    """

    make: Callable[[TimedChoice], Plan]
    fingerprint: Fingerprint
    reasons: Reasons
    budget: TimeBudget
    device: "torch.device"


def time_plan(
    make: Callable[[TimedChoice], Plan],
    fingerprint: Fingerprint,
    reasons: Reasons,
    budget: TimeBudget,
    device: str,
    known: DeviceSpeed | None = None,
) -> Timing:
    """Return what suits a budget of time on a device, which is timed for some seconds.

    Args:
        make: Plans the dataset for a choice.
        fingerprint: Of the dataset.
        reasons: Rules in force for the preset.
        budget: Time, and the configuration that is trained.
        device: See `choose_device`.
        known: What was timed of the device before.

    Raises:
        PlanError: If the time is too short for any plan.
    """
    from autoseg.network.device import choose_device

    search = _Search(make, fingerprint, reasons, budget, choose_device(device))
    rules = reasons.rules.inferred
    least = rules.batch_size.min
    narrow_to_wide, speed = _offers(search, [(width, least) for width in sorted(rules.budget.widths)], known)
    require_enough(narrow_to_wide, budget, rules.budget)
    width = widest(narrow_to_wide, rules.budget).pace.base_features
    most = make(_candidate(search, width, ANY_BATCH)).configurations[budget.configuration].batch_size
    small_to_large, speed = _offers(search, [(width, size) for size in batches_to_try(least, most)], speed)
    bought = largest_batch(small_to_large, rules.budget)
    choice = choice_of(reasons, budget, speed.device, narrow_to_wide, small_to_large, bought)
    return Timing(rules=reasons.rulebook.digest, budget=budget, speed=speed, choice=choice)


def with_batches(
    timing: Timing, planned: Plan, reasons: Reasons, training_s: Mapping[ConfigurationName, float], device: str
) -> Timing:
    """Return a timing that chooses the batch of further configurations, each by the time of one of its trainings.

    Args:
        timing: Of the configuration for which the networks are planned.
        planned: What came of it: its other batches are the largest that memory, dataset and preset allow.
        reasons: Rules in force for the preset.
        training_s: Seconds of a training, by configuration.
        device: See `choose_device`.

    Source:
        rules/inferred.toml [budget]; docs/budgets.md.
    """
    from autoseg.network.device import choose_device
    from autoseg.pipeline.planning.speed import speed_of

    rules, speed = reasons.rules.inferred, timing.speed
    batches, decisions = {}, []
    for name, seconds in training_s.items():
        largest = planned.configurations[name]
        sizes = batches_to_try(rules.batch_size.min, largest.batch_size)
        candidates = [largest.model_copy(update={"batch_size": size}) for size in sizes]
        speed = speed_of(choose_device(device), candidates, speed)
        budget = TimeBudget(configuration=name, seconds=seconds)
        paces = [predicted_pace(candidate, (), speed, rules.cost) for candidate in candidates]
        offers = [offer(pace, budget, rules.budget) for pace in paces]
        bought = largest_batch(offers, rules.budget)
        batches[name] = bought.pace.batch_size
        decisions.append(batch_decision(reasons, name, speed.device, offers, bought))
    changed = {"batches": batches, "decisions": (*timing.choice.decisions, *decisions)}
    return timing.model_copy(update={"speed": speed, "choice": timing.choice.model_copy(update=changed)})


def _offers(
    search: _Search, candidates: list[tuple[int, int]], known: DeviceSpeed | None
) -> tuple[list[Offer], DeviceSpeed]:
    """Return what the time buys with each width and batch that has the configuration, and the speed of the device."""
    name, rules = search.budget.configuration, search.reasons.rules.inferred
    plans = [search.make(_candidate(search, *candidate)) for candidate in candidates]
    plans = [plan for plan in plans if name in plan.configurations]
    if not plans:
        raise PlanError(f"--configuration: must be part of the plan for this time, got {name}. Choose another one.")
    from autoseg.pipeline.planning.speed import speed_of

    speed = speed_of(search.device, [plan.configurations[name] for plan in plans], known)
    paces = [
        predicted_pace(plan.configurations[name], _held_out(search, plan, speed), speed, rules.cost) for plan in plans
    ]
    return [offer(pace, search.budget, rules.budget) for pace in paces], speed


def _held_out(search: _Search, plan: Plan, speed: DeviceSpeed) -> list[Scan]:
    """Return the held-out scans as the network of a candidate sees them."""
    configuration = plan.configurations[search.budget.configuration]
    names = set(search.budget.held_out)
    cases = turned_fingerprint(search.fingerprint, plan.orientation).cases
    return [scan_of_case(plan, configuration, case, speed.arithmetic) for case in cases if case.name in names]


def _candidate(search: _Search, width: int, batch_size: int) -> TimedChoice:
    """Return a choice of width and batch alone, by which a candidate is planned."""
    return TimedChoice(
        configuration=search.budget.configuration,
        base_features=width,
        batch_size=batch_size,
        steps_per_epoch=1,
        validation_steps=1,
        num_epochs=1,
        training_s=0.0,
        step_s=0.0,
        mirror=True,
    )
