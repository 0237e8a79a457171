"""How a run shares out its budget of time, and the plan that makes the most of it."""

import logging
import time
from dataclasses import replace
from pathlib import Path

import torch

from autoseg.core.artefact import digest_of
from autoseg.core.errors import PlanError
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.image import read_image
from autoseg.fingerprint import Fingerprint
from autoseg.infer.case import Model, default_settings
from autoseg.infer.predictor import Predictor
from autoseg.network.device import choose_device, threads
from autoseg.network.unet import UNet, place
from autoseg.pipeline.budget.paces import BudgetedRun, Paces, all_cases, held_out_by, parts, scans_of, training_parts
from autoseg.pipeline.budget.schedule import Allocation, Contents, Share
from autoseg.pipeline.planning.prepare import (
    Planning,
    load_plan,
    plan_asked,
    timed,
    timed_batches,
    with_small_batches,
)
from autoseg.pipeline.planning.timing import Timing
from autoseg.plan.budget import TimeBudget, too_short
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.rules import RunRules
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.plan.tiling import tiles_of

log = logging.getLogger(__name__)


def plan_for_time(workspace: Workspace, run: BudgetedRun) -> Contents:
    """Make the plan that makes the most of what is left of a run's budget, once; return what is trained by it.

    The networks are planned for the first configuration alone. Others are taken up, in their order, while every
    training gets enough steps at the pace of these networks with small batches; then the plan is made anew for the
    first one's part, and the others get the batch that suits theirs.

    Raises:
        PlanError: If what is left is too short for any plan.

    Source:
        rules/empirical.toml [run].
    """
    asked = Planning.load(workspace.planning)
    if asked.timing is not None:
        kept = (asked.timing.budget.configuration, *asked.timing.budget.shared_with)
        return run.contents.only(kept, load_plan(workspace))
    first, *_ = run.contents.configurations
    alone_s = run.after_s(run.contents.only([first], load_plan(workspace)), load_rulebook(asked.rules).empirical.run)
    spent_s = run.elapsed_s() + alone_s
    left_s = max(run.budget_s - spent_s, 0.0)
    budget = TimeBudget(
        configuration=first,
        seconds=left_s,
        spent_s=spent_s,
        num_trainings=run.num_rounds(len(run.contents.folds_of(first))),
        held_out=held_out_by(workspace, run),
    )
    found = _planned(workspace, asked, budget)
    found, kept = _affordable(workspace, found, run)
    if len(kept) > 1:
        rules = load_rulebook(asked.rules)
        more_s = run.after_s(run.contents.only(kept, load_plan(workspace)), rules.empirical.run) - alone_s
        part_s = parts(kept, rules)[first] * max(left_s - more_s, 0.0)
        found = _planned(workspace, found, budget.model_copy(update={"seconds": part_s, "shared_with": kept[1:]}))
        found = _with_batches(workspace, found, run)
    found.save(workspace.planning)
    return run.contents.only(kept, load_plan(workspace))


def _planned(workspace: Workspace, asked: Planning, budget: TimeBudget) -> Planning:
    """Write the plan for a budget; return how it was made."""
    found = timed(asked, Fingerprint.load(workspace.fingerprint), Dataset.load(workspace.dataset), budget)
    _plan_of(workspace, found).save(workspace.plan)
    return found


def _plan_of(workspace: Workspace, asked: Planning) -> Plan:
    return plan_asked(Fingerprint.load(workspace.fingerprint), Dataset.load(workspace.dataset), asked)


def _affordable(
    workspace: Workspace, asked: Planning, run: BudgetedRun
) -> tuple[Planning, tuple[ConfigurationName, ...]]:
    """Return the first configurations of a run, as many as get enough steps in each training with small batches.

    What was timed for that comes with how the plan was made.
    """
    names, rulebook = run.contents.configurations, load_rulebook(asked.rules)
    if len(names) == 1:
        return asked, names
    assert asked.timing is not None
    small = _plan_of(workspace, with_small_batches(asked, names[1:]))
    paces = Paces.measured(workspace, small, asked.timing, run, rulebook)
    asked = asked.model_copy(update={"timing": asked.timing.model_copy(update={"speed": paces.speed})})
    for number in range(len(names), 1, -1):
        contents = run.contents.only(names[:number], paces.plan)
        steps = paces.num_steps(paces.training_s(run, contents, rulebook))
        poor = [f"{name} {found}" for name, found in steps.items() if found < rulebook.empirical.run.min_steps]
        if not poor:
            return asked, names[:number]
        log.info(
            "Left out for the budget: %s. With it, trainings would get fewer than %d steps: %s"
            " (rules/empirical.toml [run.min_steps]).",
            names[number - 1],
            rulebook.empirical.run.min_steps,
            ", ".join(poor),
        )
    return asked, names[:1]


