"""What a budget of time buys: both sides of every boundary, by hand."""

import re

import pytest

from autoseg.core.errors import PlanError
from autoseg.plan.budget import (
    Offer,
    Pace,
    TimeBudget,
    TimedChoice,
    batches_to_try,
    epochs_of,
    largest_batch,
    offer,
    require_enough,
    widest,
)
from autoseg.plan.budget_decisions import batch_decision, choice_of
from autoseg.plan.decisions import Reasons
from autoseg.plan.explain import explain, explain_value
from autoseg.plan.overrides import Overrides
from autoseg.plan.planner import make_plan
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.rules import BudgetRules
from tests.plan.published_case import describe, fingerprint_of

RULES = BudgetRules(
    widths={8: 50, 16: 200, 32: 2000},
    min_steps_of_more_patches=4000,
    least_steps=50,
    num_epochs=50,
    min_steps_per_epoch=10,
    max_steps_per_epoch=250,
    validation_share=0.1,
    mirrored_share=0.1,
    prediction_margin=1.5,
)
RULEBOOK = load_rulebook()
DATASET = describe("test", ["MRI"], ["background", "organ"])
SMALL = fingerprint_of([(1, 1, 1)] * 100, [(60, 64, 64)] * 100)


def _pace(step_s: float, width: int = 16, batch_size: int = 2, scans_s: float = 0.0) -> Pace:
    """Return a pace at which validation takes no time and mirrored scans eight times as long as others."""
    return Pace(
        base_features=width,
        patch_size=(40, 56, 40),
        batch_size=batch_size,
        step_s=step_s,
        validation_s=0.0,
        scans_s=scans_s,
        mirrored_scans_s=8 * scans_s,
    )


def _time(seconds: float, **changed: float) -> TimeBudget:
    return TimeBudget.model_validate({"configuration": "3d_fullres", "seconds": seconds, **changed})


def _offers(seconds: float, *step_s: float) -> list[Offer]:
    """Return what the time buys with networks of growing width."""
    paces = [_pace(each, width) for each, width in zip(step_s, RULES.widths, strict=False)]
    return [offer(pace, _time(seconds), RULES) for pace in paces]


def test_time_buys_steps_with_their_share_of_validation() -> None:
    pace = _pace(0.5).model_copy(update={"validation_s": 1.0})
    bought = offer(pace, _time(600), RULES)
    assert (bought.training_s, bought.num_steps) == (600, 1000)
    assert offer(pace, _time(600, num_trainings=4), RULES).num_steps == 250


@pytest.mark.parametrize(
    ("scans_s", "mirror", "prediction_s"),
    [(5, True, 60), (5.1, False, 7.65), (0.0, True, 0)],
)
def test_held_out_scans_are_mirrored_if_that_takes_a_small_share(
    scans_s: float, mirror: bool, prediction_s: float
) -> None:
    bought = offer(_pace(0.1, scans_s=scans_s), _time(600), RULES)
    assert bought.mirror == mirror
    assert bought.prediction_s == pytest.approx(prediction_s)
    assert bought.training_s == pytest.approx(600 - prediction_s)


def test_prediction_may_leave_no_time() -> None:
    bought = offer(_pace(0.1, scans_s=1000), _time(600), RULES)
    assert (bought.training_s, bought.num_steps) == (0, 0)


@pytest.mark.parametrize(
    ("seconds", "width"),
    [(799, 16), (800, 32), (40, 16), (39, 8), (5, 8)],
)
def test_the_widest_network_with_enough_steps_is_taken(seconds: float, width: int) -> None:
    assert widest(_offers(seconds, 0.1, 0.2, 0.4), RULES).pace.base_features == width


def test_without_enough_steps_for_any_width_most_steps_count() -> None:
    assert widest(_offers(6, 0.3, 0.2, 0.4), RULES).pace.base_features == 16


@pytest.mark.parametrize(("seconds", "batch_size"), [(100, 2), (1999, 2), (2000, 4), (3999, 4), (4000, 7), (9e9, 7)])
def test_the_batch_grows_while_many_steps_remain(seconds: float, batch_size: int) -> None:
    paces = [_pace(step_s, batch_size=size) for size, step_s in ((2, 0.25), (4, 0.5), (7, 1.0))]
    offers = [offer(pace, _time(seconds), RULES) for pace in paces]
    assert largest_batch(offers, RULES).pace.batch_size == batch_size


@pytest.mark.parametrize(
    ("least", "most", "tried"), [(2, 2, (2,)), (2, 7, (2, 4, 7)), (2, 8, (2, 4, 8)), (1, 3, (1, 2, 3))]
)
def test_batches_double(least: int, most: int, tried: tuple[int, ...]) -> None:
    assert batches_to_try(least, most) == tried


@pytest.mark.parametrize(
    ("seconds", "epochs"),
    [(500, (100, 10, 50)), (10, (10, 1, 10)), (0.5, (10, 1, 1)), (2500, (250, 25, 100))],
)
def test_epochs_are_many_but_neither_short_nor_long(seconds: float, epochs: tuple[int, int, int]) -> None:
    assert epochs_of(offer(_pace(0.1), _time(seconds), RULES), RULES) == epochs


