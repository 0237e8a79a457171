"""Opening models: packed ones are unpacked, and their parts must belong together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from autoseg.core.artefact import Artefact, digest_of
from autoseg.core.errors import ArtefactError
from autoseg.core.workspace import FoldFolder, FoldName, Workspace
from autoseg.data.splits import Splits
from autoseg.evaluate.scores import Evaluation
from autoseg.fingerprint import Fingerprint
from autoseg.infer.predictor import Predictor
from autoseg.network.checkpoint import load_network
from autoseg.pipeline.packing.networks import choose_networks
from autoseg.pipeline.packing.packed_model import FETCH_AGAIN, MANIFEST, PackedModel, unpacked
from autoseg.pipeline.packing.texts import harmful_text, names_in
from autoseg.pipeline.prediction.models import digest_of_networks
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.select.choose import Selection
from autoseg.select.predictor import SelectedPredictor
from autoseg.train.record import EARLIER_STAGE, MODEL, WEIGHTS, TrainingRecord

DIGITS = len(digest_of(None))
"""Of the SHA-256 of weights that records keep."""

AnArtefact = TypeVar("AnArtefact", bound=Artefact)


@contextmanager
def open_model(path: Path, scratch: Path | None = None) -> Iterator[Workspace]:
    """Give a packed model as a workspace that is gone after the block; a folder is a workspace as it is.

    Networks that were loaded within the block stay after it.

    Args:
        path: The model.
        scratch: Folder to unpack it in; None for the system's folder of temporary files.

    Raises:
        ArtefactError: If the file is no packed model, is damaged, or its parts do not belong together; see `unpacked`.
    """
    if path.is_dir():
        yield Workspace(path)
        return
    with unpacked(path, scratch) as workspace:
        require_fit(path, workspace)
        yield workspace


def load_predictor(
    model: Path,
    configuration: str | None = None,
    folds: Sequence[FoldName] | None = None,
    *,
    device: str = "auto",
    mirror: bool = True,
    exact: bool = False,
) -> Predictor | SelectedPredictor:
    """Return a predictor with trained networks: what a server or a viewer's plug-in holds.

    Args:
        model: File that `autoseg pack` wrote, or folder that autoseg has trained in.
        configuration: Of the plan; None for what was selected or packed, or else the usual one.
        folds: Whose networks are averaged; None for those that were selected or packed, or else all numbered ones that
            are trained. The network that has learnt from all data predicts on its own.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        mirror: Whether to average over mirrored scans.
        exact: Whether networks compute in float32 where the fastest precision of the device is another.

    Raises:
        PlanError: If there is no plan, or it lacks the configuration.
        PredictionError: If a fold is not trained, or is not of this plan.
        ArtefactError: If a model file is damaged.
    """
    with open_model(model) as workspace:
        networks = choose_networks(workspace, configuration, folds)
        return networks.load(workspace, networks.choice(device, mirror=mirror, exact=exact))


def require_fit(path: Path, workspace: Workspace) -> None:
    """Refuse an unpacked model whose parts do not belong together, whatever its manifest says of each.

    Args:
        path: The packed file, for errors.
        workspace: What it was unpacked to.

    Raises:
        ArtefactError: If a part cannot be read, is of a newer version, of another network, fold or dataset.
    """
    manifest = PackedModel.load(workspace.packed)
    model = _Unpacked(path, workspace, manifest)
    planned = model.read(Plan, workspace.plan)
    of_manifest = (manifest.autoseg, *manifest.licence.text.splitlines())
    for place, texts in ((workspace.plan, names_in(planned)), (workspace.packed, of_manifest)):
        if (strange := harmful_text(texts)) is not None:
            raise model.error(place, f"names and terms must be printable, got {strange!r}")
    if manifest.dataset != planned.dataset:
        raise model.error(workspace.plan, f"dataset must be {manifest.dataset}, got {planned.dataset}")
    for name in (*manifest.configurations, *_stages(planned)):
        if name not in planned.configurations:
            raise model.error(workspace.plan, f"must have {name}, got {', '.join(planned.configurations)}")
    for name in planned.configurations:
        trained = workspace.trainings(name)
        wanted = manifest.folds if name in manifest.configurations else (next(iter(trained), 0),)
        for fold in {*wanted, *trained}:
            _require_network(model, planned, name, fold)
    _require_selection(model, planned, manifest)
    _require_description(model, planned)


class _Unpacked:
    """A model under check: reads its parts, and names them as parts of the packed file."""

    def __init__(self, path: Path, workspace: Workspace, manifest: PackedModel) -> None:
        self._path = path
        self.workspace = workspace
        self._manifest = manifest

    def read(self, kind: type[AnArtefact], path: Path) -> AnArtefact:
        """Return a part."""
        if not path.exists():
            raise self.error(path, "must be there, found none")
        return kind.parse(path.read_bytes(), self._name(path), FETCH_AGAIN)

    def weights_digest(self, folder: FoldFolder) -> str:
        """Return the digest of weights as records have it, from the manifest, with which they were compared."""
        name = str(folder.weights.relative_to(self.workspace.root))
        if name not in self._manifest.files:
            raise self.error(folder.weights, "must be there, found none")
        return self._manifest.files[name].sha256[:DIGITS]

    def error(self, path: Path, problem: str) -> ArtefactError:
        """Return what is wrong with a part, to be raised."""
        return ArtefactError(f"{self._name(path)}: {problem}. {FETCH_AGAIN}")

    def _name(self, path: Path) -> str:
        return f"{self._path}, {path.relative_to(self.workspace.root)}"


def _stages(planned: Plan) -> Iterator[ConfigurationName]:
    for configuration in planned.configurations.values():
        if configuration.previous_stage is not None:
            yield configuration.previous_stage


def _require_network(model: _Unpacked, planned: Plan, configuration: ConfigurationName, fold: FoldName) -> None:
    """Refuse a network of another fold, configuration or dataset, and weights that its record does not speak of."""
    folder = model.workspace.fold(configuration, fold)
    record = model.read(TrainingRecord, folder.record)
    if (record.configuration, record.fold) != (configuration, fold):
        raise model.error(
            folder.record,
            f"must be the record of fold {fold} of {configuration}, got that of fold {record.fold} of"
            f" {record.configuration}",
        )
    if record.made_from.get(MODEL) != planned.model_digest(configuration):
        raise model.error(folder.record, "must be of the plan and the dataset of this model, got a network of others")
    if record.made_from.get(WEIGHTS) != model.weights_digest(folder):
        raise model.error(folder.weights, f"must be the weights that {folder.record.name} speaks of, got others")
    stage = planned.configurations[configuration].previous_stage
    if stage is not None and record.made_from.get(EARLIER_STAGE) != digest_of_networks(model.workspace, stage):
        raise model.error(folder.record, f"must be of the networks of {stage} in this model, got others")
    load_network(folder.weights, planned.configurations[configuration].network)


def _require_selection(model: _Unpacked, planned: Plan, manifest: PackedModel) -> None:
    """Refuse a selection of other configurations; its folds may be others, of which none is packed."""
    place = model.workspace.selection
    if not place.exists():
        return
    selection = model.read(Selection, place)
    if selection.configurations != manifest.configurations:
        raise model.error(place, f"must be of the networks that {MANIFEST} names, got others")
    stages = set(_stages(planned))
    for name in selection.configurations:
        trained = model.workspace.trainings(name)
        for fold in selection.folds:
            if fold not in trained and fold not in manifest.folds:
                continue
            if fold not in manifest.folds and name not in stages:
                raise model.error(place, f"must be of the networks that {MANIFEST} names, got others")
            folder = model.workspace.fold(name, fold)
            if selection.made_from.get(f"{name} fold {fold}") != model.weights_digest(folder):
                raise model.error(place, f"must be of the networks in this model, got another fold {fold} of {name}")


def _require_description(model: _Unpacked, planned: Plan) -> None:
    """Refuse fingerprint, folds and scores that cannot be read, or of another dataset."""
    workspace = model.workspace
    if workspace.fingerprint.exists():
        seen = model.read(Fingerprint, workspace.fingerprint)
        if (seen.dataset, seen.channels) != (planned.dataset, planned.channels):
            raise model.error(workspace.fingerprint, f"must be of {planned.dataset}, got that of {seen.dataset}")
    if workspace.splits.exists():
        model.read(Splits, workspace.splits)
    for path in sorted((workspace.root / "crossval").glob("*/evaluation.json")):
        if model.read(Evaluation, path).labels != planned.labels:
            raise model.error(path, "must be scores of the classes in plan.json, got others")
