"""Where everything lies on disk: the one home of every path inside a workspace."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

DEFAULT_WORKSPACE = Path("autoseg_work")

FoldName: TypeAlias = int | Literal["all-data"]
"""Which cases a training holds out: those of a numbered fold, or none."""

ALL_DATA: Literal["all-data"] = "all-data"
"""The training that holds no case out: its network has seen all there is, and can be scored on new cases only."""


@dataclass(frozen=True)
class FoldFolder:
    """The folder of one training: one configuration, one fold."""

    root: Path

    @property
    def weights(self) -> Path:
        """Weights of the finished training, for prediction (safetensors)."""
        return self.root / "weights.safetensors"

    @property
    def checkpoint(self) -> Path:
        """State from which a broken-off training goes on."""
        return self.root / "last.checkpoint"

    @property
    def spent(self) -> Path:
        """How long the training under way has taken, noted more often than there are checkpoints."""
        return self.root / "spent.txt"

    @property
    def history(self) -> Path:
        """One row per epoch."""
        return self.root / "history.csv"

    @property
    def record(self) -> Path:
        """The `TrainingRecord` of the finished training."""
        return self.root / "training.json"

    @property
    def failure(self) -> Path:
        """Why the last training here failed, if it did."""
        return self.root / "failure.json"

    @property
    def lock(self) -> Path:
        """Held while a training runs here."""
        return self.root / "training.lock"

    @property
    def log(self) -> Path:
        """What a training in a process of its own has to say."""
        return self.root / "training.log"

    def aside(self, identity: str) -> "FoldFolder":
        """Where a training is kept that has made room for one of other settings or data."""
        return FoldFolder(self.root.parent / "earlier" / f"{self.root.name}_{identity}")

    @property
    def submission(self) -> Path:
        """The job of a cluster that trains here."""
        return self.root / "submission.json"


@dataclass(frozen=True)
class Workspace:
    """A folder that holds all that autoseg makes of one dataset; nothing is written outside it."""

    root: Path

    @property
    def dataset(self) -> Path:
        return self.root / "dataset.json"

    @property
    def check(self) -> Path:
        """Findings about the dataset."""
        return self.root / "check.json"

    @property
    def allocation(self) -> Path:
        """How a run shares out its budget."""
        return self.root / "allocation.json"

    @property
    def spent(self) -> Path:
        """What a run that is under way, or was broken off, has spent of its budget."""
        return self.root / "spent.json"

    @property
    def failure(self) -> Path:
        """Why the last run failed, if it did."""
        return self.root / "failure.json"

    @property
    def unpacked(self) -> Path:
        """Where archives are unpacked to."""
        return self.root / "unpacked"

    @property
    def splits(self) -> Path:
        return self.root / "splits.json"

    @property
    def fingerprint(self) -> Path:
        return self.root / "fingerprint.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def planning(self) -> Path:
        """How the plan was asked for."""
        return self.root / "planning.json"

    @property
    def costs(self) -> Path:
        """What the plan costs on the machine that it was made on."""
        return self.root / "costs.json"

    @property
    def selection(self) -> Path:
        return self.root / "selection.json"

    @property
    def imported(self) -> Path:
        """The `dataset.json` of the models that were imported, where the workspace holds such."""
        return self.root / "imported_dataset.json"

    @property
    def packed(self) -> Path:
        """The manifest of a packed model, where the workspace is an unpacked one."""
        return self.root / "model.json"

    @property
    def run(self) -> Path:
        """What a run has reached."""
        return self.root / "run.json"

    @property
    def benchmark(self) -> Path:
        """What a benchmark has reached."""
        return self.root / "benchmark.json"

    @property
    def downloads(self) -> Path:
        """Datasets that were downloaded or made on the spot."""
        return self.root / "downloads"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def jobs(self) -> Path:
        """What submitit keeps of the jobs of a cluster: scripts, pickles, what they say."""
        return self.root / "jobs"

    @property
    def preparing(self) -> Path:
        """Lock that is held while trainings are prepared."""
        return self.root / "preparing.lock"

    @property
    def scoring(self) -> Path:
        """Lock that is held while held-out cases are scored."""
        return self.root / "scoring.lock"

    def preprocessed(self, data_key: str) -> Path:
        """Folder of the preprocessed cases of one way of preprocessing."""
        return self.root / "preprocessed" / data_key

    def fold(self, configuration: str, fold: FoldName) -> FoldFolder:
        """Folder of one training."""
        return FoldFolder(self.root / "models" / configuration / f"fold_{fold}")

    def folds(self, configuration: str) -> dict[int, FoldFolder]:
        """Folders of the finished trainings of a configuration that hold cases out, by fold; copies are none."""
        numbered = re.compile(r"fold_(0|[1-9][0-9]*)")
        found = (self.root / "models" / configuration).glob("fold_*")
        folders = {int(name[1]): FoldFolder(path) for path in found if (name := numbered.fullmatch(path.name))}
        return {fold: folder for fold, folder in sorted(folders.items()) if folder.record.exists()}

    def submissions(self) -> list[Path]:
        """Which jobs of a cluster train here, or did last."""
        return sorted((self.root / "models").glob("*/fold_*/submission.json"))

    def trainings(self, configuration: str) -> dict[FoldName, FoldFolder]:
        """Folders of all finished trainings of a configuration: its folds, and the one that holds no case out."""
        names: tuple[FoldName, ...] = (*self.folds(configuration), ALL_DATA)
        folders = {name: self.fold(configuration, name) for name in names}
        return {name: folder for name, folder in folders.items() if folder.record.exists()}

    def crossval(self, configuration: str) -> Path:
        """Folder of the held-out predictions of a configuration."""
        return self.root / "crossval" / configuration