def _with_batches(workspace: Workspace, asked: Planning, run: BudgetedRun) -> Planning:
    """Write the plan in which each further configuration has the batch that suits its part; return how it was made."""
    assert asked.timing is not None
    planned, rulebook = load_plan(workspace), load_rulebook(asked.rules)
    budget = asked.timing.budget
    contents = run.contents.only((budget.configuration, *budget.shared_with), planned)
    paces = Paces.measured(workspace, planned, asked.timing, replace(run, contents=contents), rulebook)
    lengths_s = paces.training_s(run, contents, rulebook)
    further_s = {name: seconds for name, seconds in lengths_s.items() if name != budget.configuration}
    found = timed_batches(asked, planned, further_s)
    _plan_of(workspace, found).save(workspace.plan)
    return found


def allocate(workspace: Workspace, run: BudgetedRun, contents: Contents) -> Allocation:
    """Return what each training may take: the budget, less what is spent and what prediction will take.

    Prediction is measured on a case, with an untrained network of each configuration.

    Args:
        workspace: Of the plan.
        run: Its budget.
        contents: What is trained.

    Raises:
        PlanError: If nothing worth the name is left for a training.
    """
    planned, asked = load_plan(workspace), Planning.load(workspace.planning)
    request = [run.budget_s, contents.configurations, contents.folds, run.device, run.seed]
    made_from = {
        "planning": digest_of(asked.model_dump(mode="json", exclude={"fitted"})),
        "request": digest_of(request),
    }
    if workspace.allocation.exists():
        kept = Allocation.load(workspace.allocation)
        if kept.made_from == made_from:
            return kept
    assert asked.timing is not None
    rulebook = load_rulebook(asked.rules)
    rules = rulebook.empirical.run
    paces = Paces.measured(workspace, planned, asked.timing, replace(run, contents=contents), rulebook)
    predictions_s, stages_s = _predictions_s(workspace, run, contents, asked.timing, rules)
    after_s = run.after_s(contents, rules)
    each = training_parts(planned, contents, run, rulebook)
    set_aside_s = sum(predictions_s.values()) + sum(stages_s.values()) + after_s + run.starting_s(contents, rules)
    left_s = run.budget_s - run.elapsed_s() - set_aside_s
    shares = []
    for name in contents.configurations:
        number = len(contents.folds_of(name))
        training_s = each[name] * left_s
        num_steps = max(int(training_s / paces.step_s[name]), 0)
        if num_steps < paces.rules.least_steps:
            least_s = run.budget_s - left_s + paces.rules.least_steps * paces.step_s[name] / each[name]
            raise PlanError(too_short(least_s, number, paces.step_s[name], num_steps, paces.rules))
        shares.append(
            Share(
                configuration=name,
                num_trainings=number,
                training_s=training_s,
                num_steps=num_steps,
                prediction_s=predictions_s[name],
                stage_s=stages_s[name],
            )
        )
    allocation = Allocation(
        made_from=made_from,
        shares=tuple(shares),
        mirror=asked.timing.choice.mirror,
        budget_s=run.budget_s,
        after_s=after_s,
    )
    allocation.save(workspace.allocation)
    return allocation


def _predictions_s(
    workspace: Workspace, run: BudgetedRun, contents: Contents, timing: Timing, rules: RunRules
) -> tuple[dict[ConfigurationName, float], dict[ConfigurationName, float]]:
    """Return the seconds to set aside for held-out cases, and those for what a cascade's first training begins with."""
    planned = load_plan(workspace)
    predictions_s, stages_s = {}, {}
    for name in contents.configurations:
        predictions_s[name] = rules.prediction_margin * _prediction_s(workspace, name, run, timing)
        stage = planned.configurations[name].previous_stage
        stages_s[name] = 0.0
        if stage is not None:
            one_pass_s = _prediction_s(workspace, stage, run, timing)
            stages_s[name] = rules.prediction_margin * all_cases(workspace, run) * one_pass_s
    return predictions_s, stages_s


def _prediction_s(workspace: Workspace, name: ConfigurationName, run: BudgetedRun, timing: Timing) -> float:
    """Return the seconds of predicting the held-out cases: one is measured, the others are so many times its tiles."""
    planned = load_plan(workspace)
    scans = scans_of(workspace, planned, name, run, timing.speed)
    tiles = {case: tiles_of(planned.configurations[name], scan) for case, scan in scans.items()}
    measured = sorted(tiles, key=lambda case: tiles[case])[len(tiles) // 2]
    case = next(case for case in Dataset.load(workspace.dataset).cases if case.name == measured)
    files = [Path(path) for path in case.images]
    device = choose_device(run.device)
    settings = replace(default_settings(device, planned.configurations[name]), mirror=timing.choice.mirror)
    predictor = Predictor(_untrained(planned, name, device), settings)
    with threads(run.num_threads or torch.get_num_threads()):
        predictor.predict(read_image(files))
        began = time.monotonic()
        predictor.predict(read_image(files))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.monotonic() - began) * sum(tiles.values()) / tiles[measured]


def _untrained(planned: Plan, name: ConfigurationName, device: torch.device) -> Model:
    """Return an untrained network of a configuration, in a cascade with one of the stage before it."""
    configuration = planned.configurations[name]
    stage = configuration.previous_stage
    earlier = None if stage is None else _untrained(planned, stage, device)
    return Model(planned, configuration, (place(UNet(configuration.network), device).eval(),), earlier)
