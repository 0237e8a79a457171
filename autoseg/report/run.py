"""Pictures of a finished run."""

from pathlib import Path

from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Case, Dataset
from autoseg.data.image import read_image, read_label
from autoseg.evaluate.scores import CaseScores, Evaluation
from autoseg.pipeline import RunResult
from autoseg.pipeline.heldout.maps import candidate_folder
from autoseg.pipeline.heldout.scores import held_out_pairs
from autoseg.report.dice_chart import write_dice_chart
from autoseg.report.picture import write_fold_curves, write_overlay


def draw_run(workspace: Workspace, result: RunResult) -> list[Path]:
    """Write the pictures of a run to `report/`; return the files.

    They are the Dice of every held-out case in every class; overlays of the best, the median and the worst of them; and
    the curves of all trainings, a picture per configuration.
    """
    cases = {case.name: case for case in Dataset.load(workspace.dataset).cases}
    chart = workspace.report / "dice_per_case.png"
    write_dice_chart(chart, _evaluations(workspace, result), result.dataset)
    overlays = [
        _draw_case(workspace, result, place, scores, cases[scores.name])
        for place, scores in telling_cases(result.evaluation.cases).items()
    ]
    return [chart, *overlays, *(_draw_curves(workspace, result, name) for name in result.trained)]


def telling_cases(cases: tuple[CaseScores, ...]) -> dict[str, CaseScores]:
    """Return the best, the median and the worst case by mean Dice, as far as they differ.

    Where its Dice is not defined, a case counts as worst.
    """
    ranked = sorted(cases, key=lambda case: -1.0 if case.dice is None else case.dice)
    median = ranked[len(ranked) // 2]
    places = {"best": ranked[-1], "median": median, "worst": ranked[0]}
    return {place: case for place, case in places.items() if place == "median" or case != median}


def _evaluations(workspace: Workspace, result: RunResult) -> dict[str, Evaluation]:
    """Return what counts first, by name, then each configuration that was trained alone."""
    found: dict[str, Evaluation] = {result.name: result.evaluation}
    found |= {str(name): evaluation for name, evaluation in result.others.items()}
    for name in result.trained:
        if name not in found:
            found[name] = Evaluation.load(candidate_folder(workspace, (name,)) / "evaluation.json")
    return found


def _draw_case(workspace: Workspace, result: RunResult, place: str, scores: CaseScores, case: Case) -> Path:
    """Write the overlay of a held-out case with its reference and prediction."""
    ((_, predicted, reference),) = held_out_pairs(workspace, result.reached, [case])
    score = "" if scores.dice is None else f", Dice {scores.dice:.3f}"
    overlay = workspace.report / f"{'+'.join(result.reached)}_{place}_case.png"
    write_overlay(
        overlay,
        read_image([Path(path) for path in case.images]),
        read_label(reference),
        read_label(predicted),
        result.evaluation.labels,
        f"{case.name}, {place} of the held-out cases{score}",
    )
    return overlay


def _draw_curves(workspace: Workspace, result: RunResult, name: str) -> Path:
    """Write the curves of the trainings of a configuration."""
    path = workspace.report / f"{name}_curves.png"
    histories = {fold: folder.history for fold, folder in workspace.folds(name).items()}
    write_fold_curves(path, histories, f"{result.dataset}, {name}")
    return path
