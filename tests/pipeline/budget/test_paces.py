"""What the time of a run buys on a device that takes ever longer: further configurations, and their batches."""

import os
from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.pipeline.budget.allocation import plan_for_time
from autoseg.pipeline.budget.paces import BudgetedRun
from autoseg.pipeline.budget.schedule import Contents, contents_of
from autoseg.pipeline.planning import speed
from autoseg.plan.overrides import Overrides
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import Plan
from tests.end_to_end.blobs import write_blobs, write_tiny_rules
from tests.pipeline.devices import FakeDevice

RULES = """
[batch_size.max_dataset_share]
value = 1.0
[budget.min_steps_of_more_patches]
value = 2000
"""


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    fake = FakeDevice()
    monkeypatch.setattr(speed, "probe_device", fake.probe)
    return fake


def _planned(folder: Path, budget_s: float, overrides: Overrides | None = None) -> tuple[Workspace, Contents]:
    """Plan a run of three folds of everything for its time."""
    workspace = Workspace(folder / "work")
    rules = write_tiny_rules(folder / "rules")
    (rules / "inferred.toml").write_text(RULES)
    (rules / "empirical.toml").write_text("[run.min_steps]\nvalue = 200\n")
    time = pipeline.AskedTime(seconds=budget_s, covers="a run", device="cpu")
    options = pipeline.PlanOptions("cpu", rules, overrides or Overrides(), time)
    source = folder / "data" if (folder / "data").exists() else write_blobs(folder / "data")
    plan = pipeline.plan(source, workspace, pipeline.DataOptions(None, 3, 0), options, Silent())
    run = BudgetedRun(contents_of(workspace, plan, None, None), "cpu", 0, budget_s, lambda: 0.0)
    return workspace, plan_for_time(workspace, run)


def _reason(plan: Plan) -> str:
    """Return why the batch of 2d is what it is."""
    reasons = [found.reason for found in plan.decisions if (found.configuration, found.name) == ("2d", "batch_size")]
    return reasons[0]


def test_each_configuration_has_the_batch_that_suits_its_time(tmp_path: Path, device: FakeDevice) -> None:
    workspace, contents = _planned(tmp_path / "short", 300.0)
    assert contents.configurations == ("3d_fullres", "2d")
    plan = pipeline.load_plan(workspace)
    assert plan.configurations["2d"].batch_size == 2
    assert "as a larger one would leave fewer than 2000 steps" in _reason(plan)

    workspace, contents = _planned(tmp_path / "long", 60_000.0)
    assert contents.configurations == ("3d_fullres", "2d")
    assert pipeline.load_plan(workspace).configurations["2d"].batch_size == 8


def test_a_batch_of_the_user_stays(tmp_path: Path, device: FakeDevice) -> None:
    workspace, _ = _planned(tmp_path, 300.0, Overrides(batch_size=4))
    plan = pipeline.load_plan(workspace)
    assert {chosen.batch_size for chosen in plan.configurations.values()} == {4}
    assert "Set by the user" in _reason(plan)


def test_a_touched_file_changes_nothing(tmp_path: Path, device: FakeDevice) -> None:
    workspace, _ = _planned(tmp_path, 300.0)
    planning, num_layers = pipeline.Planning.load(workspace.planning), device.num_layers
    os.utime(min((tmp_path / "data" / "labels").iterdir()))
    again, _ = _planned(tmp_path, 300.0)
    assert pipeline.Planning.load(again.planning) == planning
    assert device.num_layers == num_layers


def test_processes_beside_each_other_take_time_to_start() -> None:
    contents = Contents(("2d",), frozenset(), (0, 1, 2), (0, 1, 2))
    rules = load_rulebook().empirical.run.model_copy(update={"starting_workers_s": 5.0})
    one_by_one = BudgetedRun(contents, "cpu", 0, 60.0, lambda: 0.0)
    two = BudgetedRun(contents, "cpu", 0, 60.0, lambda: 0.0, together_s=lambda lengths: 2 * max(lengths))
    assert (one_by_one.starting_s(contents, rules), two.starting_s(contents, rules)) == (0.0, 10.0)
