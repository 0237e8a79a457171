"""Whether what is trained, selected and reached in a workspace is what would be made there now."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from autoseg.core.artefact import digest_of
from autoseg.core.errors import DatasetError
from autoseg.core.workspace import ALL_DATA, FoldName, Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.splits import Splits
from autoseg.data.store import stored_properties
from autoseg.evaluate.scores import Evaluation
from autoseg.pipeline.heldout.maps import HeldOutPredictions, candidate_folder
from autoseg.pipeline.planning.folds import load_split
from autoseg.pipeline.prediction.models import default_folds
from autoseg.pipeline.running.request import RunResult
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan, Plan
from autoseg.preprocess.run import CONTENT, SOURCE, source_digest
from autoseg.select.choose import Selection, Together
from autoseg.train.record import CASES, EARLIER_STAGE, RECIPE, WEIGHTS, TrainingRecord

Trained: TypeAlias = Literal["done", "of another plan", "of other data"]
"""How a finished training compares with what would be trained now."""


@dataclass(frozen=True)
class Networks:
    """What is trained in a workspace, beside what would be trained there now.

    Attributes:
        workspace: Of the trainings.
        plan: Of the workspace.
        dataset: Of the workspace; None where models were brought from elsewhere.
        num_folds: That there are; 0 where models were brought from elsewhere.
        contents: Of each preprocessed case the digest of its arrays, by name and `data_key`, as far as it was asked
            for; None where its files have changed since it was preprocessed.
    """

    workspace: Workspace
    plan: Plan
    dataset: Dataset | None
    num_folds: int
    contents: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def trained(self, configuration: ConfigurationName, fold: FoldName) -> Trained | None:
        """Return how a finished training compares with what would be trained now; None if there is none."""
        folder = self.workspace.fold(configuration, fold)
        if not (folder.record.exists() and folder.weights.exists()):
            return None
        made_from = TrainingRecord.load(folder.record).made_from
        recipe = self.plan.recipe_digest(configuration)
        if made_from.get(RECIPE, recipe) != recipe:
            return "of another plan"
        is_of_data = self._is_of_cases(made_from, configuration, fold) and self._is_of_stage(made_from, configuration)
        return "done" if is_of_data else "of other data"

    def weights_digest(self, configuration: ConfigurationName, fold: FoldName) -> str | None:
        """Return the digest of the weights of a training, as its record says; None if it is not as it would be now."""
        if self.trained(configuration, fold) != "done":
            return None
        return TrainingRecord.load(self.workspace.fold(configuration, fold).record).made_from.get(WEIGHTS)

    def _is_of_cases(self, made_from: dict[str, str], configuration: ConfigurationName, fold: FoldName) -> bool:
        """Return whether the cases that a training has learnt from are those that it would learn from now.

        Preprocessed cases tell whether files that have changed hold something else; where they were deleted, any
        change of the dataset counts.
        """
        if not self.num_folds or self.dataset is None or CASES not in made_from:
            return True
        if fold != ALL_DATA and fold >= self.num_folds:
            return False
        known = self._known_contents(self.plan.configurations[configuration])
        names = load_split(self.workspace, fold).train
        if any(name not in known for name in names):
            return made_from.get("dataset") == self.dataset.digest()
        return made_from[CASES] == digest_of({name: known[name] for name in names})

    def _is_of_stage(self, made_from: dict[str, str], configuration: ConfigurationName) -> bool:
        """Return whether a cascade has learnt from the networks of the stage before it that are there."""
        stage = self.plan.configurations[configuration].previous_stage
        if stage is None or EARLIER_STAGE not in made_from:
            return True
        digests = {str(fold): self.weights_digest(stage, fold) for fold in default_folds(self.workspace, stage)}
        return made_from[EARLIER_STAGE] == digest_of(digests)

    def _known_contents(self, configuration: ConfigurationPlan) -> dict[str, str | None]:
        assert self.dataset is not None
        if configuration.data_key not in self.contents:
            self.contents[configuration.data_key] = _stored_contents(
                self.workspace, self.plan, self.dataset, configuration
            )
        return self.contents[configuration.data_key]


def _stored_contents(
    workspace: Workspace, plan: Plan, dataset: Dataset, configuration: ConfigurationPlan
) -> dict[str, str | None]:
    """Return the digest of the arrays of each stored case, by name; None where its files have changed since.

    Files that are not there tell nothing: a dataset may be away, once there is a model.
    """
    found: dict[str, str | None] = {}
    for case in dataset.cases:
        properties = stored_properties(workspace.preprocessed(configuration.data_key), case.name)
        if properties is not None:
            source = properties.made_from.get(SOURCE)
            with suppress(DatasetError):
                source = source_digest(case, plan, configuration)
            found[case.name] = properties.made_from.get(CONTENT) if source == properties.made_from.get(SOURCE) else None
    return found


def is_selection_of(networks: Networks, selection: Selection) -> bool:
    """Return whether a selection was made by the plan and the splits that are there, among the networks that are."""
    workspace, made_from = networks.workspace, selection.made_from
    splits = Splits.load(workspace.splits).digest() if workspace.splits.exists() else None
    if made_from.get("plan") not in (None, networks.plan.digest()) or made_from.get("splits") not in (None, splits):
        return False
    names = dict.fromkeys(name for candidate in selection.candidates for name in candidate.configurations)
    return all(
        name in networks.plan.configurations
        and (digest := networks.weights_digest(name, fold)) is not None
        and digest == made_from.get(f"{name} fold {fold}")
        for name in names
        for fold in selection.folds
    )


def is_result_of(networks: Networks, result: RunResult) -> bool:
    """Return whether the scores of a run without a selection are of the networks and the dataset that are there."""
    scored: dict[Together, Evaluation] = {
        result.reached: result.evaluation,
        **{(name,): evaluation for name, evaluation in result.others.items()},
    }
    return all(
        _is_evaluation_of(networks, together, result.folds, evaluation) for together, evaluation in scored.items()
    )


def _is_evaluation_of(networks: Networks, together: Together, folds: Sequence[int], evaluation: Evaluation) -> bool:
    """Return whether scores are of label maps that the networks which are there have made of the dataset's cases."""
    if networks.dataset is not None and evaluation.made_from.get("dataset") != networks.dataset.digest():
        return False
    for fold in folds:
        path = candidate_folder(networks.workspace, together) / f"fold_{fold}.json"
        digests = {name: networks.weights_digest(name, fold) for name in together}
        if None in digests.values() or not path.exists():
            return False
        maps = HeldOutPredictions.load(path)
        if maps.digest() not in evaluation.made_from.values() or not digests.items() <= maps.made_from.items():
            return False
    return True
