"""A workspace with all that a packed model can hold: an ensemble, postprocessing, folds, scores, names of cases."""

from pathlib import Path

import numpy as np
import torch

from autoseg.core.artefact import digest_of_file
from autoseg.core.geometry import Geometry
from autoseg.core.workspace import FoldName, Workspace
from autoseg.data.dataset import Case, Dataset
from autoseg.data.image import Image, write_image
from autoseg.data.splits import Split, Splits
from autoseg.evaluate.case import score_case
from autoseg.evaluate.compare import Difference
from autoseg.evaluate.run import evaluation_rules
from autoseg.evaluate.scores import CaseScores, Evaluation, summarise
from autoseg.fingerprint.schema import ClassFingerprint, ClassFrequency
from autoseg.network.checkpoint import save_weights
from autoseg.network.unet import UNet
from autoseg.pipeline.heldout.maps import HeldOutPredictions
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan, Plan
from autoseg.select.choose import Candidate, Selection, Together
from autoseg.select.postprocess import Postprocessing, Treatment
from tests.pipeline.models import SHAPE, SPACING, fingerprint, record
from tests.preprocess import plans

NAMES = ("anna_smith", "boris_jones")
TOGETHER: Together = ("2d", "3d_fullres")
POSTPROCESSING = Postprocessing(classes={"organ": Treatment(keeps_largest=True)})
LICENCE = "CC-BY-SA 4.0"


def packable(root: Path) -> Workspace:
    """Write a workspace of two configurations and two folds, with random weights, from which both were selected."""
    workspace = Workspace(root)
    configurations: dict[ConfigurationName, ConfigurationPlan] = {
        "2d": plans.configuration((1.0, 1.0), (8, 8)),
        "3d_fullres": plans.configuration(SPACING),
    }
    planned = plans.plan(configurations=configurations)
    planned.save(workspace.plan)
    for name in configurations:
        for fold in range(2):
            train(workspace, planned, name, fold)
    _write_dataset(workspace, planned)
    selection(workspace).save(workspace.selection)
    return workspace


def train(workspace: Workspace, planned: Plan, configuration: ConfigurationName, fold: FoldName) -> None:
    """Write what a training leaves, with random weights."""
    folder = workspace.fold(configuration, fold)
    torch.manual_seed(hash_of(configuration, fold))
    save_weights(UNet(planned.configurations[configuration].network).state_dict(), folder.weights)
    own = record(planned, 0, digest_of_file(folder.weights))
    made_from = {**own.made_from, "model": planned.model_digest(configuration)}
    own.model_copy(update={"configuration": configuration, "fold": fold, "made_from": made_from}).save(folder.record)


def hash_of(configuration: str, fold: FoldName) -> int:
    """Return a seed that is another for each network."""
    return len(configuration) * 100 + (99 if isinstance(fold, str) else fold)


def selection(workspace: Workspace) -> Selection:
    """Return a selection of both configurations."""
    difference = Difference(ours=0.5, theirs=0.5, difference=0.0, interval=None)
    candidate = Candidate(
        configurations=TOGETHER, score=0.5, interval=None, classes={"organ": 0.5, "lesion": 0.5}, behind=difference
    )
    single = candidate.model_copy(update={"configurations": ("2d",), "score": 0.25})
    weights = {
        f"{name} fold {fold}": digest_of_file(workspace.fold(name, fold).weights)
        for name in TOGETHER
        for fold in range(2)
    }
    return Selection(
        made_from=weights,
        metric="dice",
        tolerance_mm=1.0,
        weights={"organ": 1.0, "lesion": 1.0},
        folds=(0, 1),
        num_cases=2,
        num_groups=2,
        configurations=TOGETHER,
        candidates=(candidate, single),
        tie_margin=0.0,
        postprocessing=POSTPROCESSING,
        gain=difference.model_copy(update={"difference": 0.125}),
    )


def write_scores(workspace: Workspace, together: Together) -> Evaluation:
    """Write held-out scores, and which networks the label maps were from."""
    labels, folder = plans.LABELS, workspace.crossval("+".join(together))
    reference = np.zeros((4, 4, 4), np.uint16)
    reference[1:3], reference[3] = 1, 2
    cases, made_from = [], {}
    for fold, name in enumerate(NAMES):
        prediction = np.roll(reference, fold, axis=0)
        scores = score_case(prediction, reference, SPACING, labels, evaluation_rules())
        cases.append(CaseScores(name=name, classes=scores, group=name.upper()))
        digests = {part: digest_of_file(workspace.fold(part, fold).weights) for part in together}
        maps = HeldOutPredictions(made_from=digests, outputs={name: f"{name}.nii.gz"})
        maps.save(folder / f"fold_{fold}.json")
        made_from[f"fold {fold}"] = maps.digest()
    found = summarise(cases, labels, evaluation_rules()).model_copy(update={"made_from": made_from})
    found.save(folder / "evaluation.json")
    return found


def write_scan(path: Path, seed: int = 0) -> Path:
    """Write a scan of noise."""
    array = np.random.default_rng(seed).normal(1, 1, (1, *SHAPE)).astype(np.float32)
    write_image(path, Image(array, Geometry(spacing=SPACING, origin=(5.0, 6.0, 7.0))))
    return path


def _write_dataset(workspace: Workspace, planned: Plan) -> None:
    seen = fingerprint()
    cases = tuple(
        case.model_copy(update={"name": name, "classes": tuple(map(_as_frequent, case.classes, seen.frequencies))})
        for case, name in zip(seen.cases, NAMES, strict=True)
    )
    seen.model_copy(update={"cases": cases}).save(workspace.fingerprint)
    Splits(folds=tuple(Split(train=(NAMES[1 - fold],), validation=(NAMES[fold],)) for fold in range(2)), seed=1).save(
        workspace.splits
    )
    Dataset(
        name=planned.dataset,
        layout="folders",
        channels=planned.channels,
        labels=planned.labels,
        cases=tuple(
            Case(name=name, images=(f"/secret/{name}.nii.gz",), label=f"/secret/label_{name}.nii.gz", group=name)
            for name in NAMES
        ),
        licence=LICENCE,
    ).save(workspace.dataset)
    write_scores(workspace, TOGETHER)
    write_scores(workspace, ("2d",))


def _as_frequent(found: ClassFingerprint, over_all: ClassFrequency) -> ClassFingerprint:
    """Return a class of a case with the volume that it has in the median."""
    return found.model_copy(update={"volume_mm3": over_all.median_volume_mm3 if found.num_voxels else 0.0})
