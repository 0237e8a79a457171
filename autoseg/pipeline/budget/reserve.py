"""What a run does once its networks have predicted, and the time that it sets aside for that."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.core.geometry import num_voxels
from autoseg.core.temporary import scratch_folder
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.image import LabelImage, read_label, write_label
from autoseg.evaluate.run import score_files
from autoseg.fingerprint import Fingerprint
from autoseg.pipeline.budget.schedule import Contents
from autoseg.pipeline.planning.folds import load_split
from autoseg.plan.rules import Empirical, RunRules
from autoseg.select.choose import candidates_of
from autoseg.select.measure import Trial, case_outcomes


@dataclass(frozen=True)
class ScoringPace:
    """How fast one process scores held-out cases, as measured on one of them.

    Attributes:
        scores_s: Seconds of writing and scoring the label maps of all held-out cases once.
        outcomes_s: Seconds of trying all postprocessing on all of them.
        slowdown: Seconds by the clock for each that it computed: above 1 where others use the machine too.
    """

    scores_s: float
    outcomes_s: float
    slowdown: float = 1.0


def measure_scoring(workspace: Workspace, contents: Contents, rules: Empirical) -> ScoringPace:
    """Return how long it takes to score the held-out cases of a run: one is measured, others by their voxels.

    A case of median size plays its own prediction, moved by a voxel along each axis.
    """
    dataset = Dataset.load(workspace.dataset)
    held_out = {name for fold in contents.folds for name in load_split(workspace, fold).validation}
    cases = {case.name: num_voxels(case.shape) for case in Fingerprint.load(workspace.fingerprint).cases}
    voxels = {name: number for name, number in cases.items() if name in held_out}
    measured = sorted(voxels, key=lambda name: voxels[name])[len(voxels) // 2]
    reference = next(Path(str(case.label)) for case in dataset.cases if case.name == measured)
    times = sum(voxels.values()) / voxels[measured]
    with scratch_folder(workspace.root) as folder:
        label = read_label(reference)
        indices = dataset.labels.to_indices(label.array)
        moved = np.roll(np.where(indices < dataset.labels.num_classes, indices, 0), (1, 1, 1), (0, 1, 2))
        prediction = folder / "prediction.nii.gz"
        began_s, computed_s = time.monotonic(), time.process_time()
        write_label(prediction, LabelImage(dataset.labels.to_values(moved), label.geometry))
        pair = (measured, prediction, reference)
        score_files(pair, dataset.labels, rules.evaluation, num_threads=1)
        scored_s = time.monotonic()
        case_outcomes(pair, Trial(dataset.labels, "dice", rules))
        ended_s = time.monotonic()
        slowdown = (ended_s - began_s) / max(time.process_time() - computed_s, 1e-3)
    return ScoringPace(times * (scored_s - began_s), times * (ended_s - scored_s), max(slowdown, 1.0))


def after_prediction_s(contents: Contents, pace: ScoringPace, num_workers: int, rules: RunRules) -> float:
    """Return the seconds that a run sets aside for scores, selection, postprocessing and pictures.

    Args:
        contents: What is trained.
        pace: Of one process.
        num_workers: Processes that score side by side.
        rules: Constants.

    Source:
        rules/empirical.toml [run].
    """
    names = contents.configurations
    one_process_s = pace.scores_s * len(names)
    if contents.selects:
        one_process_s = pace.scores_s * len(candidates_of(names)) + pace.outcomes_s
    starting_s = rules.starting_workers_s if num_workers > 1 else 0.0
    pictures_s = rules.picture_s * (rules.num_pictures + len(names))
    return pace.slowdown * (starting_s + pictures_s) + rules.scoring_margin * one_process_s / max(num_workers, 1)
