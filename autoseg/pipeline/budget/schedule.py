"""What a run trains: which configurations are worth it, in which order, with which folds, and what that takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from autoseg.core.artefact import Artefact, Record
from autoseg.core.errors import PlanError
from autoseg.core.workspace import Workspace
from autoseg.data.splits import Splits
from autoseg.fingerprint import Fingerprint
from autoseg.network.device import choose_device
from autoseg.network.probe import device_name
from autoseg.pipeline.planning.costs import costs_here
from autoseg.pipeline.planning.folds import load_split
from autoseg.pipeline.planning.prepare import Planning, choose_configuration
from autoseg.plan.costs import Costs
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.rules import RunRules
from autoseg.plan.schema import ConfigurationName, Plan


@dataclass(frozen=True)
class Contents:
    """What a run trains.

    Attributes:
        configurations: In the order in which they are trained; a cascade comes after the stage before it.
        stages: Those that a cascade among them begins with; all their folds are trained.
        folds: Of the others, in the order in which they are trained.
        all_folds: That there are; if all of them are trained, the best of the configurations is selected.
    """

    configurations: tuple[ConfigurationName, ...]
    stages: frozenset[ConfigurationName]
    folds: tuple[int, ...]
    all_folds: tuple[int, ...]

    @property
    def selects(self) -> bool:
        """Whether the run ends with a selection."""
        return set(self.folds) == set(self.all_folds)

    @property
    def num_trainings(self) -> int:
        """Of all configurations together."""
        return sum(len(self.folds_of(name)) for name in self.configurations)

    def folds_of(self, configuration: ConfigurationName) -> tuple[int, ...]:
        """Return the folds of a configuration that are trained."""
        return self.all_folds if configuration in self.stages else self.folds

    def only(self, configurations: Sequence[ConfigurationName], planned: Plan) -> "Contents":
        """Return what is left of a run that is restricted to configurations, as far as a plan has them."""
        kept = tuple(name for name in configurations if name in planned.configurations)
        return replace(self, configurations=kept, stages=_stages(kept, planned))


class Share(Record):
    """What a configuration takes of a run.

    Attributes:
        configuration: Its name.
        num_trainings: One per fold.
        training_s: Seconds of each training.
        num_steps: About as many in each training.
        prediction_s: Seconds of predicting all held-out cases.
        stage_s: Seconds in which the stage before it in a cascade predicts what its first training begins with.
        num_epochs: Of each training; None where its time decides.
    """

    configuration: ConfigurationName
    num_trainings: int
    training_s: float
    num_steps: int
    prediction_s: float
    stage_s: float = 0.0
    num_epochs: int | None = None

    @property
    def seconds(self) -> float:
        """Of everything together."""
        return self.num_trainings * self.training_s + self.prediction_s + self.stage_s


class Allocation(Artefact):
    """What each configuration takes of a run; kept, so that a run that was broken off goes on with the same shares.

    Attributes:
        shares: By configuration, in the order of training.
        mirror: Whether held-out cases are averaged over their mirror images.
        budget_s: Seconds for everything; None without a budget.
        after_s: Seconds set aside for scores, selection and pictures; None without a budget.
        begun: Seconds that each training was given when it began, by name; see `training_name`.
        is_timed: Whether the seconds are known; of a cluster's nodes nobody knows them beforehand, and they are 0.
    """

    shares: tuple[Share, ...]
    mirror: bool
    budget_s: float | None = None
    after_s: float | None = None
    begun: dict[str, float] = Field(default_factory=dict)
    is_timed: bool = True


def training_name(configuration: ConfigurationName, fold: int) -> str:
    """Return what a training is called in an allocation."""
    return f"{configuration} fold {fold}"


def contents_of(
    workspace: Workspace, planned: Plan, asked: Sequence[str] | None, folds: Sequence[int] | None
) -> Contents:
    """Return what a run trains.

    Args:
        workspace: Of the plan.
        planned: The plan.
        asked: Configurations; None for all that are worth running or, where not all folds are trained and nothing can
            be selected, for the usual one.
        folds: To train; None for all.

    Raises:
        PlanError: If the plan lacks a configuration.
        TrainingError: If there is no such fold.
    """
    all_folds = tuple(range(len(Splits.load(workspace.splits).folds)))
    wanted = all_folds if folds is None else tuple(folds)
    for fold in wanted:
        load_split(workspace, fold)
    if asked is None and set(wanted) != set(all_folds):
        asked = (choose_configuration(planned, None),)
    rules = load_rulebook(Planning.load(workspace.planning).rules).empirical.run
    names = worth_running(planned, asked, rules)
    return Contents(names, _stages(names, planned), wanted, all_folds)


def worth_running(planned: Plan, asked: Sequence[str] | None, rules: RunRules) -> tuple[ConfigurationName, ...]:
    """Return the configurations that are trained, the most important first, stages before their cascade.

    Args:
        planned: The plan.
        asked: Configurations of the plan; None for those of the rules.
        rules: Constants.

    Raises:
        PlanError: If the plan lacks what is asked for, or all that the rules name.

    Source:
        rules/empirical.toml [run.order].
    """
    known = [name for name in rules.order if name in planned.configurations]
    if asked is None:
        wanted = set(known)
    else:
        wanted = {choose_configuration(planned, name) for name in asked}
        known += [name for name in planned.configurations if name not in known]
    found: dict[ConfigurationName, None] = {}
    for name in known:
        if name in wanted:
            stage = planned.configurations[name].previous_stage
            found |= {name: None} if stage is None else {stage: None, name: None}
    if not found:
        raise PlanError(
            f"empirical.toml [run.order]: must name a configuration of the plan, {', '.join(planned.configurations)},"
            f" got {', '.join(rules.order)}. Name one of them, or use --configuration."
        )
    return tuple(found)


Waves = tuple[tuple[ConfigurationName, ...], ...]
"""Configurations that are trained beside each other, then those that wait until all of these are."""


def waves(contents: Contents, planned: Plan) -> Waves:
    """Return the configurations that are trained beside each other, then the cascades, which wait for all of these."""
    is_later = {name: planned.configurations[name].previous_stage is not None for name in contents.configurations}
    return tuple(tuple(name for name, later in is_later.items() if later == wanted) for wanted in (False, True))


def predicted_allocation(
    workspace: Workspace, planned: Plan, contents: Contents, num_epochs: int, device: str
) -> Allocation:
    """Return what a run without a budget takes on a device, as predicted; the device is timed once for a moment.

    Args:
        workspace: Of the plan.
        planned: The plan.
        contents: What is trained.
        num_epochs: Of each training.
        device: See `choose_device`.
    """
    costs = _costs(workspace, planned, device).configurations
    num_cases = sum(len(load_split(workspace, fold).validation) for fold in contents.folds)

    def share(name: ConfigurationName) -> Share:
        stage = planned.configurations[name].previous_stage
        stage_s = 0.0 if stage is None else num_cases * costs[stage].scan_s
        return Share(
            configuration=name,
            num_trainings=len(contents.folds_of(name)),
            training_s=num_epochs * costs[name].epoch_s,
            num_steps=num_epochs * planned.training.steps_per_epoch,
            prediction_s=num_cases * costs[name].scan_s + stage_s,
            stage_s=stage_s,
            num_epochs=num_epochs,
        )

    return Allocation(shares=tuple(map(share, contents.configurations)), mirror=True)


def untimed_allocation(planned: Plan, contents: Contents, num_epochs: int) -> Allocation:
    """Return what a run without a budget trains where nobody knows how long that takes; nothing is timed.

    Args:
        planned: The plan.
        contents: What is trained.
        num_epochs: Of each training.
    """
    shares = [
        Share(
            configuration=name,
            num_trainings=len(contents.folds_of(name)),
            training_s=0.0,
            num_steps=num_epochs * planned.training.steps_per_epoch,
            prediction_s=0.0,
            num_epochs=num_epochs,
        )
        for name in contents.configurations
    ]
    return Allocation(shares=tuple(shares), mirror=True, is_timed=False)


def side_by_side_s(allocation: Allocation, planned: Plan, wall_s: Callable[[Sequence[float]], float]) -> float:
    """Return the seconds of wall time of all of it where trainings run beside each other.

    Cascades wait for all other trainings; what is predicted is predicted by one process.

    Args:
        allocation: What each configuration takes.
        planned: The plan.
        wall_s: Returns the seconds that trainings take beside each other, from those that each takes, in their order.
    """
    total_s = sum(share.prediction_s + share.stage_s for share in allocation.shares) + (allocation.after_s or 0.0)
    for is_later in (False, True):
        wave = [
            share
            for share in allocation.shares
            if (planned.configurations[share.configuration].previous_stage is not None) == is_later
        ]
        total_s += wall_s([share.training_s for share in wave for _ in range(share.num_trainings)])
    return total_s


def allocation_table(allocation: Allocation, together_s: float | None = None) -> str:
    """Return what is trained and what it takes, as a table in plain text.

    Args:
        allocation: What each configuration takes; where that was not timed, epochs stand in place of times.
        together_s: Seconds of wall time where trainings run beside each other; None where they follow each other.
    """
    num_trainings = sum(share.num_trainings for share in allocation.shares)
    if not allocation.is_timed:
        listed = [
            (share.configuration, str(share.num_trainings), str(share.num_epochs or ""), str(share.num_steps))
            for share in allocation.shares
        ]
        return _in_columns(
            [("", "trainings", "epochs each", "steps each"), *listed, ("all", str(num_trainings), "", "")]
        )
    header = ("", "trainings", "each", "steps each", "prediction", "together")
    rows: list[tuple[str, ...]] = [
        (
            share.configuration,
            str(share.num_trainings),
            _time(share.training_s),
            str(share.num_steps),
            _time(share.prediction_s + share.stage_s),
            _time(share.seconds),
        )
        for share in allocation.shares
    ]
    if allocation.after_s is not None:
        rows.append(("selection, pictures", "", "", "", "", _time(allocation.after_s)))
    if together_s is None:
        one_by_one_s = sum(share.seconds for share in allocation.shares) + (allocation.after_s or 0.0)
        rows.append(("all", str(num_trainings), "", "", "", _time(one_by_one_s)))
    else:
        rows.append(("all, side by side", str(num_trainings), "", "", "", _time(together_s)))
    return _in_columns([header, *rows])


def _in_columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _stages(names: Sequence[ConfigurationName], planned: Plan) -> frozenset[ConfigurationName]:
    found = (planned.configurations[name].previous_stage for name in names)
    return frozenset(stage for stage in found if stage is not None)


def _costs(workspace: Workspace, planned: Plan, device: str) -> Costs:
    """Return the costs that are known of a plan on a device, else predict them."""
    fingerprint = Fingerprint.load(workspace.fingerprint)
    made_from = {"plan": planned.digest(), "fingerprint": fingerprint.digest()}
    if workspace.costs.exists():
        known = Costs.load(workspace.costs)
        if known.made_from == made_from and known.speed.device == device_name(choose_device(device)):
            return known
    return costs_here(workspace, planned, fingerprint, load_rulebook(Planning.load(workspace.planning).rules), device)
