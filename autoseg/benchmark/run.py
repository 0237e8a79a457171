"""A public challenge dataset end to end: from its name to our Dice beside the published one."""

from dataclasses import replace
from pathlib import Path

from autoseg.benchmark.download import fetch
from autoseg.benchmark.phantom import make_phantom
from autoseg.benchmark.registry import Entry, find_entry
from autoseg.core.artefact import Artefact, Record
from autoseg.core.progress import Progress
from autoseg.core.workspace import Workspace
from autoseg.pipeline import RunRequest, RunResult, run
from autoseg.train.hooks import NO_HOOKS, Hooks

PHANTOM = "phantom"
"""Name of the dataset that is made on the spot."""

PHANTOM_SEED = 2021
"""Of its scans: everyone gets the same."""


class Comparison(Record):
    """A row of the table: a score of ours beside the published ones.

    Attributes:
        name: Of the class, or "mean of classes".
        ours: Dice of the held-out cases, in percent; None if it is not defined.
        published: Dice in percent by the name of the network; None where it was not published.
    """

    name: str
    ours: float | None
    published: dict[str, float | None]


class BenchmarkResult(Artefact):
    """What a benchmark has reached.

    Attributes:
        run: Our run.
        source: Where the published scores come from; empty if there are none.
        comparison: One row per class, the mean last.
    """

    run: RunResult
    source: str
    comparison: tuple[Comparison, ...]


def benchmark(
    name: str,
    source: Path | None,
    workspace: Workspace,
    request: RunRequest,
    progress: Progress,
    hooks: Hooks = NO_HOOKS,
) -> BenchmarkResult:
    """Fetch a dataset by its name, run the pipeline on it, and compare with the published scores of the same folds.

    Args:
        name: Entry of `datasets.json`.
        source: Folder or archive to use instead of a download.
        workspace: For everything.
        request: What to run; its `source` is replaced.
        progress: Shows the stages.
        hooks: What ends a training early, and what its epochs bring about.

    Raises:
        DownloadError: If the name is unknown or the dataset cannot be fetched.
        AutosegError: Of the stage that fails.
    """
    entry = find_entry(name)
    data = source or _get(entry, workspace, progress)
    finished = run(workspace, replace(request, source=data), progress, hooks)
    result = BenchmarkResult(
        run=finished,
        source=entry.published.source if entry.published else "",
        comparison=compare(finished, entry),
    )
    result.save(workspace.benchmark)
    return result


def compare(finished: RunResult, entry: Entry) -> tuple[Comparison, ...]:
    """Return our scores beside the published ones of the same folds, per class and on the mean."""
    networks = entry.published.dice_percent if entry.published else {}
    published = {network: dice.over(finished.folds) for network, dice in networks.items()}
    shown = {network: score for network, score in published.items() if score is not None}
    evaluation = finished.evaluation
    rows = []
    for index, (label, summary) in enumerate(evaluation.per_class.items()):
        theirs = {network: _nth(score.per_class, index) for network, score in shown.items()}
        rows.append(Comparison(name=label, ours=_percent(summary.dice.mean), published=theirs))
    means: dict[str, float | None] = {network: score.mean for network, score in shown.items()}
    rows.append(Comparison(name="mean of classes", ours=_percent(evaluation.mean_foreground_dice), published=means))
    return tuple(rows)


def _get(entry: Entry, workspace: Workspace, progress: Progress) -> Path:
    if entry.name == PHANTOM:
        return make_phantom(workspace.downloads / PHANTOM, PHANTOM_SEED, entry.num_cases)
    return fetch(entry, workspace.downloads, progress)


def _nth(scores: tuple[float, ...], index: int) -> float | None:
    return scores[index] if index < len(scores) else None


def _percent(score: float | None) -> float | None:
    return None if score is None else 100 * score
