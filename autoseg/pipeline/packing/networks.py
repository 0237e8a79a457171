"""Which networks of a workspace or a packed model predict where nobody names others."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.core.errors import PredictionError
from autoseg.core.workspace import FoldName, Workspace
from autoseg.infer.predictor import Predictor
from autoseg.pipeline.packing.packed_model import PackedModel
from autoseg.pipeline.planning.prepare import USUAL, choose_configuration, load_plan
from autoseg.pipeline.prediction.models import (
    ModelChoice,
    default_folds,
    load_model,
    load_selected,
    load_selection,
    require_trained,
)
from autoseg.plan.schema import ConfigurationName
from autoseg.select.choose import Selection, Together
from autoseg.select.predictor import SelectedPredictor


@dataclass(frozen=True)
class Networks:
    """Networks that predict together.

    Attributes:
        configuration: That predicts, or the first that was selected.
        folds: Whose networks are averaged.
        selection: Whose configurations and postprocessing are used; None where nothing was selected, or where another
            configuration was asked for.
    """

    configuration: ConfigurationName
    folds: tuple[FoldName, ...]
    selection: Selection | None = None

    @property
    def together(self) -> Together:
        """The configurations whose probabilities are averaged."""
        return (self.configuration,) if self.selection is None else self.selection.configurations

    def choice(self, device: str = "auto", *, mirror: bool = True, exact: bool = False) -> ModelChoice:
        """Return how they predict."""
        return ModelChoice(self.configuration, self.folds, device, mirror, exact=exact)

    def load(self, workspace: Workspace, choice: ModelChoice) -> Predictor | SelectedPredictor:
        """Return a predictor with them.

        Raises:
            PredictionError: See `load_model`.
        """
        if self.selection is None:
            return load_model(workspace, choice)
        return load_selected(workspace, choice, self.selection)


def choose_networks(
    workspace: Workspace, configuration: str | None = None, folds: Sequence[FoldName] | None = None
) -> Networks:
    """Return the networks that predict: those asked for, or else those that were selected or packed.

    Args:
        workspace: With trained models, or what a packed model was opened as.
        configuration: Of the plan; None for the selection's, with their postprocessing, or else the usual one.
        folds: Whose networks are averaged; None for the selection's, or else all numbered ones that are trained, or
            else the one that has learnt from all data.

    Raises:
        PlanError: If there is no plan, or it lacks the configuration.
        PredictionError: If networks have changed since they were selected, or a fold is not trained, or not packed.
    """
    planned = load_plan(workspace)
    packed = PackedModel.load(workspace.packed) if workspace.packed.exists() else None
    selection = load_selection(workspace) if configuration is None else None
    together: Together
    if selection is not None:
        together, usual = selection.configurations, selection.folds if packed is None else packed.folds
    elif configuration is None and packed is not None:
        together, usual = packed.configurations[:1], packed.folds
    else:
        trained = (name for name in USUAL if name in planned.configurations and default_folds(workspace, name))
        together = (choose_configuration(planned, configuration or next(trained, None)),)
        usual = default_folds(workspace, together[0])
    wanted = usual if folds is None else tuple(folds)
    for name in together:
        if packed is not None:
            _require_packed(workspace, packed, name, wanted)
        require_trained(workspace, name, wanted)
    return Networks(together[0], wanted, selection)


def _require_packed(
    workspace: Workspace, packed: PackedModel, configuration: ConfigurationName, folds: Sequence[FoldName]
) -> None:
    there = workspace.trainings(configuration)
    if missing := [fold for fold in folds if fold not in there]:
        raise PredictionError(
            f"--folds: must be among those in the model of {packed.dataset}, {', '.join(map(str, there))} of"
            f" {configuration}, got {missing[0]}. Leave --folds out, or name one of these."
        )


def needed_networks(workspace: Workspace, networks: Networks) -> dict[ConfigurationName, tuple[FoldName, ...]]:
    """Return the folds of each configuration without which networks do not predict, earlier stages of cascades first.

    A cascade's later stage sees the mean of all numbered folds of the stage before.
    """
    planned = load_plan(workspace)
    needed: dict[ConfigurationName, tuple[FoldName, ...]] = {}
    for name in networks.together:
        if stage := planned.configurations[name].previous_stage:
            needed[stage] = default_folds(workspace, stage)
    for name in networks.together:
        needed[name] = tuple(dict.fromkeys((*needed.get(name, ()), *networks.folds)))
    return needed
