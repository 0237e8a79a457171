"""How a run shares out its budget of time, and the plan that makes the most of it."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autoseg.core.artefact import digest_of
from autoseg.core.errors import PlanError
from autoseg.core.workspace import ALL_DATA, Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.image import read_image
from autoseg.fingerprint import Fingerprint
from autoseg.infer.case import Model, default_settings
from autoseg.infer.predictor import Predictor
from autoseg.network.device import choose_device
from autoseg.network.unet import UNet, place
from autoseg.pipeline.budget.reserve import ScoringPace, after_prediction_s
from autoseg.pipeline.budget.schedule import Allocation, Contents, Share
from autoseg.pipeline.planning.folds import load_split
from autoseg.pipeline.planning.prepare import Planning, load_plan, plan_asked, timed
from autoseg.pipeline.planning.speed import speed_of
from autoseg.pipeline.planning.timing import Timing
from autoseg.plan.budget import TimeBudget, predicted_pace, step_with_validation_s, too_short
from autoseg.plan.costs import scan_of_case
from autoseg.plan.duration import DeviceSpeed
from autoseg.plan.orientation import turned_fingerprint
from autoseg.plan.rulebook import Rulebook, load_rulebook
from autoseg.plan.rules import BudgetRules, RunRules
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.plan.tiling import Scan, tiles_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BudgetedRun:
    """A run that must end in time.

    Attributes:
        contents: What it would train if there were time for all of it.
        device: See `choose_device`.
        seed: Of the trainings.
        budget_s: Seconds for everything.
        elapsed_s: Returns the seconds that are gone.
        together_s: Returns the seconds that trainings take together, from those that each takes, in their order.
        num_workers: Processes that score.
        scoring: Returns how fast one of them does; None takes no time for it.
    """

    contents: Contents
    device: str
    seed: int
    budget_s: float
    elapsed_s: Callable[[], float]
    together_s: Callable[[Sequence[float]], float] = sum
    num_workers: int = 0
    scoring: Callable[[], ScoringPace] | None = None

    def after_s(self, contents: Contents, rules: RunRules) -> float:
        """Return the seconds to set aside for scores, selection and pictures."""
        if self.scoring is None:
            return 0.0
        return after_prediction_s(contents, self.scoring(), self.num_workers, rules)

    def num_rounds(self, num_trainings: int) -> int:
        """Return how many trainings of the same length follow each other, where others run beside them."""
        return round(self.together_s([1.0] * num_trainings))


def plan_for_time(workspace: Workspace, run: BudgetedRun) -> Contents:
    """Make the plan that makes the most of what is left of a run's budget, once; return what is trained by it.

    The networks are planned for the first configuration alone. Others are taken up, in their order, while every
    training gets enough steps at the pace of these networks; then the plan is made anew for the first one's part.

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
        held_out=_held_out(workspace, run),
    )
    alone = _planned(workspace, asked, budget)
    kept = _affordable(workspace, alone, run)
    if len(kept) > 1:
        rules = load_rulebook(asked.rules)
        more_s = run.after_s(run.contents.only(kept, load_plan(workspace)), rules.empirical.run) - alone_s
        part_s = _parts(kept, rules)[first] * max(left_s - more_s, 0.0)
        alone = _planned(workspace, asked, budget.model_copy(update={"seconds": part_s, "shared_with": kept[1:]}))
    alone.save(workspace.planning)
    return run.contents.only(kept, load_plan(workspace))


def _planned(workspace: Workspace, asked: Planning, budget: TimeBudget) -> Planning:
    """Write the plan for a budget; return how it was made."""
    dataset, fingerprint = Dataset.load(workspace.dataset), Fingerprint.load(workspace.fingerprint)
    found = timed(asked, fingerprint, dataset, budget)
    plan_asked(fingerprint, dataset, found).save(workspace.plan)
    return found


def _parts(names: Sequence[ConfigurationName], rulebook: Rulebook) -> dict[ConfigurationName, float]:
    """Return the part of the time of each configuration; they add up to 1."""
    shares = {name: rulebook.empirical.run.shares[name] for name in names}
    return {name: share / sum(shares.values()) for name, share in shares.items()}


