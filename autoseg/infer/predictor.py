"""A model that is loaded once and segments scans, in memory or from file to file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from autoseg.core.errors import PredictionError
from autoseg.data.image import Image, LabelImage
from autoseg.data.scan import read_scan
from autoseg.infer.case import Model, Onlooker, Settings, prepare_scan, segment
from autoseg.infer.output import require_apart, require_writable, write_output
from autoseg.infer.unlike import Familiar
from autoseg.network.checkpoint import load_network
from autoseg.network.unet import place
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.preprocess.case import Prepared


class Segments(Protocol):
    """What segments scans one by one: a model, or several that decide together."""

    @property
    def model(self) -> Model:
        """Plan and labels; of several, the first."""

    @property
    def settings(self) -> Settings:
        """Device and precision; of several, those of the first."""

    @property
    def familiar(self) -> Familiar | None:
        """What it knows, for warnings when a scan is unlike it."""

    def prepare(self, image: Image, name: str = "image") -> Prepared:
        """Return a scan as the networks see it."""

    def predict_prepared(
        self, prepared: Prepared, report: Callable[[float], None] = lambda _: None, onlooker: Onlooker | None = None
    ) -> LabelImage:
        """Return the label map of a prepared scan."""

    def by_fold(self, prepared: Prepared) -> Iterator[LabelImage]:
        """Give the label map that the networks of each fold find without the others."""


@dataclass(frozen=True)
class Predictor:
    """A model that is loaded once and segments any number of scans.

    Attributes:
        model: Networks and plan.
        settings: Device, precision, mirroring.
        familiar: What the model knows, for warnings when a scan is unlike it; None for no such warnings.
    """

    model: Model
    settings: Settings
    familiar: Familiar | None = None

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
        networks = tuple(place(load_network(path, chosen.network), settings.device) for path in weights)
        return cls(Model(plan, chosen, networks), settings)

    def predict(self, image: Image) -> LabelImage:
        """Return the label map of a scan on its grid, in the label values of the dataset.

        Raises:
            PredictionError: If the scan's channels are not the model's, or a voxel is not finite.
        """
        return self.predict_prepared(self.prepare(image))

    def predict_file(self, images: Sequence[Path], output: Path) -> LabelImage:
        """Segment a scan from files to a file, and return its label map; for many scans see `predict_files`.

        Args:
            images: One file of all channels or one per channel, in the order of the plan; a folder or zip stands for a
                DICOM series.
            output: Its suffix names the format; `.dcm` stands for a DICOM segmentation object.

        Raises:
            AutosegError: If the scan cannot be read or segmented, or its label map not be written, or would replace it.
        """
        return predict_file(self, images, output)

    def prepare(self, image: Image, name: str = "image") -> Prepared:
        """Return a scan as the networks see it; `name` stands for it in errors.

        Raises:
            PredictionError: If the scan's channels are not the model's, or a voxel is not finite.
            DatasetError: If memory cannot hold the scan at the model's spacing.
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

    def predict_prepared(
        self, prepared: Prepared, report: Callable[[float], None] = lambda _: None, onlooker: Onlooker | None = None
    ) -> LabelImage:
        """Return the label map of a prepared scan, telling `report` of every share of the work that is done."""
        return segment(prepared, self.model, self.settings, report, onlooker)

    def by_fold(self, prepared: Prepared) -> Iterator[LabelImage]:
        """Give the label map that the network of each fold finds alone."""
        for network in self.model.networks:
            yield replace(self, model=replace(self.model, networks=(network,))).predict_prepared(prepared)


def predict_file(predictor: Segments, images: Sequence[Path], output: Path) -> LabelImage:
    """Segment a scan from files to a file; see `Predictor.predict_file`."""
    require_apart([output], images)
    found = read_scan(images, predictor.settings.scratch)
    require_writable(output, found, predictor.model.plan.labels)
    label = predictor.predict_prepared(predictor.prepare(found.image, str(images[0])))
    write_output(output, label, predictor.model.plan.labels, found.series)
    return label
