"""Label maps of held-out cases, by the fold that has not seen them.

Where several configurations are compared, alone and together, each case is predicted once by each of them, and all
label maps are made on the way. What is there is noted now and then, so that a run that was broken off goes on with the
case that it was at.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from autoseg.core.artefact import Artefact, digest_of, digest_of_file
from autoseg.core.errors import PredictionError
from autoseg.core.labels import Labels
from autoseg.core.progress import Progress, Task
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Case, Dataset
from autoseg.data.image import LabelImage, write_label
from autoseg.data.scan import read_scan
from autoseg.infer.outcome import Scan, failure
from autoseg.infer.output import suffix_like
from autoseg.infer.predictor import Predictor
from autoseg.pipeline.planning.folds import load_split
from autoseg.pipeline.planning.prepare import load_plan
from autoseg.pipeline.prediction.models import ModelChoice, load_model
from autoseg.pipeline.prediction.record import SECONDS_BETWEEN_RECORDS
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.select.choose import Together
from autoseg.select.ensemble import Member, segment_together

Item = TypeVar("Item")
Result = TypeVar("Result")


class HeldOutPredictions(Artefact):
    """Label maps that networks of a fold wrote; `made_from` names their weights and how they predicted.

    Attributes:
        outputs: Name of the file by case.
        images: Digest of the images by case.
    """

    outputs: dict[str, str]
    images: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class HeldOutRequest:
    """Which held-out cases are predicted, by which networks, and how.

    Attributes:
        candidates: Configurations, alone or together.
        folds: Whose held-out cases are predicted, each by its own networks.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        mirror: Whether to average over mirrored scans.
    """

    candidates: tuple[Together, ...]
    folds: tuple[int, ...]
    device: str
    mirror: bool

    @property
    def configurations(self) -> tuple[ConfigurationName, ...]:
        """All that take part, each once."""
        return tuple(dict.fromkeys(name for together in self.candidates for name in together))


def predict_held_out(workspace: Workspace, request: HeldOutRequest, progress: Progress) -> None:
    """Write the label maps of all held-out cases by all candidates; those of unchanged networks are kept.

    Each case is predicted once by each configuration. The probabilities that ensembles need wait in the workspace, and
    are gone before the next case.

    Raises:
        PredictionError: If a fold is not trained, or a case cannot be predicted.
    """
    planned = load_plan(workspace)
    cases = {case.name: case for case in Dataset.load(workspace.dataset).cases}
    splits = {fold: load_split(workspace, fold).validation for fold in request.folds}
    with progress.task("predict held-out cases", sum(map(len, splits.values()))) as task:
        for fold, names in splits.items():
            predictors = {
                name: load_model(workspace, _choice(workspace, request, name, fold)) for name in request.configurations
            }
            images = {name: _images_digest(cases[name]) for name in names}
            noted = {
                together: _Noted(
                    candidate_folder(workspace, together),
                    fold,
                    _made_from(workspace, planned, together, fold, request.mirror),
                    images,
                )
                for together in request.candidates
            }
            missing = [cases[name] for name in names if any(name not in found for found in noted.values())]
            task.advance(len(names) - len(missing))
            for found in noted.values():
                found.take_over([case.name for case in missing])
            try:
                _Fold(predictors, noted, planned, workspace.root / "crossval", task).predict(missing)
            finally:
                for found in noted.values():
                    found.close(names)


def candidate_folder(workspace: Workspace, together: Together) -> Path:
    """Return the folder of the held-out label maps of a configuration, or of several together."""
    return workspace.crossval("+".join(together))


def mirrored_before(workspace: Workspace) -> bool:
    """Return whether held-out cases were predicted with their mirror images last time; yes if none was."""
    records = list((workspace.root / "crossval").glob("*/fold_*.json"))
    if not records:
        return True
    latest = max(records, key=lambda path: path.stat().st_mtime_ns)
    return HeldOutPredictions.load(latest).made_from.get("mirrored") != str(False)


def _choice(workspace: Workspace, request: HeldOutRequest, name: ConfigurationName, fold: int) -> ModelChoice:
    """Return the network of a fold, in a cascade after that of the same fold in the stage before."""
    scratch = workspace.root / "crossval"
    scratch.mkdir(parents=True, exist_ok=True)
    return ModelChoice(name, (fold,), request.device, request.mirror, earlier_folds=(fold,), scratch=scratch)


def _made_from(workspace: Workspace, planned: Plan, together: Together, fold: int, mirror: bool) -> dict[str, str]:
    """Return the digests of all networks that make a candidate's label maps of a fold, and how they predict."""
    stages = (planned.configurations[name].previous_stage for name in together)
    earlier = (stage for stage in stages if stage is not None)
    networks: list[ConfigurationName] = list(dict.fromkeys((*together, *earlier)))
    digests: dict[str, str] = {name: digest_of_file(workspace.fold(name, fold).weights) for name in networks}
    tiles = [(planned.configurations[name].patch_size, planned.configurations[name].mirror_axes) for name in networks]
    inference = digest_of([planned.inference.model_dump(mode="json"), tiles])
    return {"mirrored": str(mirror), "inference": inference, **digests}


