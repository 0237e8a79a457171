"""What a model is, from what lies in its workspace: what it segments, what it has learnt from, how good it is."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from autoseg.core.artefact import Record
from autoseg.core.labels import LabelClass
from autoseg.core.workspace import ALL_DATA, FoldName, Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.description import read_description
from autoseg.data.splits import Splits
from autoseg.evaluate.bootstrap import Interval
from autoseg.evaluate.compare import Difference
from autoseg.evaluate.scores import ClassScores, Evaluation, Spread
from autoseg.fingerprint import Fingerprint
from autoseg.infer.unlike import training_volumes_ml
from autoseg.pipeline.heldout.scores import known_evaluation, part_of, rules_of
from autoseg.pipeline.packing.networks import Networks, needed_networks
from autoseg.pipeline.packing.packed_model import Licence, PackedModel
from autoseg.pipeline.planning.prepare import load_plan
from autoseg.plan.cost import num_parameters
from autoseg.plan.schema import ConfigurationName, NormalizationScheme, Plan
from autoseg.select.choose import Together
from autoseg.train.record import TrainingRecord


class Channel(Record):
    """An input channel, and how its intensities are normalised."""

    name: str
    scheme: NormalizationScheme


class Target(Record):
    """What is segmented.

    Attributes:
        name: Of the class or region.
        values: In label maps.
        case_share: Share of the training cases that have it; None where it is not known.
        median_volume_ml: Among the cases that have it; 0 if none has it, None where it is not known.
    """

    name: str
    values: tuple[int, ...]
    case_share: float | None = None
    median_volume_ml: float | None = None


class Range(Record):
    """Per axis, (z, y, x), the lowest, median and highest value over the training cases."""

    lowest: tuple[float, ...]
    median: tuple[float, ...]
    highest: tuple[float, ...]


class TrainingData(Record):
    """What the networks have learnt from.

    Attributes:
        num_cases: Scans that were there to learn from, or to hold out.
        num_learnt: That a network has learnt from, fewest and most; None where it is not known.
        spacing_mm, size_voxels, size_mm: Of the scans as stored.
        orientations: How many scans run which way; `unknown` where a scan does not say.
    """

    num_cases: int
    num_learnt: tuple[int, int] | None
    spacing_mm: Range
    size_voxels: Range
    size_mm: Range
    orientations: dict[str, int]


class NetworkDescription(Record):
    """The networks of a configuration.

    Attributes:
        configuration: Its name.
        folds: That were trained.
        kind: `plain` or `residual` U-Net.
        num_parameters: Of one network.
        spacing_mm: Of its input, in the plan's order of axes; two entries in 2D.
        patch_size: Of its input, in voxels.
        num_epochs: That the folds were trained for, lowest and highest.
        devices: That trained.
        versions: Of what trained.
        previous_stage: Configuration whose result they refine, in a cascade.
    """

    configuration: ConfigurationName
    folds: tuple[FoldName, ...]
    kind: str
    num_parameters: int
    spacing_mm: tuple[float, ...]
    patch_size: tuple[int, ...]
    num_epochs: tuple[int, int]
    devices: tuple[str, ...]
    versions: dict[str, str]
    previous_stage: ConfigurationName | None


class ClassScore(Record):
    """Held-out scores of a class or region.

    Attributes:
        name: Of the class or region.
        num_cases: Held-out cases whose reference has it.
        dice, surface_dice, hd95_mm: Spread over the cases in which each is defined.
    """

    name: str
    num_cases: int
    dice: Spread
    surface_dice: Spread
    hd95_mm: Spread


class HeldOutScores(Record):
    """How well held-out cases were segmented, before postprocessing.

    Attributes:
        num_cases: Each predicted by the fold that has not seen it.
        num_groups: Groups of them, such as patients.
        tolerance_mm: Of the surface Dice.
        classes: Scores of each.
        mean_dice: Mean over classes of the mean over cases.
        interval: In which it lies, by bootstrap over groups of cases.
    """

    num_cases: int
    num_groups: int
    tolerance_mm: float
    classes: tuple[ClassScore, ...]
    mean_dice: float | None
    interval: Interval | None


class Compared(Record):
    """A configuration or ensemble that the selection has looked at."""

    name: str
    score: float
    interval: Interval | None


class ModelDescription(Record):
    """A model in numbers.

    Attributes:
        dataset: That it has learnt from.
        configurations: That predict together.
        folds: Whose networks are averaged.
        channels: Of a scan, in this order.
        targets: What is segmented.
        background, ignored: Values of what is not; `ignored` was not annotated in the training data.
        networks: Of each configuration, earlier stages of a cascade first.
        training_data: None where no fingerprint is there.
        held_out: None where scores of these networks are not there, or not of all of them.
        compared: What the selection of these networks has chosen from, the winner first; empty without one.
        metric: That decided; None without such a selection.
        weights: Of each class or region in the score that decided, by name; empty where all count alike.
        postprocessing: What is done to label maps, a sentence each.
        gain: Of the postprocessing, on cases that had no part in choosing it; None where other folds' networks had.
        licence: Terms of use.
        preset: That the plan was made with.
        autoseg: Version that packed it; None for a workspace.
    """

    dataset: str
    configurations: Together
    folds: tuple[FoldName, ...]
    channels: tuple[Channel, ...]
    targets: tuple[Target, ...]
    background: int
    ignored: int | None
    networks: tuple[NetworkDescription, ...]
    training_data: TrainingData | None
    held_out: HeldOutScores | None
    compared: tuple[Compared, ...]
    metric: str | None
    weights: dict[str, float]
    postprocessing: tuple[str, ...]
    gain: Difference | None
    licence: Licence
    preset: str
    autoseg: str | None = None

    @property
    def name(self) -> str:
        """Names of the configurations, joined by a plus."""
        return " + ".join(self.configurations)


def describe(workspace: Workspace, networks: Networks) -> ModelDescription:
    """Return what the networks of a workspace, or of an unpacked model, are.

    Raises:
        ArtefactError: If an artefact is damaged.
    """
    planned = load_plan(workspace)
    seen = Fingerprint.load(workspace.fingerprint) if workspace.fingerprint.exists() else None
    packed = PackedModel.load(workspace.packed) if workspace.packed.exists() else None
    selection = networks.selection
    deciding = selection if selection is not None and set(selection.folds) == set(networks.folds) else None
    scores = held_out_evaluation(workspace, networks)
    first = planned.configurations[networks.configuration]
    return ModelDescription(
        dataset=planned.dataset,
        configurations=networks.together,
        folds=networks.folds,
        channels=tuple(Channel(name=entry.channel, scheme=entry.scheme) for entry in first.normalization),
        targets=tuple(_targets(planned, seen)),
        background=planned.labels.classes[0].value,
        ignored=planned.labels.ignored,
        networks=tuple(
            _network(workspace, planned, name, folds) for name, folds in needed_networks(workspace, networks).items()
        ),
        training_data=None if seen is None else _training_data(seen, _num_learnt(workspace, networks, len(seen.cases))),
        held_out=None if scores is None else _scores(scores),
        compared=tuple(
            Compared(name=found.name, score=found.score, interval=found.interval)
            for found in (() if deciding is None else deciding.candidates)
        ),
        metric=None if deciding is None else deciding.metric,
        weights=deciding.weights if deciding is not None and deciding.is_weighted else {},
        postprocessing=() if selection is None else selection.postprocessing.summary,
        gain=None if deciding is None or not deciding.postprocessing.summary else deciding.gain,
        licence=declared_licence(workspace) if packed is None else packed.licence,
        preset=planned.preset,
        autoseg=None if packed is None else packed.autoseg,
    )


def held_out_evaluation(workspace: Workspace, networks: Networks) -> Evaluation | None:
    """Return the scores of the held-out cases of networks; None if not all were scored, or if scores are of others."""
    if not workspace.packed.exists():
        return known_evaluation(workspace, networks.together, networks.folds)
    path = workspace.crossval("+".join(networks.together)) / "evaluation.json"
    if not path.exists():
        return None
    found = Evaluation.load(path)
    if set(networks.folds) == set(PackedModel.load(workspace.packed).folds):
        return found
    splits = Splits.load(workspace.splits).folds if workspace.splits.exists() else ()
    if not all(fold != ALL_DATA and fold < len(splits) for fold in networks.folds):
        return None
    names = {name for fold in networks.folds if fold != ALL_DATA for name in splits[fold].validation}
    return part_of(found, names, networks.folds, rules_of(workspace).empirical.evaluation)


def declared_licence(workspace: Workspace) -> Licence:
    """Return the licence that the training data declare, an empty one if they declare none."""
    text = ""
    if workspace.dataset.exists():
        text = Dataset.load(workspace.dataset).licence.strip()
    elif workspace.imported.exists():
        text = read_description(workspace.imported).licence.strip()
    return Licence(text=text, source="dataset") if text else Licence()


def _targets(planned: Plan, seen: Fingerprint | None) -> Iterator[Target]:
    known = {} if seen is None else training_volumes_ml(seen, planned.labels)
    for entry in planned.labels.foreground:
        values = (entry.value,) if isinstance(entry, LabelClass) else entry.values
        if not (volumes_ml := known.get(entry.name)):
            yield Target(name=entry.name, values=values)
            continue
        present = [volume_ml for volume_ml in volumes_ml if volume_ml]
        yield Target(
            name=entry.name,
            values=values,
            case_share=len(present) / len(volumes_ml),
            median_volume_ml=float(np.median(present)) if present else 0.0,
        )


def _num_learnt(workspace: Workspace, networks: Networks, num_cases: int) -> tuple[int, int] | None:
    """Return how many cases the networks have learnt from, fewest and most."""
    if networks.folds == (ALL_DATA,):
        return num_cases, num_cases
    if not workspace.splits.exists():
        return None
    splits = Splits.load(workspace.splits).folds
    counts = [len(splits[fold].train) for fold in networks.folds if fold != ALL_DATA and fold < len(splits)]
    return (min(counts), max(counts)) if len(counts) == len(networks.folds) else None


def _training_data(seen: Fingerprint, num_learnt: tuple[int, int] | None) -> TrainingData:
    spacings, shapes = (np.array([getattr(case, name) for case in seen.cases]) for name in ("spacing", "shape"))
    return TrainingData(
        num_cases=len(seen.cases),
        num_learnt=num_learnt,
        spacing_mm=_range(spacings),
        size_voxels=_range(shapes),
        size_mm=_range(spacings * shapes),
        orientations=dict(Counter(case.orientation or "unknown" for case in seen.cases).most_common()),
    )


def _range(rows: NDArray[np.float64]) -> Range:
    """Return lowest, median and highest of each column, (cases, axes)."""
    lowest, median, highest = (tuple(map(float, np.quantile(rows, share, axis=0))) for share in (0.0, 0.5, 1.0))
    return Range(lowest=lowest, median=median, highest=highest)


def _network(
    workspace: Workspace, planned: Plan, configuration: ConfigurationName, folds: tuple[FoldName, ...]
) -> NetworkDescription:
    chosen = planned.configurations[configuration]
    records = [TrainingRecord.load(workspace.fold(configuration, fold).record) for fold in folds]
    epochs = [record.num_epochs for record in records]
    return NetworkDescription(
        configuration=configuration,
        folds=folds,
        kind=chosen.network.kind,
        num_parameters=num_parameters(chosen.network),
        spacing_mm=chosen.spacing,
        patch_size=chosen.patch_size,
        num_epochs=(min(epochs), max(epochs)),
        devices=tuple(dict.fromkeys(record.device for record in records)),
        versions={name: version for record in records for name, version in record.versions.items()},
        previous_stage=chosen.previous_stage,
    )


def _scores(found: Evaluation) -> HeldOutScores:
    return HeldOutScores(
        num_cases=len(found.cases),
        num_groups=len({case.name if case.group is None else case.group for case in found.cases}),
        tolerance_mm=found.tolerance_mm,
        classes=tuple(
            ClassScore(
                name=name,
                num_cases=sum(map(_has_reference, (case.classes[name] for case in found.cases))),
                dice=summary.dice,
                surface_dice=summary.surface_dice,
                hd95_mm=summary.hd95_mm,
            )
            for name, summary in found.per_class.items()
        ),
        mean_dice=found.mean_foreground_dice,
        interval=found.mean_foreground_interval,
    )


def _has_reference(scores: ClassScores) -> bool:
    return scores.true_positives + scores.false_negatives > 0
