"""What a plan costs on the device of this machine."""

import math

from autoseg.core.workspace import Workspace
from autoseg.data.splits import Splits
from autoseg.fingerprint import Fingerprint
from autoseg.network.device import choose_device
from autoseg.network.probe import probe_device
from autoseg.plan.costs import Costs, predict_costs
from autoseg.plan.duration import layers_to_probe
from autoseg.plan.rulebook import Rulebook
from autoseg.plan.schema import Plan


def costs_here(workspace: Workspace, planned: Plan, fingerprint: Fingerprint, rulebook: Rulebook) -> Costs:
    """Return what a plan costs on this machine's device, which is probed for a moment; it is written to the workspace.

    Args:
        workspace: Of the plan; its splits say how many folds there are, if it has any.
        planned: The plan.
        fingerprint: That it was made from.
        rulebook: Constants of the predictions.
    """
    configurations = planned.configurations.values()
    layers = [layer for chosen in configurations for layer in layers_to_probe(chosen)]
    largest = max(
        chosen.batch_size * chosen.network.features[0] * math.prod(chosen.patch_size) for chosen in configurations
    )
    speed = probe_device(choose_device("auto"), layers, largest)
    num_folds = rulebook.empirical.cross_validation.num_folds
    if workspace.splits.exists():
        num_folds = len(Splits.load(workspace.splits).folds)
    costs = predict_costs(planned, fingerprint, num_folds, speed, rulebook.for_preset(planned.preset).inferred.cost)
    costs.save(workspace.costs)
    return costs
