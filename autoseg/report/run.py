"""Pictures of a finished run."""

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

from autoseg.core.errors import AutosegError
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.image import read_image, read_label
from autoseg.evaluate.scores import CaseScores, Evaluation
from autoseg.pipeline import RunResult
from autoseg.pipeline.heldout.maps import candidate_folder
from autoseg.pipeline.heldout.scores import held_out_pairs
from autoseg.plan.schema import ConfigurationName
from autoseg.report.dice_chart import write_dice_chart
from autoseg.report.picture import write_fold_curves, write_overlay

log = logging.getLogger(__name__)

CHART = "dice_per_case.png"
PLACES = ("best", "median", "worst")

_NAME = f"(?:{'|'.join(get_args(ConfigurationName))})"
_DRAWN = re.compile(rf"{re.escape(CHART)}|{_NAME}(?:\+{_NAME})*_(?:{'|'.join(PLACES)})_case\.png|{_NAME}_curves\.png")
"""File names of what `draw_run` draws, whichever configurations a run has reached."""


def draw_run(workspace: Workspace, result: RunResult) -> list[Path]:
    """Write the pictures of a run to `report/`, in place of those of the run before; return the files.

    They are the Dice of every held-out case in every class; overlays of the best, the median and the worst of them; and
    the curves of its trainings, a picture per configuration. A picture that cannot be drawn is warned of by name and
    left out.
    """
    folder = workspace.report
    earlier = [path for path in folder.glob("*.png") if _DRAWN.fullmatch(path.name)]
    for path in sorted(earlier):
        _succeeds(path, "removed", path.unlink)
    pictures: dict[Path, Callable[[Path], None]] = {folder / CHART: partial(_draw_chart, workspace, result)}
    for place, scores in telling_cases(result.evaluation.cases).items():
        overlay = folder / f"{'+'.join(result.reached)}_{place}_case.png"
        pictures[overlay] = partial(_draw_case, workspace, result, place, scores)
    for name in result.trained:
        pictures[folder / f"{name}_curves.png"] = partial(_draw_curves, workspace, result, name)
    return [path for path, draw in pictures.items() if _succeeds(path, "drawn", partial(draw, path))]


def telling_cases(cases: tuple[CaseScores, ...]) -> dict[str, CaseScores]:
    """Return the best, the median and the worst case by mean Dice, as far as they differ.

    Cases whose Dice is not defined, as they are rightly empty, count only if there are no others.
    """
    defined = [case for case in cases if case.dice is not None]
    ranked = sorted(defined or cases, key=lambda case: case.dice or 0.0)
    median = ranked[len(ranked) // 2]
    places = {"best": ranked[-1], "median": median, "worst": ranked[0]}
    return {place: case for place, case in places.items() if place == "median" or case != median}


def _succeeds(path: Path, what: str, act: Callable[[], None]) -> bool:
    """Return whether a picture was drawn or removed; warn of one that was not."""
    try:
        act()
    except (AutosegError, OSError, ValueError) as error:
        log.warning("%s: must be %s, got: %s. The run's result stands.", path, what, error)
        return False
    return True


def _draw_chart(workspace: Workspace, result: RunResult, path: Path) -> None:
    """Write the Dice of all held-out cases."""
    write_dice_chart(path, _evaluations(workspace, result), result.dataset)


def _evaluations(workspace: Workspace, result: RunResult) -> dict[str, Evaluation]:
    """Return what counts first, by name, then each configuration that was trained alone."""
    found: dict[str, Evaluation] = {result.name: result.evaluation}
    found |= {str(name): evaluation for name, evaluation in result.others.items()}
    for name in result.trained:
        if name not in found:
            found[name] = Evaluation.load(candidate_folder(workspace, (name,)) / "evaluation.json")
    return found


def _draw_case(workspace: Workspace, result: RunResult, place: str, scores: CaseScores, path: Path) -> None:
    """Write the overlay of a held-out case with its reference and prediction."""
    case = {case.name: case for case in Dataset.load(workspace.dataset).cases}[scores.name]
    ((_, predicted, reference),) = held_out_pairs(workspace, result.reached, [case])
    score = "" if scores.dice is None else f", Dice {scores.dice:.3f}"
    write_overlay(
        path,
        read_image([Path(image) for image in case.images]),
        read_label(reference),
        read_label(predicted),
        result.evaluation.labels,
        f"{case.name}, {place} of the held-out cases{score}",
    )


def _draw_curves(workspace: Workspace, result: RunResult, name: ConfigurationName, path: Path) -> None:
    """Write the curves of the run's trainings of a configuration."""
    histories = {fold: workspace.fold(name, fold).history for fold in result.folds}
    write_fold_curves(path, histories, f"{result.dataset}, {name}")