def _affordable(workspace: Workspace, asked: Planning, run: BudgetedRun) -> tuple[ConfigurationName, ...]:
    """Return the first configurations of a run, as many as get enough steps in each training."""
    names, rulebook = run.contents.configurations, load_rulebook(asked.rules)
    if len(names) == 1:
        return names
    paces = _Paces.measured(workspace, asked, run, rulebook)
    for number in range(len(names), 1, -1):
        contents = run.contents.only(names[:number], paces.plan)
        steps = paces.num_steps(run, contents, rulebook)
        poor = [f"{name} {found}" for name, found in steps.items() if found < rulebook.empirical.run.min_steps]
        if not poor:
            return names[:number]
        log.info(
            "Left out for the budget: %s. With it, trainings would get fewer than %d steps: %s"
            " (rules/empirical.toml [run.min_steps]).",
            names[number - 1],
            rulebook.empirical.run.min_steps,
            ", ".join(poor),
        )
    return names[:1]


@dataclass(frozen=True)
class _Paces:
    """How fast a device works with each configuration of a plan, as predicted.

    Attributes:
        plan: The plan.
        step_s: Seconds of a training step with its share of validation.
        scans_s: Seconds of predicting the held-out cases once, without mirror images.
        stages_s: Seconds in which the stage before in a cascade predicts all cases with mirror images, for training.
        rules: Constants.
    """

    plan: Plan
    step_s: dict[ConfigurationName, float]
    scans_s: dict[ConfigurationName, float]
    stages_s: dict[ConfigurationName, float]
    rules: BudgetRules

    @classmethod
    def measured(cls, workspace: Workspace, asked: Planning, run: BudgetedRun, rulebook: Rulebook) -> "_Paces":
        """Return the paces of a run's configurations; layers that were not timed yet are timed."""
        planned, timing = load_plan(workspace), asked.timing
        assert timing is not None
        inferred = rulebook.for_preset(planned.preset).inferred
        configurations = {name: planned.configurations[name] for name in run.contents.configurations}
        speed = speed_of(choose_device(run.device), configurations.values(), timing.speed)
        paces = {
            name: predicted_pace(
                configuration, list(_scans(workspace, planned, name, run, speed).values()), speed, inferred.cost
            )
            for name, configuration in configurations.items()
        }
        stages = {name: chosen.previous_stage for name, chosen in configurations.items()}
        stages_s = {
            name: 0.0 if stage is None else _all_cases(workspace, run) * paces[stage].mirrored_scans_s
            for name, stage in stages.items()
        }
        scans_s = {
            name: paces[name].scans_s + (0.0 if stage is None else paces[stage].scans_s)
            for name, stage in stages.items()
        }
        steps_s = {name: step_with_validation_s(pace, inferred.budget) for name, pace in paces.items()}
        return cls(planned, steps_s, scans_s, stages_s, inferred.budget)

    def num_steps(self, run: BudgetedRun, contents: Contents, rulebook: Rulebook) -> dict[ConfigurationName, int]:
        """Return the steps of each training that the rest of a budget buys, by configuration."""
        names = contents.configurations
        predictions_s = sum(self.scans_s[name] + self.stages_s[name] for name in names)
        set_aside_s = self.rules.prediction_margin * predictions_s + run.after_s(contents, rulebook.empirical.run)
        left_s = max(run.budget_s - run.elapsed_s() - set_aside_s, 0.0)
        parts = _training_parts(self.plan, contents, run, rulebook)
        return {name: int(parts[name] * left_s / self.step_s[name]) for name in names}


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
    made_from = {"plan": planned.digest(), "request": digest_of(request)}
    if workspace.allocation.exists():
        kept = Allocation.load(workspace.allocation)
        if kept.made_from == made_from:
            return kept
    assert asked.timing is not None
    rulebook = load_rulebook(asked.rules)
    paces = _Paces.measured(workspace, asked, replace(run, contents=contents), rulebook)
    predictions_s, stages_s = _predictions_s(workspace, run, contents, asked.timing, rulebook.empirical.run)
    after_s = run.after_s(contents, rulebook.empirical.run)
    parts = _training_parts(planned, contents, run, rulebook)
    left_s = run.budget_s - run.elapsed_s() - sum(predictions_s.values()) - sum(stages_s.values()) - after_s
    shares = []
    for name in contents.configurations:
        number = len(contents.folds_of(name))
        training_s = parts[name] * left_s
        num_steps = max(int(training_s / paces.step_s[name]), 0)
        if num_steps < paces.rules.least_steps:
            least_s = run.budget_s - left_s + paces.rules.least_steps * paces.step_s[name] / parts[name]
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


