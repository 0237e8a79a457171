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
from autoseg.data.image import read_image
from autoseg.fingerprint import Fingerprint
from autoseg.infer.case import Model, default_settings
from autoseg.infer.predictor import Predictor
from autoseg.network.device import choose_device
from autoseg.network.unet import UNet
from autoseg.pipeline.prepare import Planning, load_plan, plan_asked, timed
from autoseg.pipeline.training import load_split
from autoseg.plan.budget import TimeBudget, TimedChoice, too_short
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationName, Plan

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
        num_scans=_num_held_out(workspace, run),
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
    scan_s = _measured_prediction_s(workspace, planned, run, mirror=choice.mirror)
    prediction_s = rules.prediction_margin * _num_held_out(workspace, run) * scan_s
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


def _num_held_out(workspace: Workspace, run: BudgetedRun) -> int:
    return sum(len(load_split(workspace, fold).validation) for fold in run.folds)


def _measured_prediction_s(workspace: Workspace, planned: Plan, run: BudgetedRun, *, mirror: bool) -> float:
    """Return the seconds that predicting a case takes, measured on the one of median size with an untrained network."""
    dataset = Dataset.load(workspace.dataset)
    by_size = sorted(dataset.cases, key=lambda case: Path(case.images[0]).stat().st_size)
    case = by_size[len(by_size) // 2]
    device = choose_device(run.device)
    chosen = planned.configurations[run.configuration]
    network = UNet(chosen.network).to(device).eval()
    settings = replace(default_settings(device, chosen), mirror=mirror)
    predictor = Predictor(Model(planned, chosen, (network,)), settings)
    image = read_image([Path(path) for path in case.images])
    predictor.predict(image)
    began = time.monotonic()
    predictor.predict(image)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - began
