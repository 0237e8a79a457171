"""One file to hand on: the networks that predict, and all that says what they are."""

import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import autoseg
from autoseg.core.artefact import Artefact, digest_of_file, replacing
from autoseg.core.errors import ArtefactError
from autoseg.core.workspace import FoldName, Workspace
from autoseg.data.splits import Split, Splits
from autoseg.evaluate.scores import Evaluation
from autoseg.fingerprint import Fingerprint
from autoseg.pipeline.packing.model_card import model_card
from autoseg.pipeline.packing.model_description import ModelDescription, declared_licence, describe, held_out_evaluation
from autoseg.pipeline.packing.networks import Networks, choose_networks, needed_networks
from autoseg.pipeline.packing.packed_model import (
    CARD,
    MANIFEST,
    Licence,
    PackedFile,
    PackedModel,
    copy_hashed,
    read_manifest,
)
from autoseg.pipeline.packing.texts import harmful_text, names_in
from autoseg.pipeline.planning.prepare import load_plan
from autoseg.plan.schema import ConfigurationName, Plan
from autoseg.train.record import MODEL, WEIGHTS, TrainingRecord

LARGEST_LICENCE_BYTES = 1 << 18

_FILE_NAME = re.compile(r"(?!\w+://)\S+\.(txt|md|rst|html?|pdf|docx?)", re.IGNORECASE)

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every member: the same model gives the same bytes, whenever it is packed."""

_PLAIN_FILE = 0o100644

AnArtefact = TypeVar("AnArtefact", bound=Artefact)


@dataclass(frozen=True)
class PackRequest:
    """What to pack, and where.

    Attributes:
        target: File to write; None for one in the workspace, named like the dataset.
        configuration, folds: See `choose_networks`.
        licence: Terms of use, a text or the path of a file; None for those that the training data declare.
    """

    target: Path | None = None
    configuration: str | None = None
    folds: tuple[FoldName, ...] | None = None
    licence: str | None = None


def pack(workspace: Workspace, request: PackRequest) -> Path:
    """Write networks, and all that prediction needs, to one file, whole or not at all; return its path.

    Equal models give equal bytes. Names of cases are left out: cases are numbered in the order of their names.

    Raises:
        PredictionError: If the networks are not trained to their end, or do not belong together.
        PlanError: If there is no plan, or it lacks the configuration.
        ArtefactError: If the file is there and holds something else, or cannot be written; if a name or the licence
            could harm a terminal.
    """
    networks = choose_networks(workspace, request.configuration, request.folds)
    networks.load(workspace, networks.choice("cpu"))
    licence = declared_licence(workspace) if request.licence is None else read_licence(request.licence)
    target = request.target or workspace.root / file_name(workspace)
    _require_own(target, load_plan(workspace).dataset)
    _require_harmless(workspace, licence)
    members = dict(_members(workspace, networks))
    described = describe(workspace, networks).model_copy(update={"licence": licence, "autoseg": autoseg.__version__})
    members[CARD] = model_card(described, file_name(workspace)).encode()
    try:
        with replacing(target) as temporary:
            _write(temporary, members, described)
    except OSError as error:
        raise ArtefactError(f"{target}: must be writable, got: {error}. Name another file, or make room.") from None
    return target


def file_name(workspace: Workspace) -> str:
    """Return how a packed model is called unless somebody says otherwise: like its dataset."""
    name = re.sub(r"[^\w.-]+", "_", load_plan(workspace).dataset).strip("._")
    return f"{name or 'model'}.zip"


def read_licence(text_or_file: str) -> Licence:
    """Return the licence that somebody gives, as a text or as the path of a file.

    Raises:
        ArtefactError: If it is empty or too large, or the file is missing or no readable text.
    """
    text, where = text_or_file, "--licence"
    if _names_file(text_or_file):
        where = text_or_file
        try:
            text = Path(text_or_file).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise ArtefactError(
                f"{where}: must be a readable text, got: {error}. Correct the path, or save it as UTF-8."
            ) from None
    text = "\n".join(line.rstrip() for line in text.strip().splitlines())
    num_bytes = len(text.encode(errors="surrogatepass"))
    if not text or num_bytes > LARGEST_LICENCE_BYTES:
        got = f"{num_bytes} bytes" if text else "nothing"
        raise ArtefactError(f"{where}: must be a text of up to {LARGEST_LICENCE_BYTES} bytes, got {got}. Shorten it.")
    return Licence(text=text, source="given")


def _names_file(text: str) -> bool:
    """Return whether a text is the path of a file: one that is there, or a word that looks like one."""
    try:
        return Path(text).is_file() or _FILE_NAME.fullmatch(text) is not None
    except (OSError, ValueError):  # too long for a path, or otherwise unfit
        return False


def _require_own(target: Path, dataset: str) -> None:
    """Refuse to replace anything but an earlier model of the same dataset."""
    if not target.exists():
        return
    try:
        earlier = read_manifest(target).dataset
    except ArtefactError:
        earlier = ""
    if earlier != dataset:
        found = f"a model of {earlier}" if earlier else "something else"
        raise ArtefactError(
            f"{target}: must be new, or an earlier model of {dataset}, got {found}. Name another file, or delete this"
            " one."
        )


def _require_harmless(workspace: Workspace, licence: Licence) -> None:
    """Refuse names and terms that a packed model would not be opened with."""
    plain = "must hold no control characters, separators of lines or controls of the direction of writing"
    if (name := harmful_text(names_in(load_plan(workspace)))) is not None:
        raise ArtefactError(
            f"{workspace.plan}: names {plain}, got {name!r}. Correct the name in the dataset, and plan again."
        )
    if (line := harmful_text(licence.text.splitlines())) is not None:
        raise ArtefactError(f"licence: terms {plain}, got {line!r}. Give them without with --licence.")


def _members(workspace: Workspace, networks: Networks) -> Iterator[tuple[str, bytes | Path]]:
    """Give every member but manifest and card: its name, and its bytes or the file that has them."""
    needed = needed_networks(workspace, networks)
    planned = _pruned(load_plan(workspace), needed)
    yield "plan.json", _document(planned)
    for name, folds in needed.items():
        for fold in folds:
            folder = workspace.fold(name, fold)
            where = folder.root.relative_to(workspace.root)
            own = {MODEL: planned.model_digest(name), WEIGHTS: digest_of_file(folder.weights)}
            record = TrainingRecord.load(folder.record)
            record = record.model_copy(update={"made_from": {**record.made_from, **own}})
            yield str(where / folder.record.name), _document(record)
            yield str(where / folder.weights.name), folder.weights
    if networks.selection is not None:
        yield "selection.json", _document(networks.selection)
    yield from _numbered(workspace, networks, planned)


def _pruned(planned: Plan, needed: Mapping[ConfigurationName, Sequence[FoldName]]) -> Plan:
    """Return a plan without the configurations whose networks stay at home."""
    return planned.model_copy(
        update={
            "configurations": {name: entry for name, entry in planned.configurations.items() if name in needed},
            "decisions": tuple(
                entry for entry in planned.decisions if entry.configuration is None or entry.configuration in needed
            ),
        }
    )


def _numbered(workspace: Workspace, networks: Networks, planned: Plan) -> Iterator[tuple[str, bytes]]:
    """Give fingerprint, folds and scores, as far as they are there, with numbers in place of the names of cases."""
    seen = Fingerprint.load(workspace.fingerprint) if workspace.fingerprint.exists() else None
    splits = Splits.load(workspace.splits) if workspace.splits.exists() else None
    scores = held_out_evaluation(workspace, networks)
    names = {case.name for found in (seen, scores) if found is not None for case in found.cases}
    names |= {name for split in (() if splits is None else splits.folds) for name in (*split.train, *split.validation)}
    cases = _numbers("case", names)
    if seen is not None:
        renamed = tuple(case.model_copy(update={"name": cases[case.name]}) for case in seen.cases)
        yield "fingerprint.json", _document(seen.model_copy(update={"dataset": planned.dataset, "cases": renamed}))
    if splits is not None:
        folds = tuple(
            Split(
                train=tuple(map(cases.__getitem__, one.train)), validation=tuple(map(cases.__getitem__, one.validation))
            )
            for one in splits.folds
        )
        yield "splits.json", _document(splits.model_copy(update={"folds": folds}))
    if scores is not None:
        name = f"crossval/{'+'.join(networks.together)}/evaluation.json"
        yield name, _document(_without_names(scores, cases))


def _without_names(scores: Evaluation, cases: Mapping[str, str]) -> Evaluation:
    groups = _numbers("group", {case.group for case in scores.cases if case.group is not None})
    renamed = tuple(
        case.model_copy(
            update={"name": cases[case.name], "group": None if case.group is None else groups[case.group]},
        )
        for case in scores.cases
    )
    return scores.model_copy(update={"cases": renamed})


def _numbers(kind: str, names: set[str]) -> dict[str, str]:
    """Return a number for each name, such that both are in the same order."""
    digits = len(str(len(names)))
    return {name: f"{kind}_{number:0{digits}d}" for number, name in enumerate(sorted(names), start=1)}


def _document(artefact: Artefact) -> bytes:
    return artefact.text().encode()


def _write(path: Path, members: Mapping[str, bytes | Path], model: ModelDescription) -> None:
    """Write the members in the order of their names, the manifest last."""
    files = {}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in sorted(members.items()):
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            with (
                io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source,
                archive.open(_entry(name, size), "w") as target,
            ):
                files[name] = PackedFile(size=size, sha256=copy_hashed(source, target))
        manifest = PackedModel(
            autoseg=autoseg.__version__,
            dataset=model.dataset,
            configurations=model.configurations,
            folds=model.folds,
            licence=model.licence,
            files=files,
        )
        archive.writestr(_entry(MANIFEST), _document(manifest))


def _entry(name: str, size: int = 0) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.file_size = size
    entry.external_attr = _PLAIN_FILE << 16
    entry.create_system = 3  # Unix, wherever it is packed
    return entry
