"""What every treatment would do to the scores of held-out cases, from their files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from autoseg.core.errors import EvaluationError
from autoseg.core.geometry import Spacing
from autoseg.core.labels import Labels
from autoseg.core.parallel import parallel_map
from autoseg.core.progress import Progress
from autoseg.data.image import read_label
from autoseg.evaluate.pairs import Pair
from autoseg.plan.rules import Empirical
from autoseg.select.crossfit import UNTOUCHED, Metric, mask_score, outcomes
from autoseg.select.postprocess import UNTREATED, Postprocessing, Treatment, postprocess, treatments


@dataclass(frozen=True)
class Trial:
    """What is tried on label maps, and how it is judged.

    Attributes:
        labels: Classes.
        metric: That judges.
        rules: Constants of scores and treatments.
    """

    labels: Labels
    metric: Metric
    rules: Empirical

    @property
    def tried(self) -> tuple[Treatment, ...]:
        """What may be done to a class, doing nothing first."""
        return treatments(self.rules.postprocessing.min_volumes_mm3)


def measure_outcomes(pairs: Sequence[Pair], trial: Trial, num_workers: int, progress: Progress) -> NDArray[np.float64]:
    """Return the score of each class of each case after each treatment, (cases, 2, classes, treatments).

    Args:
        pairs: Name of the case, file of its prediction, file of its reference.
        trial: What is tried.
        num_workers: Processes that measure cases side by side.
        progress: Shows one step per case.

    Raises:
        EvaluationError: If a process dies.
    """
    measure = partial(case_outcomes, trial=trial)
    return _measured("postprocessing", measure, pairs, num_workers, progress)


def case_outcomes(pair: Pair, trial: Trial) -> NDArray[np.float64]:
    """Return the score of each class of a case after each treatment, (2, classes, treatments); see `outcomes`."""
    prediction, reference, spacing_mm = _read(pair, trial.labels)
    score = mask_score(trial.metric, spacing_mm, trial.rules.evaluation)
    return outcomes(prediction, reference, spacing_mm, trial.labels, trial.tried, score)


def measure_postprocessed(
    pairs: Sequence[Pair], trial: Trial, postprocessing: Postprocessing, num_workers: int, progress: Progress
) -> NDArray[np.float64]:
    """Return the score of each class of each case after postprocessing, one step after another, (cases, classes).

    Args:
        pairs: Name of the case, file of its prediction, file of its reference.
        trial: How scores are taken.
        postprocessing: What is done.
        num_workers: Processes that measure cases side by side.
        progress: Shows one step per case.

    Raises:
        EvaluationError: If a process dies.
    """
    measure = partial(case_postprocessed, trial=trial, postprocessing=postprocessing)
    return _measured("check postprocessing", measure, pairs, num_workers, progress)


def case_postprocessed(pair: Pair, trial: Trial, postprocessing: Postprocessing) -> NDArray[np.float64]:
    """Return the score of each class of a case after postprocessing, (classes,)."""
    prediction, reference, spacing_mm = _read(pair, trial.labels)
    score = mask_score(trial.metric, spacing_mm, trial.rules.evaluation)
    treated = postprocess(prediction, spacing_mm, trial.labels, postprocessing)
    found: NDArray[np.float64] = outcomes(treated, reference, spacing_mm, trial.labels, (UNTREATED,), score)
    return found[UNTOUCHED, :, 0]


def _measured(
    name: str,
    measure: Callable[[Pair], NDArray[np.float64]],
    pairs: Sequence[Pair],
    num_workers: int,
    progress: Progress,
) -> NDArray[np.float64]:
    rows = []
    with progress.task(name, len(pairs)) as task:
        for row in parallel_map(measure, pairs, num_workers, _name_of, EvaluationError):
            rows.append(row)
            task.advance()
    return np.stack(rows)


def _read(pair: Pair, labels: Labels) -> tuple[NDArray[np.uint16], NDArray[np.uint16], Spacing]:
    """Return prediction and reference as class indices, and the spacing of the reference in mm."""
    prediction, reference = (read_label(path) for path in pair[1:])
    return labels.to_indices(prediction.array), labels.to_indices(reference.array), reference.geometry.spacing


def _name_of(pair: Pair) -> str:
    return pair[0]
