"""From the held-out cases of all that is trained to the selection: predict, score, rank, fit postprocessing."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autoseg.core.artefact import digest_of, digest_of_file
from autoseg.core.errors import SelectionError
from autoseg.core.progress import Progress
from autoseg.core.temporary import remove_abandoned_below
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Case, Dataset
from autoseg.data.splits import Splits
from autoseg.evaluate.bootstrap import draw_cases
from autoseg.evaluate.compare import Difference, weighted_difference
from autoseg.evaluate.pairs import Pair
from autoseg.pipeline.heldout.maps import HeldOutRequest, mirrored_before
from autoseg.pipeline.heldout.scores import held_out_pairs, rules_of, score_candidates
from autoseg.pipeline.planning.prepare import choose_configuration, load_plan
from autoseg.plan.rules import Empirical
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.select.choose import Selection, candidates_of, class_weights, rank, stages_of
from autoseg.select.crossfit import Metric, OutcomeTable, fit_postprocessing, gain_of, honest_scores
from autoseg.select.measure import Trial, measure_outcomes, measure_postprocessed
from autoseg.select.postprocess import Postprocessing
from autoseg.train.record import TrainingRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelectionRequest:
    """How to choose.

    Attributes:
        metric: That decides.
        weights: Of classes by name in the mean; 1 for those that are not named.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        num_workers: Processes that score.
        mirror: Whether held-out cases are predicted as the mean over mirror images; None for as they were last time,
            and for yes where none was.
        configurations: To choose from; None for all that are trained.
    """

    metric: Metric = "dice"
    weights: Mapping[str, float] = field(default_factory=dict)
    device: str = "auto"
    num_workers: int = 0
    mirror: bool | None = None
    configurations: tuple[str, ...] | None = None


@dataclass(frozen=True)
class HeldOut:
    """What a selection is made from.

    Attributes:
        plan: Of the workspace.
        dataset: Of the workspace.
        splits: Of the workspace; every fold is trained.
        configurations: That are trained, in the order of the plan.
    """

    plan: Plan
    dataset: Dataset
    splits: Splits
    configurations: tuple[ConfigurationName, ...]

    @cached_property
    def folds(self) -> dict[str, int]:
        """The fold that holds out each case, by name."""
        return {name: number for number, split in enumerate(self.splits.folds) for name in split.validation}

    @cached_property
    def cases(self) -> dict[str, Case]:
        """The held-out cases by name, sorted."""
        return {case.name: case for case in self.dataset.cases if case.name in self.folds}


def make_selection(workspace: Workspace, request: SelectionRequest, progress: Progress) -> Selection:
    """Choose configuration or ensemble, and postprocessing, and write `selection.json`.

    Held-out cases that were predicted already, with the same weights, are not predicted again; and what was selected
    from the same networks in the same way is kept.

    Raises:
        SelectionError: If nothing is trained, folds are missing or of another plan, or folds have no cases.
        PredictionError: If a case cannot be predicted.
    """
    remove_abandoned_below(workspace.root / "crossval")
    held_out = find_held_out(workspace, request.configurations)
    if request.mirror is None:
        request = replace(request, mirror=mirrored_before(workspace))
    rules = rules_of(workspace).empirical
    made_from = _made_from(workspace, held_out, request, rules)
    if workspace.selection.exists() and (known := Selection.load(workspace.selection)).made_from == made_from:
        return known
    weights = class_weights(held_out.plan.labels, request.weights)
    folds = tuple(range(len(held_out.splits.folds)))
    candidates = tuple(candidates_of(held_out.configurations))
    wanted = HeldOutRequest(candidates, folds, request.device, mirror=request.mirror is not False)
    evaluations = score_candidates(workspace, wanted, request.num_workers, progress)
    ranked = rank(
        evaluations,
        request.metric,
        weights,
        rules.evaluation,
        stages=stages_of(held_out.plan.configurations, held_out.configurations),
        tie_margin=rules.selection.tie_margin,
    )
    trial = Trial(held_out.plan.labels, request.metric, rules)
    pairs = held_out_pairs(workspace, ranked[0].configurations, tuple(held_out.cases.values()))
    table = _outcome_table(held_out, pairs, trial, weights, request.num_workers, progress)
    fitted = fit_postprocessing(table)
    helps = _helps(fitted, table, pairs, trial, request.num_workers, progress)
    selection = Selection(
        made_from=made_from,
        metric=request.metric,
        tolerance_mm=rules.evaluation.tolerance_mm,
        weights={label.name: float(weights[number]) for number, label in enumerate(held_out.plan.labels.foreground)},
        folds=folds,
        num_cases=len(held_out.cases),
        num_groups=len({case.group for case in held_out.cases.values()}),
        configurations=ranked[0].configurations,
        candidates=ranked,
        tie_margin=rules.selection.tie_margin,
        postprocessing=fitted if helps else Postprocessing(),
        dropped=Postprocessing() if helps else fitted,
        gain=_gain(held_out, table, rules),
    )
    selection.save(workspace.selection)
    return selection


def find_held_out(workspace: Workspace, configurations: Sequence[str] | None = None) -> HeldOut:
    """Return what can be selected from: the given configurations, or all that are trained.

    Raises:
        PlanError: If the plan lacks a configuration.
        SelectionError: If nothing is trained, folds are missing or of another plan, or folds have no cases; names all.
    """
    planned = load_plan(workspace)
    splits = Splits.load(workspace.splits)
    asked = [choose_configuration(planned, name) for name in configurations or ()]
    trained = tuple(name for name in planned.configurations if (name in asked if asked else workspace.folds(name)))
    problems = [
        *_fold_problems(splits),
        *(problem for name in trained for problem in _training_problems(workspace, planned, splits, name)),
    ]
    if not trained:
        problems.append(
            f"{workspace.root}: a configuration must be trained in all folds, got none."
            " Run `autoseg run DATA`, or `autoseg train --fold K` for each fold"
        )
    if problems:
        listed = "\n".join(f"  {problem}." for problem in problems)
        raise SelectionError(f"select: all folds must be there to choose from, got {len(problems)} problems:\n{listed}")
    return HeldOut(planned, Dataset.load(workspace.dataset), splits, trained)


def _fold_problems(splits: Splits) -> list[str]:
    """Return what is wrong with the folds themselves."""
    cases = {name for split in splits.folds for name in (*split.train, *split.validation)}
    if all(split.validation for split in splits.folds) and len(cases) >= len(splits.folds):
        return []
    found = f"{len(splits.folds)} folds of {len(cases)} cases"
    return [f"splits.json: each fold must hold out a case, got {found}. Plan with fewer --num-folds"]


def _training_problems(
    workspace: Workspace, planned: Plan, splits: Splits, configuration: ConfigurationName
) -> list[str]:
    """Return which folds of a configuration are missing or of another plan."""
    trained = workspace.folds(configuration)
    problems = [
        f"{workspace.fold(configuration, fold).root}: fold {fold} of {configuration} must be trained, found no record."
        f" Run `autoseg train --fold {fold} --configuration {configuration}`, or choose among others: --configuration"
        for fold in range(len(splits.folds))
        if fold not in trained
    ]
    for fold, folder in trained.items():
        made_from = TrainingRecord.load(folder.record).made_from
        recipe = planned.recipe_digest(configuration)
        if made_from.get("recipe") != recipe and made_from.get("plan") != planned.digest():
            problems.append(
                f"{folder.root}: fold {fold} of {configuration} must be trained as the plan of the workspace says, got"
                f" another plan. Run `autoseg train --fold {fold} --configuration {configuration} --restart`, or plan"
                " as before"
            )
        if fold >= len(splits.folds):
            problems.append(
                f"{folder.root}: a fold must be one of 0 to {len(splits.folds) - 1}, got {fold}. Move it away, or plan"
                " with as many --num-folds as before"
            )
    return problems


def _outcome_table(
    held_out: HeldOut,
    pairs: Sequence[Pair],
    trial: Trial,
    weights: NDArray[np.float64],
    num_workers: int,
    progress: Progress,
) -> OutcomeTable:
    """Return what every treatment would do to every held-out case of the winner."""
    return OutcomeTable(
        scores=measure_outcomes(pairs, trial, num_workers, progress),
        folds=np.array([held_out.folds[name] for name, _, _ in pairs]),
        weights=weights,
        names=tuple(label.name for label in trial.labels.foreground),
        tried=trial.tried,
        min_gain=trial.rules.postprocessing.min_gain,
    )


def _helps(
    fitted: Postprocessing,
    table: OutcomeTable,
    pairs: Sequence[Pair],
    trial: Trial,
    num_workers: int,
    progress: Progress,
) -> bool:
    """Return whether postprocessing, where there is any, helps when its steps follow each other, as they will."""
    if not fitted.summary:
        return True
    gain = gain_of(table, measure_postprocessed(pairs, trial, fitted, num_workers, progress))
    if gain <= 0:
        log.warning("Postprocessing is left out: step by step it would help, but one after another gains %+.4f.", gain)
    return gain > 0


def _gain(held_out: HeldOut, table: OutcomeTable, rules: Empirical) -> Difference:
    """Return what postprocessing gains on cases that had no part in choosing it."""
    groups = [case.group for case in held_out.cases.values()]
    draws = draw_cases(groups, rules.evaluation.num_resamples, rules.evaluation.seed)
    tables = honest_scores(table), table.before
    return weighted_difference(tables, table.weights, draws, rules.evaluation.confidence, groups)


def _made_from(workspace: Workspace, held_out: HeldOut, request: SelectionRequest, rules: Empirical) -> dict[str, str]:
    """Return the digests of plan, folds, all weights, and of what was asked for."""
    weights = {
        f"{name} fold {fold}": digest_of_file(folder.weights)
        for name in held_out.configurations
        for fold, folder in workspace.folds(name).items()
    }
    asked = [request.metric, dict(request.weights), request.mirror, rules.model_dump(mode="json")]
    digests = {"plan": held_out.plan.digest(), "splits": held_out.splits.digest(), "request": digest_of(asked)}
    return {**digests, **weights}
