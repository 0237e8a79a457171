"""What a run trains, and how it shares out its time."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.core.errors import InterruptionError, PlanError
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.pipeline import full_run
from autoseg.pipeline.budget import schedule
from autoseg.pipeline.budget.allocation import allocate, plan_for_time
from autoseg.pipeline.budget.paces import BudgetedRun
from autoseg.pipeline.budget.schedule import (
    Allocation,
    Contents,
    Share,
    allocation_table,
    contents_of,
    side_by_side_s,
    untimed_allocation,
    worth_running,
)
from autoseg.pipeline.jobs.side_by_side import SideBySide
from autoseg.pipeline.planning import costs
from autoseg.plan.costs import Costs
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan, Plan
from tests.end_to_end.blobs import write_blobs, write_tiny_rules

CASCADE: ConfigurationName = "3d_cascade_fullres"
ORDER: tuple[ConfigurationName, ...] = ("3d_fullres", "2d", "3d_lowres", CASCADE)
RULES = load_rulebook().empirical.run.model_copy(update={"order": ORDER})


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Plan]:
    """A plan of 2d and 3d_fullres, for three folds of two cases each."""
    folder = tmp_path_factory.mktemp("planned")
    workspace = Workspace(folder / "work")
    options = pipeline.PlanOptions("cpu", write_tiny_rules(folder / "rules"))
    data = pipeline.DataOptions(r"(pat\d+)_", 3, 0)
    return workspace, pipeline.plan(write_blobs(folder / "data"), workspace, data, options, Silent())


def _with_cascade(plan: Plan) -> Plan:
    """Return a plan that has all four configurations, by name alone."""
    full = plan.configurations["3d_fullres"]
    later = full.model_copy(update={"previous_stage": "3d_lowres"})
    added: dict[ConfigurationName, ConfigurationPlan] = {"3d_lowres": full, CASCADE: later}
    return plan.model_copy(update={"configurations": {**plan.configurations, **added}})


def test_all_that_the_rules_name_is_worth_running(planned: tuple[Workspace, Plan]) -> None:
    assert worth_running(planned[1], None, RULES) == ("3d_fullres", "2d")
    assert worth_running(_with_cascade(planned[1]), None, RULES) == ORDER


def test_a_cascade_brings_the_stage_before_it(planned: tuple[Workspace, Plan]) -> None:
    plan = _with_cascade(planned[1])
    assert worth_running(plan, [CASCADE, "2d"], RULES) == ("2d", "3d_lowres", CASCADE)


def test_what_the_plan_lacks_is_refused(planned: tuple[Workspace, Plan]) -> None:
    with pytest.raises(PlanError, match="must be one of"):
        worth_running(planned[1], ["3d_lowres"], RULES)
    with pytest.raises(PlanError, match=r"\[run.order\]: must name a configuration of the plan"):
        worth_running(planned[1], None, RULES.model_copy(update={"order": ("3d_lowres",)}))


def test_some_of_the_folds_mean_one_configuration_and_no_selection(planned: tuple[Workspace, Plan]) -> None:
    workspace, plan = planned
    some, all_of_them = (contents_of(workspace, plan, None, folds) for folds in ((1,), None))
    assert (some.configurations, some.folds, some.selects) == (("3d_fullres",), (1,), False)
    assert (all_of_them.configurations, all_of_them.folds) == (("3d_fullres", "2d"), (0, 1, 2))
    assert all_of_them.selects
    assert contents_of(workspace, plan, ["2d", "3d_fullres"], (1,)).configurations == ("3d_fullres", "2d")


def test_a_cascade_needs_all_folds_of_its_first_stage() -> None:
    contents = Contents(("3d_lowres", CASCADE), frozenset({"3d_lowres"}), (1,), (0, 1, 2))
    assert contents.folds_of("3d_lowres") == (0, 1, 2)
    assert contents.folds_of(CASCADE) == (1,)
    assert contents.num_trainings == 4


def test_the_table_says_what_is_trained_and_what_it_takes() -> None:
    share = Share(configuration="2d", num_trainings=5, training_s=600.0, num_steps=1200, prediction_s=60.0)
    lines = allocation_table(Allocation(shares=(share,), mirror=True)).splitlines()
    assert lines[1].split() == ["2d", "5", "10", "min", "1200", "60", "s", "51", "min"]
    assert lines[2].split() == ["all", "5", "51", "min"]
    lines = allocation_table(Allocation(shares=(share,), mirror=True, after_s=120.0)).splitlines()
    assert lines[2].split() == ["selection,", "pictures", "2", "min"]
    assert lines[3].split() == ["all", "5", "53", "min"]


@pytest.mark.parametrize(
    ("num_jobs", "seconds"),
    [
        (1, 5 * 600 + 5 * 300 + 5 * 100 + 60 + 6 + 4 + 20),
        (2, 3 * 600 + 2 * 300 + 3 * 100 + 60 + 6 + 4 + 20),
        (5, 600 + 300 + 100 + 60 + 6 + 4 + 20),
        (15, 600 + 100 + 60 + 6 + 4 + 20),
    ],
)
def test_what_runs_side_by_side_takes_its_wall_time(
    planned: tuple[Workspace, Plan], num_jobs: int, seconds: float
) -> None:
    """A cascade waits for the others, and predictions are made by one process."""
    shares = (
        Share(configuration="2d", num_trainings=5, training_s=600.0, num_steps=9, prediction_s=60.0),
        Share(configuration="3d_lowres", num_trainings=5, training_s=300.0, num_steps=9, prediction_s=6.0),
        Share(configuration=CASCADE, num_trainings=5, training_s=100.0, num_steps=9, prediction_s=0.0, stage_s=4.0),
    )
    allocation = Allocation(shares=shares, mirror=True, after_s=20.0)
    found_s = side_by_side_s(allocation, _with_cascade(planned[1]), partial(SideBySide(num_jobs).wall_s, device="cpu"))
    assert found_s == pytest.approx(seconds)
    last = allocation_table(allocation, 3000.0).splitlines()[-1]
    assert last.split() == ["all,", "side", "by", "side", "15", "50", "min"]


def test_what_was_not_timed_is_listed_without_times(planned: tuple[Workspace, Plan]) -> None:
    plan = planned[1]
    contents = Contents(("3d_fullres", "2d"), frozenset(), (0, 1), (0, 1, 2))
    allocation = untimed_allocation(plan, contents, 20)
    lines = [line.split() for line in allocation_table(allocation).splitlines()]
    steps = str(20 * plan.training.steps_per_epoch)
    assert lines == [
        ["trainings", "epochs", "each", "steps", "each"],
        ["3d_fullres", "2", "20", steps],
        ["2d", "2", "20", steps],
        ["all", "4"],
    ]


def test_a_run_on_a_cluster_times_nothing_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left as its trainings begin, with all done that comes before."""
    timed_on = []

    def costs_here(*given: object) -> Costs:
        timed_on.append(given[-1])
        return costs.costs_here(*given)  # type: ignore[arg-type]

    def train(*_: object) -> None:
        raise InterruptionError("training left")

    monkeypatch.setattr(schedule, "costs_here", costs_here)
    monkeypatch.setattr(full_run, "train_contents", train)
    caplog.set_level("INFO", "autoseg")
    request = pipeline.RunRequest(
        source=write_blobs(tmp_path / "data", num_cases=4),
        data=pipeline.DataOptions(None, 2, 0),
        planning=pipeline.PlanOptions("cpu", write_tiny_rules(tmp_path / "rules")),
        num_epochs=20,
        device="cpu",
        side_by_side=SideBySide(None, "slurm"),
    )
    with pytest.raises(InterruptionError):
        pipeline.run(Workspace(tmp_path / "work"), request, Silent())
    assert "Planned with the preset cpu. To train, 4 at a time; how long that takes is not known" in caplog.text
    assert "epochs each" in caplog.text
    assert timed_on == []
    for num_jobs, total in ((2, "  all, side by side  4 "), (1, "  all  ")):
        caplog.clear()
        with pytest.raises(InterruptionError):
            pipeline.run(Workspace(tmp_path / "work"), replace(request, side_by_side=SideBySide(num_jobs)), Silent())
        assert "Planned for cpu with the preset cpu. To train, as predicted" in caplog.text
        assert total in caplog.text
    assert timed_on == ["cpu"]