def _training_parts(
    planned: Plan, contents: Contents, run: BudgetedRun, rulebook: Rulebook
) -> dict[ConfigurationName, float]:
    """Return the part of the time of each single training, by configuration; together they take all of it."""
    parts = {
        name: part / len(contents.folds_of(name)) for name, part in _parts(contents.configurations, rulebook).items()
    }
    total = 0.0
    for is_later in (False, True):
        names = [
            name
            for name in contents.configurations
            if (planned.configurations[name].previous_stage is not None) == is_later
        ]
        total += run.together_s([parts[name] for name in names for _ in contents.folds_of(name)])
    return {name: part / total for name, part in parts.items()}


def _predictions_s(
    workspace: Workspace, run: BudgetedRun, contents: Contents, timing: Timing, rules: RunRules
) -> tuple[dict[ConfigurationName, float], dict[ConfigurationName, float]]:
    """Return the seconds to set aside for held-out cases, and those for what a cascade's first training begins with."""
    planned = load_plan(workspace)
    mirror = timing.choice.mirror
    predictions_s, stages_s = {}, {}
    for name in contents.configurations:
        predictions_s[name] = rules.prediction_margin * _prediction_s(workspace, name, run, timing, mirror=mirror)
        stage = planned.configurations[name].previous_stage
        stages_s[name] = 0.0
        if stage is not None:
            one_pass_s = _prediction_s(workspace, stage, run, timing, mirror=True)
            stages_s[name] = rules.prediction_margin * _all_cases(workspace, run) * one_pass_s
    return predictions_s, stages_s


def _all_cases(workspace: Workspace, run: BudgetedRun) -> float:
    """Return how many times as many labelled cases there are as the folds of a run hold out."""
    return len(load_split(workspace, ALL_DATA).validation) / max(len(_held_out(workspace, run)), 1)


def _held_out(workspace: Workspace, run: BudgetedRun) -> tuple[str, ...]:
    """Return the names of the cases that the folds of a run hold out."""
    return tuple(sorted(name for fold in run.contents.folds for name in load_split(workspace, fold).validation))


def _scans(
    workspace: Workspace, planned: Plan, name: ConfigurationName, run: BudgetedRun, speed: DeviceSpeed
) -> dict[str, Scan]:
    """Return the held-out cases as a configuration sees them, by name."""
    held_out = set(_held_out(workspace, run))
    cases = turned_fingerprint(Fingerprint.load(workspace.fingerprint), planned.orientation).cases
    configuration = planned.configurations[name]
    return {
        case.name: scan_of_case(planned, configuration, case, speed.arithmetic)
        for case in cases
        if case.name in held_out
    }


def _prediction_s(
    workspace: Workspace, name: ConfigurationName, run: BudgetedRun, timing: Timing, *, mirror: bool
) -> float:
    """Return the seconds of predicting the held-out cases: one is measured, the others are so many times its tiles."""
    planned = load_plan(workspace)
    scans = _scans(workspace, planned, name, run, timing.speed)
    tiles = {case: tiles_of(planned.configurations[name], scan) for case, scan in scans.items()}
    measured = sorted(tiles, key=lambda case: tiles[case])[len(tiles) // 2]
    case = next(case for case in Dataset.load(workspace.dataset).cases if case.name == measured)
    files = [Path(path) for path in case.images]
    device = choose_device(run.device)
    settings = replace(default_settings(device, planned.configurations[name]), mirror=mirror)
    predictor = Predictor(_untrained(planned, name, device), settings)
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
