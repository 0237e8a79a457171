"""Scans become label maps: in memory, or from files to files with every error staying with its scan."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from autoseg.core.artefact import Record
from autoseg.core.errors import AutosegError, PredictionError
from autoseg.core.labels import Labels
from autoseg.core.progress import Progress, Task
from autoseg.data.image import NIFTI_SUFFIXES, PICTURE_SUFFIXES, Image, LabelImage, case_stem, read_image, write_label
from autoseg.infer.case import Model, Settings, prepare_scan, segment
from autoseg.network.checkpoint import load_network
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.preprocess.case import Prepared

_logger = logging.getLogger(__name__)

_FORESEEN = (AutosegError, OSError, ValueError, RuntimeError, MemoryError)
"""What a scan, a disk or a full memory can raise; the last three also through torch and SimpleITK."""


@dataclass(frozen=True)
class Scan:
    """A scan to be segmented.

    Attributes:
        images: Its files, channels in the order of the plan.
        output: Where the label map goes; its suffix names the format.
    """

    images: tuple[Path, ...]
    output: Path


class Outcome(Record):
    """What became of a scan.

    Attributes:
        image: Its first file.
        output: The label map; None if there is none.
        error: Why there is none.
    """

    image: Path
    output: Path | None = None
    error: str | None = None


@dataclass(frozen=True)
class Predictor:
    """A model that is loaded once and segments any number of scans."""

    model: Model
    settings: Settings

    @classmethod
    def load(cls, plan: Plan, configuration: ConfigurationName, weights: Sequence[Path], settings: Settings) -> Self:
        """Load one network per file of weights onto the device.

        Raises:
            ArtefactError: If weights are missing, damaged or of another network.
            PredictionError: If the plan lacks the configuration, or no weights are given.
        """
        if configuration not in plan.configurations:
            raise PredictionError(
                f"plan of {plan.dataset}: configuration must be one of {sorted(plan.configurations)}, "
                f"got {configuration}. Choose one of them."
            )
        if not weights:
            raise PredictionError(f"{configuration}: at least one fold must be trained, got none. Train one first.")
        chosen = plan.configurations[configuration]
        networks = tuple(load_network(path, chosen.network).to(settings.device) for path in weights)
        return cls(Model(plan, chosen, networks), settings)

    def predict(self, image: Image) -> LabelImage:
        """Return the label map of a scan on its grid, in the label values of the dataset.

        Raises:
            PredictionError: If the scan's channels are not the model's, or a voxel is not finite.
        """
        return self.predict_prepared(self.prepare(image))

    def prepare(self, image: Image, name: str = "image") -> Prepared:
        """Return a scan as the networks see it; `name` stands for it in errors.

        Raises:
            PredictionError: If the scan's channels are not the model's, or a voxel is not finite.
        """
        plan = self.model.plan
        if len(image.array) != len(plan.channels):
            raise PredictionError(
                f"{name}: must have the channels of the model, {', '.join(plan.channels)} ({len(plan.channels)}), "
                f"got {len(image.array)}. Give the files of all channels in this order."
            )
        if not np.isfinite(image.array).all():
            raise PredictionError(f"{name}: voxels must be finite numbers, got others. Replace them.")
        return prepare_scan(image, self.model, name)

    def predict_prepared(self, prepared: Prepared, report: Callable[[float], None] = lambda _: None) -> LabelImage:
        """Return the label map of a prepared scan, telling `report` of every share of the work that is done."""
        return segment(prepared, self.model, self.settings, report)

    def predict_files(self, scans: Sequence[Scan], progress: Progress) -> tuple[Outcome, ...]:
        """Segment scans from files to files; the next is read and the last is written beside the network's work.

        Args:
            scans: In the order in which they are done.
            progress: Told of the share of each scan that is done.

        Returns:
            One outcome per scan, in order. A scan that cannot be read, segmented or written does not stop the others.

        Raises:
            ValueError: If two scans have the same output.
        """
        outputs = [scan.output for scan in scans]
        if len(set(outputs)) != len(outputs):
            twice = next(path for path in outputs if outputs.count(path) > 1)
            raise ValueError(f"outputs must differ, got {twice} twice")
        with (
            progress.task("predicting", total=len(scans)) as task,
            ThreadPoolExecutor(1, "reader") as reader,
            ThreadPoolExecutor(1, "writer") as writer,
        ):
            return self._pass_through(scans, task, reader, writer)

    def _pass_through(
        self, scans: Sequence[Scan], task: Task, reader: ThreadPoolExecutor, writer: ThreadPoolExecutor
    ) -> tuple[Outcome, ...]:
        """Read one scan ahead and write one behind, so that three scans are in memory at most."""
        outcomes: list[Future[Outcome]] = []
        upcoming = [reader.submit(self._read, scan) for scan in scans[:1]]
        for number, scan in enumerate(scans):
            prepared = upcoming.pop()
            upcoming.extend(reader.submit(self._read, following) for following in scans[number + 1 : number + 2])
            label = self._segment(prepared, scan, task)
            if outcomes:
                outcomes[-1].result()
            outcomes.append(writer.submit(_write, scan, label))
        return tuple(outcome.result() for outcome in outcomes)

    def _read(self, scan: Scan) -> Prepared:
        return self.prepare(read_image(scan.images), str(scan.images[0]))

    def _segment(self, prepared: Future[Prepared], scan: Scan, task: Task) -> LabelImage | Outcome:
        """Return the label map, or the outcome of a scan that has none."""
        done = 0.0

        def report(share: float) -> None:
            nonlocal done
            done += share
            task.advance(share)

        try:
            return self.predict_prepared(prepared.result(), report)
        except _FORESEEN as error:
            return _failed(scan, error)
        finally:
            task.advance(1 - done, scan=scan.images[0].name)


def output_path(image: Path, folder: Path, labels: Labels) -> Path:
    """Return where the label map of an image goes: its name, its format where that can hold the labels.

    Args:
        image: First file of the scan.
        folder: Of the output.
        labels: Pictures hold values from 0 to 65535; a label map with others becomes MHA.
    """
    name = image.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        suffix = ".nii.gz"
    elif name.endswith(".nrrd"):
        suffix = ".nrrd"
    elif name.endswith(PICTURE_SUFFIXES) and labels.dtype in (np.uint8, np.uint16):
        suffix = ".tif" if name.endswith((".tif", ".tiff")) else ".png"
    else:
        suffix = ".mha"
    return folder / f"{case_stem(image)}{suffix}"


def _write(scan: Scan, label: LabelImage | Outcome) -> Outcome:
    if isinstance(label, Outcome):
        return label
    try:
        write_label(scan.output, label)
    except _FORESEEN as error:
        return _failed(scan, error)
    return Outcome(image=scan.images[0], output=scan.output)


def _failed(scan: Scan, error: BaseException) -> Outcome:
    image = scan.images[0]
    _logger.debug("%s failed", image, exc_info=error)
    if isinstance(error, AutosegError):
        return Outcome(image=image, error=str(error))
    reason = " ".join(str(error).split()) or "no more memory"
    return Outcome(
        image=image,
        error=f"{image}: must be segmented and written, got {type(error).__name__}: {reason}. "
        "Check the file, and the space in memory and on the disk.",
    )