def _shared_out(folder: Path, source: Path, budget_s: float, min_steps: int) -> tuple[Workspace, Allocation]:
    """Return how a run of three folds of everything shares out a budget."""
    workspace = Workspace(folder / "work")
    rules = write_tiny_rules(folder / "rules")
    (rules / "empirical.toml").write_text(f"[run.min_steps]\nvalue = {min_steps}\n")
    time = pipeline.AskedTime(seconds=budget_s, covers="a run", device="cpu")
    options = pipeline.PlanOptions("cpu", rules, time=time)
    plan = pipeline.plan(source, workspace, pipeline.DataOptions(None, 3, 0), options, Silent())
    run = BudgetedRun(contents_of(workspace, plan, None, None), "cpu", 0, budget_s, lambda: 10.0)
    allocation = allocate(workspace, run, plan_for_time(workspace, run))
    again = plan_for_time(workspace, run)
    assert allocate(workspace, run, again) == allocation
    assert [share.configuration for share in allocation.shares] == list(again.configurations)
    return workspace, allocation


@pytest.mark.slow
def test_a_budget_is_shared_out_and_too_little_of_it_leaves_out_the_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_blobs(tmp_path / "data")
    _, ample = _shared_out(tmp_path / "ample", source, 20_000.0, min_steps=1)
    first, second = ample.shares
    assert (first.configuration, second.configuration) == ("3d_fullres", "2d")
    assert first.training_s == pytest.approx(2 * second.training_s)
    assert sum(share.seconds for share in ample.shares) == pytest.approx(20_000.0 - 10)

    caplog.set_level("INFO", "autoseg")
    workspace, scarce = _shared_out(tmp_path / "scarce", source, 20_000.0, min_steps=10**9)
    assert [share.configuration for share in scarce.shares] == ["3d_fullres"]
    assert "Left out for the budget: 2d" in caplog.text
    timing = pipeline.Planning.load(workspace.planning).timing
    assert timing is not None
    assert timing.budget.shared_with == ()
