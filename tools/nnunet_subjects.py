"""nnU-Net's own models with scans for them, taken over into workspaces: where comparisons of predictions begin."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.core.workspace import Workspace
from autoseg.data.image import read_label
from autoseg.infer.predictor import Predictor
from autoseg.interop.nnunet_models import import_nnunet
from autoseg.pipeline.prediction.models import ModelChoice, load_model
from autoseg.plan.schema import ConfigurationName


@dataclass(frozen=True)
class Subject:
    """A model of nnU-Net, and scans for it.

    Attributes:
        folder: Of the model.
        images: Folder of scans.
        place: Workspace that the model was imported into.
        configuration: Of the plan.
        earlier: Folder of the first stage's model, for a cascade.
    """

    folder: Path
    images: Path
    place: Workspace
    configuration: ConfigurationName
    earlier: Path | None

    @property
    def name(self) -> str:
        """What tables show."""
        _, plans, configuration = self.folder.name.split("__")
        return f"{self.images.name.partition('_')[2]}, {plans.rpartition('_')[2]}, {configuration}"

    def predictor(self, *, exact: bool = False) -> Predictor:
        """Return our predictor on the CPU, with all folds and mirror images; in float32 if it is to be exact."""
        return load_model(self.place, ModelChoice(self.configuration, None, "cpu", mirror=True, exact=exact))


@dataclass(frozen=True)
class Agreement:
    """How two folders of label maps agree, all cases together.

    Attributes:
        dice: Of each value that either has.
        lowest_dice: Of any class in any single case that has it in either.
        found: Voxels of each value in the second.
        num_different, num_voxels: Voxels.
    """

    dice: dict[int, float]
    lowest_dice: float
    found: dict[int, int]
    num_different: int
    num_voxels: int


def subjects_in(folder: Path, scratch: Path, containing: str, num_cases: int | None) -> Iterator[Subject]:
    """Take over the models that `tools/train_nnunet_models.py` has written, one by one.

    Args:
        folder: With `results` and `images`.
        scratch: Folder for workspaces and scans.
        containing: Only models whose path contains this.
        num_cases: Scans per model; None for all.
    """
    for images in sorted((folder / "images").iterdir()):
        for model in sorted((folder / "results" / images.name).iterdir()):
            if containing in str(model) and list(model.glob("fold_*/checkpoint_final.pth")):
                yield _subject(model, images, scratch / f"{images.name}_{model.name}", num_cases)


def _subject(model: Path, images: Path, scratch: Path, num_cases: int | None) -> Subject:
    scans = scratch / "scans" / images.name
    scans.mkdir(parents=True)
    for path in sorted(images.iterdir())[:num_cases]:
        shutil.copy(path, scans)
    is_cascade = model.name.endswith("3d_cascade_fullres")
    earlier = model.with_name(model.name.replace("3d_cascade_fullres", "3d_lowres")) if is_cascade else None
    place = Workspace(scratch / "workspace")
    (*_, imported) = import_nnunet([*([earlier] if earlier else []), model], place)
    return Subject(model, scans, place, imported.configuration, earlier)


def agreement(ours: Path, theirs: Path) -> Agreement:
    """Return how the label maps of one folder agree with those of the same names in another."""
    sizes, common = np.zeros((2, 256), np.int64), np.zeros(256, np.int64)
    lowest, different, voxels = 1.0, 0, 0
    for path in sorted(theirs.glob("*.nii.gz")):
        mine, their = read_label(ours / path.name).array.ravel(), read_label(path).array.ravel()
        counted = [np.bincount(labels, minlength=256) for labels in (mine, their)]
        shared = np.bincount(mine[mine == their], minlength=256)
        is_there = np.flatnonzero(counted[0] + counted[1])
        lowest = min(lowest, float((2 * shared[is_there] / (counted[0] + counted[1])[is_there]).min()))
        sizes, common = sizes + counted, common + shared
        different += int((mine != their).sum())
        voxels += mine.size
    values = [int(value) for value in np.flatnonzero(sizes.sum(axis=0))]
    dice = {value: float(2 * common[value] / sizes[:, value].sum()) for value in values}
    return Agreement(dice, lowest, {value: int(sizes[1, value]) for value in values}, different, voxels)