def _images_digest(case: Case) -> str:
    """Return the digest of the images of a case, by their names, sizes and times of change."""
    found = {name: Path(name).stat() for name in case.images if Path(name).exists()}
    return digest_of({name: (status.st_size, status.st_mtime_ns) for name, status in found.items()})


class _Noted:
    """The label maps of a candidate for the held-out cases of a fold: written now and then, and whole at the end."""

    def __init__(self, folder: Path, fold: int, made_from: dict[str, str], images: dict[str, str]) -> None:
        self._folder = folder
        self._whole, self._part = (folder / f"{state}fold_{fold}.json" for state in ("", "unfinished_"))
        self._predictions = HeldOutPredictions(made_from=made_from, outputs={}, images=images)
        for path in (self._whole, self._part):
            if path.exists() and (known := HeldOutPredictions.load(path)).made_from == made_from:
                there = {
                    name: file
                    for name, file in known.outputs.items()
                    if (folder / file).exists() and known.images.get(name) == images.get(name)
                }
                self._predictions = self._predictions.model_copy(update={"outputs": there})
                break
        self._saved_s = time.monotonic()

    def __contains__(self, name: str) -> bool:
        return name in self._predictions.outputs

    def take_over(self, names: Sequence[str]) -> None:
        """Drop label maps that are about to be replaced from the records of other networks and folds."""
        for path in self._folder.glob("*fold_*.json"):
            known = HeldOutPredictions.load(path)
            kept = {name: file for name, file in known.outputs.items() if name not in names or name in self}
            is_own = path in (self._whole, self._part) and known.made_from == self._predictions.made_from
            if kept != known.outputs and not is_own:
                known.model_copy(update={"outputs": kept}).save(path)

    def add(self, name: str, file: Path) -> None:
        """Note a label map that was written."""
        outputs = {**self._predictions.outputs, name: file.name}
        self._predictions = self._predictions.model_copy(update={"outputs": outputs})
        if time.monotonic() - self._saved_s > SECONDS_BETWEEN_RECORDS:
            self._whole.unlink(missing_ok=True)
            self._predictions.save(self._part)
            self._saved_s = time.monotonic()

    def close(self, names: Sequence[str]) -> None:
        """Write the record of all label maps that are there; it says by its name whether these are all."""
        is_whole = all(name in self for name in names)
        self._predictions.save(self._whole if is_whole else self._part)
        (self._part if is_whole else self._whole).unlink(missing_ok=True)

    def file_of(self, case: Case, labels: Labels) -> Path:
        """Return where the label map of a case goes."""
        return self._folder / f"{case.name}{suffix_like(Path(case.images[0]), labels)}"


@dataclass(frozen=True)
class _Fold:
    """The networks of a fold, and what they have done so far."""

    predictors: Mapping[ConfigurationName, Predictor]
    noted: Mapping[Together, _Noted]
    plan: Plan
    scratch: Path
    task: Task

    def predict(self, cases: Sequence[Case]) -> None:
        """Write the label maps that are missing; a case is read while the one before is predicted, and that written."""
        written: Future[None] | None = None
        with ThreadPoolExecutor(1, "writer") as writer:
            for case, members in _one_ahead(self._prepared, cases):
                maps = self._segmented(case, members)
                if written is not None:
                    written.result()
                written = writer.submit(self._write, case, maps)
            if written is not None:
                written.result()

    def _wanted(self, case: Case) -> list[Together]:
        return [together for together, found in self.noted.items() if case.name not in found]

    def _prepared(self, case: Case) -> dict[ConfigurationName, Member]:
        """Return a scan as each configuration that is needed sees it."""
        names = dict.fromkeys(name for together in self._wanted(case) for name in together)
        files = tuple(Path(path) for path in case.images)
        with _named(case):
            image = read_scan(files, self.scratch).image
            return {
                name: Member(predictor.prepare(image, case.name), predictor.model, predictor.settings)
                for name in names
                if (predictor := self.predictors[name])
            }

    def _segmented(self, case: Case, members: dict[ConfigurationName, Member]) -> dict[Together, LabelImage]:
        """Return the label map of a case by each candidate that lacks it."""
        wanted, names = self._wanted(case), list(members)
        numbers = [[names.index(name) for name in together] for together in wanted]
        with _named(case):
            maps = segment_together(list(members.values()), numbers, partial(self.task.advance, scan=case.name))
        return dict(zip(wanted, maps, strict=True))

    def _write(self, case: Case, maps: Mapping[Together, LabelImage]) -> None:
        for together, label in maps.items():
            file = self.noted[together].file_of(case, self.plan.labels)
            with _named(case):
                write_label(file, label)
            self.noted[together].add(case.name, file)


@contextmanager
def _named(case: Case) -> Iterator[None]:
    """Say of which case an error within the block is.

    Raises:
        PredictionError: In its place.
    """
    try:
        yield
    except Exception as error:
        raise PredictionError(failure(Scan(tuple(map(Path, case.images)), Path(case.name)), error)) from error


def _one_ahead(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result]]:
    """Give each item with the function's result, found while the item before is at work."""
    with ThreadPoolExecutor(1, "reader") as reader:
        upcoming = [reader.submit(function, item) for item in items[:1]]
        for number, item in enumerate(items):
            result = upcoming.pop().result()
            upcoming.extend(reader.submit(function, following) for following in items[number + 1 : number + 2])
            yield item, result
