"""From a dataset on disk to preprocessed cases: check, fingerprint, splits, plan, preprocessing."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from autoseg.core.artefact import Artefact, Record, digest_of
from autoseg.core.errors import ArtefactError, DatasetError, PlanError
from autoseg.core.parallel import begin_workers
from autoseg.core.progress import Progress
from autoseg.core.workspace import Workspace
from autoseg.data.check import CheckReport, check_dataset
from autoseg.data.dataset import Dataset, grouped_as_before, open_dataset
from autoseg.data.splits import Splits, make_splits
from autoseg.fingerprint import Fingerprint, check_and_measure, extract_fingerprint, pool_cases
from autoseg.pipeline.planning.timing import Timing, time_plan, with_batches
from autoseg.plan.budget import TimeBudget
from autoseg.plan.decisions import Reasons
from autoseg.plan.overrides import Overrides, apply_overrides
from autoseg.plan.planner import DatasetDescription, make_plan
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationName, Decision, Plan

log = logging.getLogger(__name__)

CPU_PRESET = "cpu"
"""What is planned for where there is no GPU, no preset was named, and training follows at once or has a budget."""

USUAL: tuple[ConfigurationName, ...] = ("3d_fullres", "2d", "3d_cascade_fullres", "3d_lowres")
"""Configurations in the order in which one is taken where none is named; the last two alone in imported models."""

AnArtefact = TypeVar("AnArtefact", bound=Artefact)


@dataclass(frozen=True)
class DataOptions:
    """How a dataset is read.

    Attributes:
        group_by: Pattern on the case name, or CSV of cases and groups, that keeps patients together; None for neither.
        num_folds: Folds of the cross-validation; None for the number in `rules/empirical.toml`.
        num_workers: Processes that read cases.
    """

    group_by: str | None
    num_folds: int | None
    num_workers: int


class AskedTime(Record):
    """Time that a plan is asked for.

    Attributes:
        seconds: Of wall time.
        covers: Whether that is for one training, or for a whole run with its predictions.
        configuration: That is trained; None for the usual one.
        configurations: That are trained in a run; None for all that are worth it.
        folds: That are trained in a run; None for all.
        device: That trains; see `choose_device`.
    """

    seconds: float
    covers: Literal["a training", "a run"]
    configuration: str | None = None
    configurations: tuple[str, ...] | None = None
    folds: tuple[int, ...] | None = None
    device: str = "auto"


@dataclass(frozen=True)
class PlanOptions:
    """How a dataset is planned.

    Attributes:
        preset: Entry of `rules/presets.toml`; None for the default one.
        rules: Folder whose files replace single entries of the rules; None for none.
        overrides: Values that the user sets.
        time: To make the most of; None plans for memory alone.
    """

    preset: str | None
    rules: Path | None
    overrides: Overrides = field(default_factory=Overrides)
    time: AskedTime | None = None


class Planning(Artefact):
    """How the plan of a workspace was asked for, and what a device has taught since.

    What it was made from is the part of a dataset on which the time of networks depends: a file that was touched, or a
    label that was mended, times nothing anew.

    Attributes:
        preset: Entry of `rules/presets.toml`; None for the default one.
        rules: Folder of rules that replace others; None for none.
        overrides: Values that the user set.
        time: To make the most of.
        timing: What that led to on a device; None until it was timed.
        proved: The memory, in GB, for which training steps fit the device, where they did not at first.
        fitted: `Plan.recipe_digest` of configurations whose training steps have fitted a GPU.
    """

    preset: str | None
    rules: Path | None
    overrides: Overrides
    time: AskedTime | None = None
    timing: Timing | None = None
    proved: Decision | None = None
    fitted: dict[ConfigurationName, str] = Field(default_factory=dict)

    def is_as_asked(self, other: "Planning") -> bool:
        """Return whether both were asked for in the same way, of the same dataset."""
        taught = {"timing": other.timing, "proved": other.proved, "fitted": other.fitted}
        return self.model_copy(update=taught) == other


def check(source: Path, workspace: Workspace, options: DataOptions, progress: Progress) -> tuple[Dataset, CheckReport]:
    """Open a dataset, verify it, and write both to the workspace.

    Raises:
        DatasetError: If there is no dataset at `source`, or the workspace belongs to another one.
    """
    dataset = _open(source, workspace, options)
    report = _up_to_date(CheckReport, workspace.check, {"dataset": dataset.digest()})
    if report is None:
        report = _kept(check_dataset(dataset, progress, options.num_workers), dataset, workspace)
    return dataset, report


def _open(source: Path, workspace: Workspace, options: DataOptions) -> Dataset:
    """Return a dataset with a digest of its files.

    Raises:
        DatasetError: If there is no dataset at `source`, or the workspace belongs to another one.
    """
    if not workspace.check.exists():
        begin_workers(check_and_measure.__module__, options.num_workers)
    dataset = open_dataset(source, workspace.unpacked, options.group_by)
    if workspace.dataset.exists() and (other := Dataset.load(workspace.dataset)).name != dataset.name:
        raise DatasetError(
            f"{workspace.root}: a workspace holds one dataset, {other.name} here, got {dataset.name}."
            " Name another folder with --workspace."
        )
    if options.group_by is None and workspace.dataset.exists():
        dataset = grouped_as_before(dataset, Dataset.load(workspace.dataset))
    return dataset.model_copy(update={"made_from": {"files": _files_digest(dataset)}})


def _kept(report: CheckReport, dataset: Dataset, workspace: Workspace) -> CheckReport:
    """Return the report on a dataset after writing both."""
    report = report.model_copy(update={"made_from": {"dataset": dataset.digest()}})
    dataset.save(workspace.dataset)
    report.save(workspace.check)
    return report


def plan(
    source: Path, workspace: Workspace, options: DataOptions, plan_options: PlanOptions, progress: Progress
) -> Plan:
    """Check a dataset, take its fingerprint, split it and plan; everything is written to the workspace.

    Raises:
        DatasetError: If the check finds errors; the message lists them.
        PlanError: If no plan satisfies the rules.
    """
    dataset = _open(source, workspace, options)
    made_from = {"dataset": dataset.digest()}
    fingerprint = _fingerprint_of_sound(dataset, source, workspace, options, progress)
    groups = {case.name: case.group for case in dataset.cases}
    folds = load_rulebook(plan_options.rules).empirical.cross_validation
    splits = make_splits(groups, options.num_folds or folds.num_folds, folds.seed)
    splits = splits.model_copy(update={"made_from": made_from})
    seen = _seen_by_clocks(fingerprint, dataset, splits)
    asked = _asked(plan_options, seen, _up_to_date(Planning, workspace.planning, seen))
    if asked.time is not None and asked.time.covers == "a training" and asked.timing is None:
        asked = timed(asked, fingerprint, dataset, training_budget(asked.time, plan_asked(fingerprint, dataset, asked)))
    planned = plan_asked(fingerprint, dataset, asked)
    asked.save(workspace.planning)
    splits.save(workspace.splits)
    planned.save(workspace.plan)
    return planned


def _seen_by_clocks(fingerprint: Fingerprint, dataset: Dataset, splits: Splits) -> dict[str, str]:
    """Return the digests of what decides how long networks take: grids of scans, channels, outputs, held-out cases."""
    of_labels = {"classes", "foreground_extent_mm"}
    grids = [case.model_dump(mode="json", exclude=of_labels) for case in fingerprint.cases]
    return {
        "grids": digest_of(grids),
        "channels and labels": digest_of([dataset.channels, dataset.labels.model_dump(mode="json")]),
        "held out": digest_of([split.validation for split in splits.folds]),
    }


def _fingerprint_of_sound(
    dataset: Dataset, source: Path, workspace: Workspace, options: DataOptions, progress: Progress
) -> Fingerprint:
    """Return the fingerprint of a dataset after checking it; where both are missing, each case is read once for both.

    Raises:
        DatasetError: If the check finds errors; the message lists them.
    """
    made_from = {"dataset": dataset.digest()}
    report, measured = _up_to_date(CheckReport, workspace.check, made_from), None
    if report is None:
        report, measured = check_and_measure(dataset, progress, options.num_workers)
        report = _kept(report, dataset, workspace)
    if report.errors:
        listed = "\n".join(f"  {problem.sentence}" for problem in report.errors)
        raise DatasetError(
            f"{source}: a dataset must be free of errors to be planned, got {len(report.errors)}:\n{listed}"
        )
    for problem in report.warnings:
        log.warning("%s", problem.sentence)
    fingerprint = _up_to_date(Fingerprint, workspace.fingerprint, made_from)
    if fingerprint is None:
        found = (
            pool_cases(dataset, measured) if measured else extract_fingerprint(dataset, progress, options.num_workers)
        )
        fingerprint = found.model_copy(update={"made_from": made_from})
        fingerprint.save(workspace.fingerprint)
    return fingerprint


def plan_from(fingerprint: Fingerprint, dataset: DatasetDescription, options: PlanOptions) -> Plan:
    """Return the plan for a fingerprint; no image is needed.

    Raises:
        PlanError: If no plan satisfies the rules.
    """
    asked = _asked(options, {}, None)
    planned = plan_asked(fingerprint, dataset, asked)
    if asked.time is None:
        return planned
    return plan_asked(fingerprint, dataset, timed(asked, fingerprint, dataset, training_budget(asked.time, planned)))


def plan_asked(fingerprint: Fingerprint, dataset: DatasetDescription, asked: Planning) -> Plan:
    """Return the plan that was asked for, made for the time and the memory that a device has shown where there are."""
    overrides = asked.overrides
    if asked.proved is not None:
        overrides = overrides.model_copy(update={"gpu_memory_gb": asked.proved.value})
    choice = asked.timing.choice if asked.timing is not None else None
    planned = make_plan(fingerprint, dataset, load_rulebook(asked.rules), asked.preset, overrides, choice)
    if asked.proved is None:
        return planned
    return planned.model_copy(update={"decisions": (asked.proved, *planned.decisions)})


def timed(asked: Planning, fingerprint: Fingerprint, dataset: DatasetDescription, budget: TimeBudget) -> Planning:
    """Return how to plan so that a budget of time buys the most on a device, which is timed for some seconds.

    Raises:
        PlanError: If the time is too short for any plan.
    """
    assert asked.time is not None
    reasons = _reasons(asked)
    make = partial(make_plan, fingerprint, dataset, reasons.rulebook, reasons.rules.preset, asked.overrides)
    known = None if asked.timing is None else asked.timing.speed
    timing = time_plan(make, fingerprint, reasons, budget, asked.time.device, known)
    return asked.model_copy(update={"timing": timing})


def timed_batches(asked: Planning, planned: Plan, training_s: Mapping[ConfigurationName, float]) -> Planning:
    """Return how to plan so that further configurations, too, have the batch that suits their time.

    Args:
        asked: How the plan was asked for, timed for its first configuration.
        planned: The plan that came of it.
        training_s: Seconds of a training of each further configuration.
    """
    assert asked.time is not None
    assert asked.timing is not None
    found = with_batches(asked.timing, planned, _reasons(asked), training_s, asked.time.device)
    return asked.model_copy(update={"timing": found})


def with_small_batches(asked: Planning, names: Sequence[ConfigurationName]) -> Planning:
    """Return how to plan with the smallest batch in further configurations."""
    assert asked.timing is not None
    least = _reasons(asked).rules.inferred.batch_size.min
    choice = asked.timing.choice.model_copy(update={"batches": dict.fromkeys(names, least)})
    return asked.model_copy(update={"timing": asked.timing.model_copy(update={"choice": choice})})


def _reasons(asked: Planning) -> Reasons:
    """Return the rules in force for a plan."""
    rulebook = load_rulebook(asked.rules)
    rules = rulebook.for_preset(asked.preset or rulebook.inferred.preset.default)
    return Reasons(rulebook, apply_overrides(rules, asked.overrides), asked.overrides)


def training_budget(time: AskedTime, planned: Plan) -> TimeBudget:
    """Return the budget of one training."""
    return TimeBudget(configuration=choose_configuration(planned, time.configuration), seconds=time.seconds)


def _asked(options: PlanOptions, made_from: dict[str, str], known: Planning | None) -> Planning:
    """Return how a plan is asked for, with what a device has shown if it was asked for in the same way before."""
    rules = options.rules.resolve() if options.rules is not None else None
    asked = Planning(
        made_from=made_from, preset=options.preset, rules=rules, overrides=options.overrides, time=options.time
    )
    if known is None or not known.is_as_asked(asked):
        return asked
    if known.timing is not None and known.timing.rules != load_rulebook(rules).digest:
        return known.model_copy(update={"timing": None})
    return known


def preprocess(
    workspace: Workspace, configuration: ConfigurationName, num_workers: int, progress: Progress
) -> tuple[Plan, Path]:
    """Preprocess the labelled cases for a configuration; return the plan and the folder."""
    planned, dataset = load_plan(workspace), Dataset.load(workspace.dataset)
    chosen = planned.configurations[configuration]
    folder = workspace.preprocessed(chosen.data_key)
    from autoseg.preprocess.run import preprocess_dataset

    preprocess_dataset(dataset, planned, chosen, folder, progress, num_workers)
    return planned, folder


def load_plan(workspace: Workspace) -> Plan:
    """Return the plan of a workspace.

    Raises:
        PlanError: If nothing was planned there.
    """
    if not workspace.plan.exists():
        raise PlanError(
            f"{workspace.root}: a workspace with a plan is needed, found none."
            " Run `autoseg plan DATA` first, or name the folder with --workspace."
        )
    return Plan.load(workspace.plan)


def suited_preset(asked: str | None, device: str) -> str | None:
    """Return the preset that was asked for; without one, that for a CPU where there is no GPU, else None.

    Args:
        asked: Entry of `rules/presets.toml`, or None.
        device: That trains; see `choose_device`.
    """
    if asked is not None:
        return asked
    from autoseg.network.device import choose_device  # torch: plans of a named preset do without

    return CPU_PRESET if choose_device(device).type == "cpu" else None


def choose_configuration(planned: Plan, asked: str | None) -> ConfigurationName:
    """Return the configuration that was asked for; without one, the first of `USUAL` that the plan has.

    Raises:
        PlanError: If the plan lacks it.
    """
    for name in (asked,) if asked else USUAL:
        for known in planned.configurations:
            if known == name:
                return known
    raise PlanError(
        f"--configuration: must be one of {', '.join(planned.configurations)}, got {asked}. Choose one of them."
    )


def _up_to_date(kind: type[AnArtefact], path: Path, made_from: dict[str, str]) -> AnArtefact | None:
    """Return a saved artefact if it was made from the same inputs by this version; None otherwise."""
    if not path.exists():
        return None
    try:
        found = kind.load(path)
    except ArtefactError as error:
        log.info("%s Made anew.", error)
        return None
    return found if found.made_from == made_from else None


def _files_digest(dataset: Dataset) -> str:
    """Return a digest of all files of a dataset by name, size and time of change."""
    found = []
    for case in (*dataset.cases, *dataset.unlabelled):
        for name in (*case.images, *([case.label] if case.label else [])):
            path = Path(name)
            status = path.stat() if path.exists() else None
            found.append((name, status.st_size, status.st_mtime_ns) if status else (name, None))
    return digest_of(found)
