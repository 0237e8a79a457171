"""What a plan costs on the device of this machine."""

from autoseg.core.workspace import Workspace
from autoseg.data.splits import Splits
from autoseg.fingerprint import Fingerprint
from autoseg.network.device import choose_device
from autoseg.pipeline.planning.prepare import Planning
from autoseg.pipeline.planning.speed import speed_of
from autoseg.plan.costs import Costs, predict_costs
from autoseg.plan.rulebook import Rulebook
from autoseg.plan.schema import Plan


def costs_here(
    workspace: Workspace, planned: Plan, fingerprint: Fingerprint, rulebook: Rulebook, device: str = "auto"
) -> Costs:
    """Return what a plan costs on a device of this machine, timed for a moment; it is written to the workspace.

    Args:
        workspace: Of the plan; its splits say how many folds there are, if it has any, and what a plan for a budget of
            time has measured is not measured again.
        planned: The plan.
        fingerprint: That it was made from.
        rulebook: Constants of the predictions.
        device: See `choose_device`.
    """
    timing = Planning.load(workspace.planning).timing if workspace.planning.exists() else None
    known = timing.speed if timing is not None else None
    speed = speed_of(choose_device(device), planned.configurations.values(), known)
    num_folds = rulebook.empirical.cross_validation.num_folds
    if workspace.splits.exists():
        num_folds = len(Splits.load(workspace.splits).folds)
    costs = predict_costs(planned, fingerprint, num_folds, speed, rulebook.for_preset(planned.preset).inferred.cost)
    costs.save(workspace.costs)
    return costs
