"""What a run is asked for, and what it has reached."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from autoseg.core.artefact import Artefact, digest_of
from autoseg.evaluate.scores import Evaluation
from autoseg.pipeline.budget.schedule import Allocation
from autoseg.pipeline.jobs.side_by_side import ONE_BY_ONE, SideBySide
from autoseg.pipeline.planning.prepare import DataOptions, PlanOptions
from autoseg.pipeline.training.fold import TrainingLength, num_loaders
from autoseg.plan.schema import ConfigurationName
from autoseg.select.choose import Selection, Together
from autoseg.train.loop import TrainingRequest


@dataclass(frozen=True)
class RunRequest:
    """What to run.

    Attributes:
        source: Folder or archive of the dataset.
        data: How it is read.
        planning: How it is planned; without a preset, the one that suits the device.
        configurations: Of the plan; None for all that are worth training or, with some of the folds alone, for the
            usual one. A cascade brings the stage before it.
        folds: To train; None for all, and a selection among the configurations.
        num_epochs: Length of each training in epochs; None for that of the plan's recipe, or for a budget.
        budget_s: Seconds of wall time for everything together; None for as long as the epochs take.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        seed: Of weights, patches and augmentation.
        init_from: Weights to begin with, a file or the folder of a finished training; None for random ones.
        side_by_side: How many trainings run at a time, and who starts them.
        began_s: Reading of `time.monotonic` at which the budget began; None for the call of `run`.
    """

    source: Path
    data: DataOptions
    planning: PlanOptions
    configurations: tuple[str, ...] | None = None
    folds: tuple[int, ...] | None = None
    num_epochs: int | None = None
    budget_s: float | None = None
    device: str = "auto"
    seed: int = 0
    init_from: Path | None = None
    side_by_side: SideBySide = ONE_BY_ONE
    began_s: float | None = None

    @property
    def budget_digest(self) -> str:
        """Digest of what a budget is for."""
        return digest_of([self.budget_s, self.configurations, self.folds, self.device, self.seed])

    def training(self, configuration: ConfigurationName, fold: int, length: TrainingLength) -> TrainingRequest:
        """Return the request for the training of one fold."""
        return TrainingRequest(
            configuration=configuration,
            fold=fold,
            num_epochs=length.num_epochs,
            budget_s=length.budget_s,
            device=self.device,
            seed=self.seed,
            num_workers=num_loaders(self.device, self.data.num_workers),
            restart=False,
            makes_room=True,
            init_from=self.init_from,
        )


class RunResult(Artefact):
    """What a run has reached.

    Attributes:
        dataset: Its name.
        trained: Configurations that were trained in all folds that were asked for, in that order.
        folds: That were trained.
        reached: Configurations whose held-out scores count: those that were selected; without a selection, the first
            one that was trained.
        evaluation: Of these, before postprocessing, on the held-out cases of these folds.
        others: Without a selection, the evaluations of the other configurations.
        selection: What was selected; None if folds were left out.
        allocation: What each configuration took.
        seconds: Wall time per stage; of training, all its runs together.
        failed: Why trainings have failed, by name; their configurations are not among those that were trained.
    """

    current_version: ClassVar[int] = 2

    schema_version: int = 2
    dataset: str
    trained: Together
    folds: tuple[int, ...]
    reached: Together
    evaluation: Evaluation
    others: dict[ConfigurationName, Evaluation] = Field(default_factory=dict)
    selection: Selection | None = None
    allocation: Allocation
    seconds: dict[str, float]
    failed: dict[str, str] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """Names of the configurations whose scores count, joined by a plus."""
        return " + ".join(self.reached)
