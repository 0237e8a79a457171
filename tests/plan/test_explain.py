import pytest

from autoseg.core.errors import PlanError
from autoseg.plan.cost import num_parameters
from autoseg.plan.explain import compare_plans, explain, explain_value, list_rules
from autoseg.plan.overrides import Overrides
from autoseg.plan.planner import make_plan
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationName, Decision, Plan
from tests.plan.published_case import fingerprint_of, published

RULEBOOK = load_rulebook()
FINGERPRINT, LIVER, _ = published("liver")
PLAN = make_plan(FINGERPRINT, LIVER, RULEBOOK)


def _decision(plan: Plan, configuration: ConfigurationName | None, name: str) -> Decision:
    (found,) = [entry for entry in plan.decisions if (entry.configuration, entry.name) == (configuration, name)]
    return found


def test_every_value_of_a_configuration_has_a_decision() -> None:
    for name, configuration in PLAN.configurations.items():
        assert _decision(PLAN, name, "patch_size").value == list(configuration.patch_size)
        assert _decision(PLAN, name, "batch_size").value == configuration.batch_size
        assert _decision(PLAN, name, "topology").rules["topology.min_edge"] == 4
        assert _decision(PLAN, name, "batch_dice").value is configuration.batch_dice
        cost = _decision(PLAN, name, "cost").value
        assert isinstance(cost, dict)
        assert cost["parameters"] == num_parameters(configuration.network)


def test_each_shrinking_step_is_told_with_its_cost() -> None:
    decision = _decision(PLAN, "3d_fullres", "patch_size")
    assert decision.alternatives[0].value == [224, 320, 320]
    assert "million exceed 1,360 million; axis" in decision.alternatives[0].outcome
    story = explain_value(PLAN, "patch_size")
    assert "patch_size of 3d_fullres: 128 x 128 x 128" in story
    assert f"after {len(decision.alternatives)} steps from 224x320x320" in story
    assert "1. 224 x 320 x 320: " in story
    assert "sizing.reference_elements_3d = 6.8e+08" in story
    assert "reference_elements_2d" not in story.split("patch_size of 3d_fullres")[1].split("patch_size of")[0]


def test_the_overview_names_every_configuration_and_reason() -> None:
    text = explain(PLAN)
    assert all(f"\n{name}\n" in text for name in PLAN.configurations)
    assert "CT: ct, by its name" in text
    assert "a coarser configuration is added" in text
    assert all(entry.reason in text for entry in PLAN.decisions)


def test_an_unknown_value_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PlanError, match=r"must be one of spacing, .*patch_size.*, got 'patch'"):
        explain_value(PLAN, "patch")


def test_a_coarse_axis_is_explained_with_the_median_it_gave_up() -> None:
    spacings = [(2, 1, 1), *[(8, 1, 1)] * 9]
    decision = _decision(make_plan(fingerprint_of(spacings, [(12, 200, 200)] * 10, ["CT"]), LIVER, RULEBOOK),
                         None, "spacing")  # fmt: skip
    assert "z is more than 3 times coarser" in decision.reason
    assert decision.alternatives[0].value == [8, 1, 1]


@pytest.mark.parametrize(
    ("overrides", "configuration", "name", "option"),
    [
        (Overrides(spacing=(2, 2, 2)), None, "spacing", "--spacing"),
        (Overrides(patch_size=(64, 64, 64)), "3d_fullres", "patch_size", "--patch-size"),
        (Overrides(batch_size=3), "2d", "batch_size", "--batch-size"),
    ],
)
def test_what_the_user_set_is_told(
    overrides: Overrides, configuration: ConfigurationName | None, name: str, option: str
) -> None:
    plan = make_plan(FINGERPRINT, LIVER, RULEBOOK, None, overrides)
    assert f"Set by the user with {option}." in _decision(plan, configuration, name).reason


def test_equal_plans_have_no_difference() -> None:
    assert compare_plans(PLAN, PLAN) == "The plans are equal."


def test_a_difference_is_told_with_the_rule_that_made_it() -> None:
    large = make_plan(FINGERPRINT, LIVER, RULEBOOK, "residual-l")
    text = compare_plans(PLAN, large)
    assert "3d_fullres, patch_size: 128 x 128 x 128 here" in text
    assert "    rule sizing.reference_elements_3d: 6.8e+08 here, 2.1e+09 there" in text
    longer = large.model_copy(update={"training": large.training.model_copy(update={"num_epochs": 2000})})
    assert compare_plans(large, longer) == "training, num_epochs: 1000 here, 2000 there"


def test_a_difference_is_told_with_the_input_that_made_it() -> None:
    text = compare_plans(PLAN, make_plan(FINGERPRINT, LIVER, RULEBOOK, None, Overrides(gpu_memory_gb=24)))
    assert "    input memory, GB: 8 here, 24 there" in text
    assert "    rule sizing.gpu_memory_gb: 8 here, 24 there" in text


def test_a_configuration_that_only_one_plan_has_is_told() -> None:
    other = make_plan(FINGERPRINT, LIVER, RULEBOOK, None, Overrides(spacing=(2.5, 2.5, 2.5)))
    assert "3d_lowres, patch_size: 128 x 128 x 128, absent in the other plan" in compare_plans(PLAN, other)
    assert "3d_lowres, patch_size: absent, 128 x 128 x 128 in the other plan" in compare_plans(other, PLAN)


def test_all_rules_are_listed_with_unit_reason_and_source() -> None:
    text = list_rules(RULEBOOK)
    assert "sizing.gpu_memory_gb = 8 GB\n    Memory of the device" in text
    assert "Preset residual (default)" in text
    assert all(key in text for key in RULEBOOK.entries)
