"""Pictures of a finished run."""

from pathlib import Path

from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Case, Dataset
from autoseg.data.image import read_image, read_label
from autoseg.evaluate.scores import CaseScores
from autoseg.pipeline import RunResult
from autoseg.pipeline.crossval import candidate_folder
from autoseg.report.live import curves_path
from autoseg.report.picture import write_curves, write_overlay


def draw_run(workspace: Workspace, result: RunResult) -> list[Path]:
    """Write overlays of the median, worst and best held-out case and the curves of each training; return the files."""
    cases = {case.name: case for case in Dataset.load(workspace.dataset).cases}
    pictures = [
        _draw_case(workspace, result, place, scores, cases[scores.name])
        for place, scores in telling_cases(result.evaluation.cases).items()
    ]
    for name in result.trained:
        for fold in workspace.folds(name):
            curves = curves_path(workspace, name, fold)
            write_curves(curves, workspace.fold(name, fold).history)
            pictures.append(curves)
    return pictures


def telling_cases(cases: tuple[CaseScores, ...]) -> dict[str, CaseScores]:
    """Return the median, the worst and the best case by mean Dice, as far as they differ.

    Where its Dice is not defined, a case counts as worst.
    """
    ranked = sorted(cases, key=lambda case: -1.0 if case.dice is None else case.dice)
    median = ranked[len(ranked) // 2]
    ends = {"worst": ranked[0], "best": ranked[-1]}
    return {"median": median, **{place: case for place, case in ends.items() if case != median}}


def _draw_case(workspace: Workspace, result: RunResult, place: str, scores: CaseScores, case: Case) -> Path:
    """Write the overlay of a held-out case with its reference and prediction."""
    predicted = next(candidate_folder(workspace, result.reached).glob(f"{case.name}.*"))
    score = "" if scores.dice is None else f", Dice {scores.dice:.3f}"
    overlay = workspace.report / f"{'+'.join(result.reached)}_{place}_case.png"
    write_overlay(
        overlay,
        read_image([Path(path) for path in case.images]),
        read_label(Path(str(case.label))),
        read_label(predicted),
        result.evaluation.labels,
        f"{case.name}, {place} of the held-out cases{score}",
    )
    return overlay
