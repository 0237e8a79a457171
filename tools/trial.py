"""A training of a fixed number of steps on one core, and the Dice of what its fold holds out: for comparing choices.

Such trainings may run side by side and beside other work: their steps are counted, not their seconds, and their cost is
told in seconds of one core.
"""

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autoseg import pipeline
from autoseg.core.artefact import Record
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.pipeline.planning.folds import load_split
from autoseg.plan.overrides import Overrides
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.train.loop import TrainingRequest
from autoseg.train.sampling import PatchSource, SamplingPlan
from autoseg.train.trainer import Trainer

FOLD = 1
"""Rules are chosen by this fold; fold 0 is the one of which results are reported."""

NUM_EPOCHS = 10
"""Each with a validation, as in any training."""

MARK = "<!-- what follows is kept -->"
"""On a page, behind the table: what people have concluded from it."""

TIMED_STEPS = 7
"""Of which the median is the cost of a step."""


@dataclass(frozen=True)
class Source:
    """A dataset: its folder or archive, and the pattern that keeps cases together."""

    path: Path
    group_by: str | None

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Return the source of `PATH` or `PATH@PATTERN`."""
        path, _, pattern = text.partition("@")
        return cls(Path(path), pattern or None)


Entries = dict[str, str | float | int]
"""Of the preset for CPUs that are replaced, by key."""


class Trial(Record):
    """What is trained.

    Attributes:
        source: `PATH` or `PATH@PATTERN` of a dataset.
        name: Of what is tried.
        entries: Of the preset for CPUs that are replaced, by key.
        seed: Of the training.
        batch_size: Patches per step; None for those of the plan.
        num_steps: Of the training; None for as many as `core_s` buy.
        core_s: Seconds of one core that training and validation may take.
    """

    source: str
    name: str
    entries: Entries
    seed: int
    batch_size: int | None = None
    num_steps: int | None = None
    core_s: float | None = None


class Outcome(Record):
    """What a trial came to.

    Attributes:
        trial: What was trained.
        dataset, configuration: Of the plan.
        patch_size: In voxels.
        batch_size: Patches per step.
        num_steps: That were taken.
        core_s: Seconds of one core that training and validation took.
        dice: Mean over classes, of whole held-out scans, without mirror images; by class after it.
    """

    trial: Trial
    dataset: str
    configuration: ConfigurationName
    patch_size: tuple[int, ...]
    batch_size: int
    num_steps: int
    core_s: float
    dice: float
    dice_by_class: dict[str, float]


def outcomes(trials: Iterable[Trial], work: Path, num_jobs: int) -> Iterator[Outcome]:
    """Give the outcome of every trial, in no order; those that `work` holds from before are not trained again.

    Args:
        trials: To be trained, several at once.
        work: Folder of workspaces and outcomes.
        num_jobs: Trials at a time, each on a core.
    """
    work.mkdir(parents=True, exist_ok=True)
    kept = work / "outcomes.jsonl"
    known = [Outcome.model_validate_json(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    wanted = list(trials)
    yield from (found for found in known if found.trial in wanted)
    missing = [trial for trial in wanted if trial not in [found.trial for found in known]]
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    with ProcessPoolExecutor(num_jobs, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_outcome, trial, work) for trial in missing]):
            with kept.open("a") as file:
                file.write(done.result().model_dump_json() + "\n")
            yield done.result()


def write_page(path: Path, lines: Iterable[str]) -> None:
    """Write a page anew, but for what stands behind the mark."""
    kept = path.read_text().partition(MARK)[2] if path.exists() else "\n"
    text = "\n".join(lines)
    path.write_text(f"{text}\n\n{MARK}{kept}")
    print(text)


def _outcome(trial: Trial, work: Path) -> Outcome:
    torch.set_num_threads(1)
    workspace = Workspace(work / f"process_{os.getpid()}" / Source.parse(trial.source).path.name)
    planned = _planned(trial, workspace, num_steps=NUM_EPOCHS)
    name = pipeline.choose_configuration(planned, None)
    pipeline.preprocess(workspace, name, 1, Silent())
    num_steps = trial.num_steps or _steps_bought(trial, workspace, planned, name)
    planned = _planned(trial, workspace, num_steps)
    request = TrainingRequest(
        configuration=name,
        fold=FOLD,
        num_epochs=NUM_EPOCHS,
        budget_s=None,
        device="cpu",
        seed=trial.seed,
        num_workers=0,
        restart=True,
    )
    began = time.process_time()
    record = pipeline.train(workspace, request, 1, Silent())
    core_s = time.process_time() - began
    evaluation = pipeline.score_held_out(
        workspace, pipeline.ModelChoice(name, (FOLD,), "cpu", mirror=False), 1, Silent()
    )
    assert evaluation.mean_foreground_dice is not None
    configuration = planned.configurations[name]
    return Outcome(
        trial=trial,
        dataset=planned.dataset,
        configuration=name,
        patch_size=configuration.patch_size,
        batch_size=configuration.batch_size,
        num_steps=record.num_steps,
        core_s=core_s,
        dice=evaluation.mean_foreground_dice,
        dice_by_class={found: scores.dice.mean or 0.0 for found, scores in evaluation.per_class.items()},
    )


def _planned(trial: Trial, workspace: Workspace, num_steps: int) -> Plan:
    """Plan for a training of so many steps."""
    per_epoch = max(num_steps // NUM_EPOCHS, 1)
    length = {"training.steps_per_epoch": per_epoch, "training.validation_steps": max(per_epoch // 10, 1)}
    rules = workspace.root.with_name("rules")
    rules.mkdir(parents=True, exist_ok=True)
    entries = {**trial.entries, **length}
    lines = [f"[cpu.{key}]\nvalue = {json.dumps(value)}\n" for key, value in entries.items()]
    (rules / "presets.toml").write_text("\n".join(lines))
    source = Source.parse(trial.source)
    data = pipeline.DataOptions(source.group_by, None, 1)
    options = pipeline.PlanOptions(pipeline.CPU_PRESET, rules, Overrides(batch_size=trial.batch_size))
    return pipeline.plan(source.path, workspace, data, options, Silent())


def _steps_bought(trial: Trial, workspace: Workspace, planned: Plan, name: ConfigurationName) -> int:
    """Return the steps, with their share of validation, that the seconds of one core buy."""
    assert trial.core_s is not None
    configuration, recipe = planned.configurations[name], planned.training
    trainer = Trainer(recipe, configuration, "cpu", seed=0)
    sampling = SamplingPlan.of(recipe, configuration, 0, ("timed",))
    folder, names = workspace.preprocessed(configuration.data_key), load_split(workspace, FOLD).train
    learned = PatchSource(folder, names, sampling)
    watched = PatchSource(folder, names, replace(sampling, augmentation=None))
    step_s = _core_seconds(lambda step: trainer.step(learned.batch(step), recipe.learning_rate, step))
    validation_s = _core_seconds(lambda step: trainer.validate(watched.batch(step)))
    return max(int(trial.core_s / (step_s + 0.1 * validation_s)), NUM_EPOCHS)


def _core_seconds(work: Callable[[int], object]) -> float:
    """Return the median seconds of one core that repeated work takes, the first time left out."""
    found = []
    for repetition in range(TIMED_STEPS + 1):
        began = time.process_time()
        work(repetition)
        found.append(time.process_time() - began)
    return statistics.median(found[1:])
