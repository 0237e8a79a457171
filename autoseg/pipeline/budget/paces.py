"""How fast a device works with what a run trains, and how its time is shared out by that."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autoseg.core.workspace import ALL_DATA, Workspace
from autoseg.fingerprint import Fingerprint
from autoseg.network.device import choose_device
from autoseg.pipeline.budget.reserve import ScoringPace, after_prediction_s
from autoseg.pipeline.budget.schedule import Contents, waves
from autoseg.pipeline.planning.folds import load_split
from autoseg.pipeline.planning.speed import speed_of
from autoseg.pipeline.planning.timing import Timing
from autoseg.plan.budget import predicted_pace, step_with_validation_s
from autoseg.plan.costs import scan_of_case
from autoseg.plan.duration import DeviceSpeed
from autoseg.plan.orientation import turned_fingerprint
from autoseg.plan.rulebook import Rulebook
from autoseg.plan.rules import BudgetRules, RunRules
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.plan.tiling import Scan


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
        num_threads: Of the CPU, with which held-out cases are predicted; None for as many as trainings have.
        scoring: Returns how fast one of them does; None takes no time for it.
    """

    contents: Contents
    device: str
    seed: int
    budget_s: float
    elapsed_s: Callable[[], float]
    together_s: Callable[[Sequence[float]], float] = sum
    num_workers: int = 0
    num_threads: int | None = None
    scoring: Callable[[], ScoringPace] | None = None

    def after_s(self, contents: Contents, rules: RunRules) -> float:
        """Return the seconds to set aside for scores, selection and pictures."""
        if self.scoring is None:
            return 0.0
        return after_prediction_s(contents, self.scoring(), self.num_workers, rules)

    def num_rounds(self, num_trainings: int) -> int:
        """Return how many trainings of the same length follow each other, where others run beside them."""
        return round(self.together_s([1.0] * num_trainings))

    def starting_s(self, contents: Contents, rules: RunRules) -> float:
        """Return the seconds in which processes of trainings start; one by one, trainings need none of their own."""
        rounds = self.num_rounds(contents.num_trainings)
        return rules.starting_workers_s * rounds if rounds < contents.num_trainings else 0.0


@dataclass(frozen=True)
class Paces:
    """How fast a device works with each configuration of a plan, as predicted.

    Attributes:
        plan: The plan.
        speed: Of the device, the layers of all configurations among those that were timed.
        step_s: Seconds of a training step with its share of validation.
        scans_s: Seconds of predicting the held-out cases once, without mirror images.
        stages_s: Seconds in which the stage before in a cascade predicts all cases, for training.
        rules: Constants.
    """

    plan: Plan
    speed: DeviceSpeed
    step_s: dict[ConfigurationName, float]
    scans_s: dict[ConfigurationName, float]
    stages_s: dict[ConfigurationName, float]
    rules: BudgetRules

    @classmethod
    def measured(
        cls, workspace: Workspace, planned: Plan, timing: Timing, run: BudgetedRun, rulebook: Rulebook
    ) -> "Paces":
        """Return the paces of a run's configurations; layers that were not timed yet are timed."""
        inferred = rulebook.for_preset(planned.preset).inferred
        configurations = {name: planned.configurations[name] for name in run.contents.configurations}
        speed = speed_of(choose_device(run.device), configurations.values(), timing.speed)
        paces = {
            name: predicted_pace(
                configuration, list(scans_of(workspace, planned, name, run, speed).values()), speed, inferred.cost
            )
            for name, configuration in configurations.items()
        }
        seen_s = {name: pace.mirrored_scans_s if timing.choice.mirror else pace.scans_s for name, pace in paces.items()}
        stages = {name: chosen.previous_stage for name, chosen in configurations.items()}
        return cls(
            plan=planned,
            speed=speed,
            step_s={name: step_with_validation_s(pace, inferred.budget) for name, pace in paces.items()},
            scans_s={
                name: paces[name].scans_s + (0.0 if stage is None else paces[stage].scans_s)
                for name, stage in stages.items()
            },
            stages_s={
                name: 0.0 if stage is None else all_cases(workspace, run) * seen_s[stage]
                for name, stage in stages.items()
            },
            rules=inferred.budget,
        )

    def training_s(self, run: BudgetedRun, contents: Contents, rulebook: Rulebook) -> dict[ConfigurationName, float]:
        """Return the seconds of each training for which there is room in the rest of a budget, by configuration."""
        names, rules = contents.configurations, rulebook.empirical.run
        predictions_s = sum(self.scans_s[name] + self.stages_s[name] for name in names)
        set_aside_s = self.rules.prediction_margin * predictions_s
        set_aside_s += run.after_s(contents, rules) + run.starting_s(contents, rules)
        left_s = max(run.budget_s - run.elapsed_s() - set_aside_s, 0.0)
        return {name: part * left_s for name, part in training_parts(self.plan, contents, run, rulebook).items()}

    def num_steps(self, training_s: Mapping[ConfigurationName, float]) -> dict[ConfigurationName, int]:
        """Return the steps that so many seconds buy, by configuration."""
        return {name: int(seconds / self.step_s[name]) for name, seconds in training_s.items()}


def parts(names: Sequence[ConfigurationName], rulebook: Rulebook) -> dict[ConfigurationName, float]:
    """Return the part of the time of each configuration; they add up to 1.

    Source:
        rules/empirical.toml [run.shares].
    """
    shares = {name: rulebook.empirical.run.shares[name] for name in names}
    return {name: share / sum(shares.values()) for name, share in shares.items()}


def training_parts(
    planned: Plan, contents: Contents, run: BudgetedRun, rulebook: Rulebook
) -> dict[ConfigurationName, float]:
    """Return the part of the time of each single training, by configuration; together they take all of it."""
    each = {
        name: part / len(contents.folds_of(name)) for name, part in parts(contents.configurations, rulebook).items()
    }
    total = sum(
        run.together_s([each[name] for name in names for _ in contents.folds_of(name)])
        for names in waves(contents, planned)
    )
    return {name: part / total for name, part in each.items()}


def all_cases(workspace: Workspace, run: BudgetedRun) -> float:
    """Return how many times as many labelled cases there are as the folds of a run hold out."""
    return len(load_split(workspace, ALL_DATA).validation) / max(len(held_out_by(workspace, run)), 1)


def held_out_by(workspace: Workspace, run: BudgetedRun) -> tuple[str, ...]:
    """Return the names of the cases that the folds of a run hold out."""
    return tuple(sorted(name for fold in run.contents.folds for name in load_split(workspace, fold).validation))


def scans_of(
    workspace: Workspace, planned: Plan, name: ConfigurationName, run: BudgetedRun, speed: DeviceSpeed
) -> dict[str, Scan]:
    """Return the held-out cases as a configuration sees them, by name."""
    held_out = set(held_out_by(workspace, run))
    cases = turned_fingerprint(Fingerprint.load(workspace.fingerprint), planned.orientation).cases
    configuration = planned.configurations[name]
    return {
        case.name: scan_of_case(planned, configuration, case, speed.arithmetic)
        for case in cases
        if case.name in held_out
    }
