"""How a run shares out its budget of time, and the plan that makes the most of it."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autoseg.core.artefact import Artefact, digest_of
from autoseg.core.errors import PlanError
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.image import Image, read_image
from autoseg.fingerprint import Fingerprint
from autoseg.infer.case import Model, default_settings
from autoseg.infer.predictor import Predictor
from autoseg.network.device import choose_device
from autoseg.network.unet import UNet
from autoseg.pipeline.prepare import Planning, load_plan, plan_asked, timed
from autoseg.pipeline.timing import Timing
from autoseg.pipeline.training import load_split
from autoseg.plan.budget import TimeBudget, TimedChoice, too_short
from autoseg.plan.costs import scan_of_case
from autoseg.plan.orientation import turned_fingerprint
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.plan.tiling import tiles_of

log = logging.getLogger(__name__)


class Allocation(Artefact):
    """How a run shares out its budget; kept, so that a run that was broken off goes on with the same shares.

    Attributes:
        training_s: For each fold, in seconds.
        prediction_s: Set aside for the held-out cases of each fold, in seconds.
        mirror: Whether these are averaged over their mirror images.
    """

    training_s: float
    prediction_s: float
    mirror: bool


@dataclass(frozen=True)
class BudgetedRun:
    """A run that must end in time.

    Attributes:
        configuration: That is trained.
        folds: That are trained.
        device: See `choose_device`.
        seed: Of the trainings.
        budget_s: Seconds for everything.
        elapsed_s: Returns the seconds that are gone.
    """

    configuration: ConfigurationName
    folds: tuple[int, ...]
    device: str
    seed: int
    budget_s: float
    elapsed_s: Callable[[], float]


def plan_for_time(workspace: Workspace, run: BudgetedRun) -> Plan:
    """Return the plan that makes the most of what is left of a run's budget; it is made once, and written.

    Raises:
        PlanError: If what is left is too short for any plan.
    """
    asked = Planning.load(workspace.planning)
    if asked.timing is not None:
        return load_plan(workspace)
    dataset, fingerprint = Dataset.load(workspace.dataset), Fingerprint.load(workspace.fingerprint)
    spent_s = run.elapsed_s()
    budget = TimeBudget(
        configuration=run.configuration,
        seconds=max(run.budget_s - spent_s, 0.0),
        spent_s=spent_s,
        num_trainings=len(run.folds),
        held_out=_held_out(workspace, run),
    )
    asked = timed(asked, fingerprint, dataset, budget)
    planned = plan_asked(fingerprint, dataset, asked)
    asked.save(workspace.planning)
    planned.save(workspace.plan)
    return planned


def allocate(workspace: Workspace, planned: Plan, run: BudgetedRun) -> Allocation:
    """Return what each training may take: the budget, less what is spent and what prediction will take.

    Prediction is measured on a case, with an untrained network.

    Raises:
        PlanError: If nothing worth the name is left for training.
    """
    request = [run.budget_s, run.folds, run.configuration, run.device, run.seed]
    made_from = {"plan": planned.digest(), "request": digest_of(request)}
    if workspace.allocation.exists():
        kept = Allocation.load(workspace.allocation)
        if kept.made_from == made_from:
            return kept
    asked = Planning.load(workspace.planning)
    assert asked.timing is not None
    choice, rules = asked.timing.choice, load_rulebook(asked.rules).for_preset(planned.preset).inferred.budget
    prediction_s = rules.prediction_margin * _prediction_s(workspace, planned, run, asked.timing)
    spent_s, num_trainings = run.elapsed_s(), len(run.folds)
    training_s = (run.budget_s - spent_s - prediction_s) / num_trainings
    if training_s < rules.least_steps * choice.step_s:
        least_s = spent_s + prediction_s + num_trainings * rules.least_steps * choice.step_s
        num_steps = max(int(training_s / choice.step_s), 0)
        raise PlanError(too_short(least_s, num_trainings, choice.step_s, num_steps, rules))
    log.info("%s", _in_words(run, choice, training_s, prediction_s))
    shares = Allocation(
        made_from=made_from,
        training_s=training_s,
        prediction_s=prediction_s / num_trainings,
        mirror=choice.mirror,
    )
    shares.save(workspace.allocation)
    return shares


def _in_words(run: BudgetedRun, choice: TimedChoice, training_s: float, prediction_s: float) -> str:
    held_out = f"{prediction_s:.0f} s are set aside for held-out scans"
    return (
        f"Of {run.budget_s:.0f} s, each training gets {training_s:.0f} s, about {training_s / choice.step_s:.0f} steps;"
        f" {held_out}{', with their mirror images' if choice.mirror else ', without mirror images'}."
    )


def _held_out(workspace: Workspace, run: BudgetedRun) -> tuple[str, ...]:
    """Return the names of the cases that the folds of a run hold out."""
    return tuple(sorted(name for fold in run.folds for name in load_split(workspace, fold).validation))


def _prediction_s(workspace: Workspace, planned: Plan, run: BudgetedRun, timing: Timing) -> float:
    """Return the seconds of predicting the held-out cases: one is measured, the others are so many times its tiles."""
    configuration = planned.configurations[run.configuration]
    seen = turned_fingerprint(Fingerprint.load(workspace.fingerprint), planned.orientation).cases
    tiles = {
        case.name: tiles_of(configuration, scan_of_case(planned, configuration, case, timing.speed.arithmetic))
        for case in seen
        if case.name in timing.budget.held_out
    }
    measured = sorted(tiles, key=lambda name: tiles[name])[len(tiles) // 2]
    case = next(case for case in Dataset.load(workspace.dataset).cases if case.name == measured)
    image = read_image([Path(path) for path in case.images])
    measured_s = _measured_prediction_s(image, planned, run, mirror=timing.choice.mirror)
    return measured_s * sum(tiles.values()) / tiles[measured]


def _measured_prediction_s(image: Image, planned: Plan, run: BudgetedRun, *, mirror: bool) -> float:
    """Return the seconds that predicting a scan takes, measured with an untrained network."""
    device = choose_device(run.device)
    chosen = planned.configurations[run.configuration]
    network = UNet(chosen.network).to(device).eval()
    settings = replace(default_settings(device, chosen), mirror=mirror)
    predictor = Predictor(Model(planned, chosen, (network,)), settings)
    predictor.predict(image)
    began = time.monotonic()
    predictor.predict(image)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - began