def test_a_budget_too_small_for_any_plan_is_refused_with_the_least_that_would_do() -> None:
    require_enough(_offers(5.0, 0.1, 0.2), _time(5.0), RULES)
    with pytest.raises(
        PlanError, match=re.escape("must buy 50 training steps, got time for 49 of 0.1 s. Give at least 10s.")
    ):
        require_enough(_offers(4.9, 0.1, 0.2), _time(4.9), RULES)
    shared = _time(4.9, num_trainings=5, spent_s=11)
    tried = [offer(_pace(0.1, scans_s=0.1), shared, RULES)]
    with pytest.raises(
        PlanError, match=r"in each of 5 trainings, got time for 9 of 0.1 s. Give at least 40s, or train fewer"
    ):
        require_enough(tried, shared, RULES)


def test_others_that_share_the_time_have_batches_of_their_own() -> None:
    reasons = Reasons(RULEBOOK, RULEBOOK.for_preset("cpu"), Overrides())
    choice = _choice(reasons, 600)
    usual = make_plan(SMALL, DATASET, RULEBOOK, "cpu", None, choice)
    assert usual.configurations["2d"].batch_size == 8
    offers = [offer(_pace(0.1 * size, batch_size=size), _time(600), RULES) for size in (2, 4, 8)]
    decided = batch_decision(reasons, "2d", "cpu, 2 threads", offers, largest_batch(offers, RULES))
    timed = choice.model_copy(update={"batches": {"2d": 2}, "decisions": (*choice.decisions, decided)})
    plan = make_plan(SMALL, DATASET, RULEBOOK, "cpu", None, timed)
    assert plan.configurations["2d"].batch_size == 2
    assert plan.configurations["3d_fullres"] == usual.configurations["3d_fullres"]
    (reason,) = [found.reason for found in plan.decisions if (found.configuration, found.name) == ("2d", "batch_size")]
    assert reason.startswith("The smallest, as a larger one would leave fewer than")


def _choice(reasons: Reasons, seconds: float) -> TimedChoice:
    time = _time(seconds).model_copy(update={"held_out": ("a", "b")})
    widths = [offer(_pace(0.1 * width / 8, width, scans_s=5.1), time, RULES) for width in RULES.widths]
    chosen = widest(widths, RULES)
    step_s = chosen.pace.step_s
    paces = [chosen.pace.model_copy(update={"batch_size": size, "step_s": step_s * size / 2}) for size in (2, 4)]
    batches = [offer(pace, time, RULES) for pace in paces]
    return choice_of(reasons, time, "cpu, 2 threads", widths, batches, largest_batch(batches, RULES))


def test_a_plan_for_a_budget_says_why() -> None:
    usual = make_plan(SMALL, DATASET, RULEBOOK)
    choice = _choice(Reasons(RULEBOOK, RULEBOOK.for_preset(usual.preset), Overrides()), 600)
    plan = make_plan(SMALL, DATASET, RULEBOOK, timed=choice)
    full = plan.configurations["3d_fullres"]
    assert (full.network.features[0], full.batch_size) == (choice.base_features, 2) == (16, 2)
    assert plan.training.steps_per_epoch == choice.steps_per_epoch
    assert plan.training.validation_steps == choice.validation_steps
    assert plan.training.num_epochs == choice.num_epochs
    assert plan.training.learning_rate == usual.training.learning_rate
    everything = explain(plan)
    for name in ("base_features", "batch_size", "steps_per_epoch", "validation_steps", "num_epochs", "mirror_held_out"):
        story = explain_value(plan, name)
        assert name in everything
        assert "budget." in story
        assert "autoseg" in story.rpartition("Source: ")[2]
    assert "8: needs 50 steps or more, buys 5923 steps of 2 patches of 40x56x40 voxels, 0.1 s each" in explain_value(
        plan, "base_features"
    )
    assert "The smallest, as a larger one would leave fewer than 4000 steps" in explain_value(plan, "batch_size")
    assert "Without them, it is 8 s." in explain_value(plan, "mirror_held_out")


def test_the_batch_of_a_budget_is_never_larger_than_memory_allows() -> None:
    usual = make_plan(SMALL, DATASET, RULEBOOK)
    choice = _choice(Reasons(RULEBOOK, RULEBOOK.for_preset(usual.preset), Overrides()), 600)
    plan = make_plan(
        SMALL, DATASET, RULEBOOK, timed=choice.model_copy(update={"base_features": 32, "batch_size": 1000})
    )
    assert plan.configurations == usual.configurations
    assert "memory" in explain_value(plan, "batch_size")


@pytest.mark.parametrize("width", [8, 16, 32])
def test_patches_are_as_large_as_at_the_width_of_the_preset(width: int) -> None:
    large = fingerprint_of([(1, 1, 1)] * 100, [(200, 200, 200)] * 100)
    usual = make_plan(large, DATASET, RULEBOOK, "cpu")
    choice = _choice(Reasons(RULEBOOK, RULEBOOK.for_preset("cpu"), Overrides()), 600)
    plan = make_plan(
        large, DATASET, RULEBOOK, "cpu", timed=choice.model_copy(update={"base_features": width, "batch_size": 2})
    )
    for name, configuration in plan.configurations.items():
        assert configuration.network.features[0] == width
        assert configuration.patch_size == usual.configurations[name].patch_size


def test_the_rules_of_the_package_are_in_order() -> None:
    rules = RULEBOOK.inferred.budget
    assert list(rules.widths) == sorted(rules.widths)
    assert list(rules.widths.values()) == sorted(rules.widths.values())
    assert rules.least_steps <= min(rules.widths.values())
    assert rules.min_steps_per_epoch < rules.max_steps_per_epoch
