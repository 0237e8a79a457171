"""Pictures of a finished run."""

from pathlib import Path

from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.image import read_image, read_label
from autoseg.pipeline import RunResult
from autoseg.pipeline.selection import ensemble_folder
from autoseg.report.live import curves_path
from autoseg.report.picture import write_curves, write_overlay


def draw_run(workspace: Workspace, result: RunResult) -> list[Path]:
    """Write an overlay of the median held-out case and the curves of each training; return the files."""
    ranked = sorted(result.evaluation.cases, key=lambda case: -1.0 if case.dice is None else case.dice)
    median = ranked[len(ranked) // 2]
    case = next(case for case in Dataset.load(workspace.dataset).cases if case.name == median.name)
    predicted = next(ensemble_folder(workspace, result.reached).glob(f"{case.name}.*"))
    score = "" if median.dice is None else f", Dice {median.dice:.3f}"
    overlay = workspace.report / f"{'+'.join(result.reached)}_median_case.png"
    write_overlay(
        overlay,
        read_image([Path(path) for path in case.images]),
        read_label(Path(str(case.label))),
        read_label(predicted),
        result.evaluation.labels,
        f"{case.name}, median of the held-out cases{score}",
    )
    pictures = [overlay]
    for name in result.trained:
        for fold in workspace.folds(name):
            curves = curves_path(workspace, name, fold)
            write_curves(curves, workspace.fold(name, fold).history)
            pictures.append(curves)
    return pictures
