"""What a training leaves behind: its record, its history, and the checkpoint from which it goes on."""

import csv
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoseg.core.artefact import Artefact, replacing
from autoseg.core.errors import TrainingError
from autoseg.core.workspace import FoldFolder, FoldName
from autoseg.plan.schema import ConfigurationName

Row = dict[str, float]

CASES = "cases"
"""Entry of a record's `made_from`: the preprocessed cases that were learnt from."""

EARLIER_STAGE = "earlier stage"
"""Entry of a record's `made_from`: the networks whose predictions a cascade has learnt to refine."""

MODEL = "model"
"""Entry of a record's `made_from`: `Plan.model_digest` of what was trained."""

RECIPE = "recipe"
"""Entry of a record's `made_from`, and of a checkpoint: `Plan.recipe_digest` of what was trained."""

WEIGHTS = "weights"
"""Entry of a record's `made_from`: the file of weights that the record speaks of."""

DAMAGED = (OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, pickle.UnpicklingError)
"""What `torch.load` raises for a damaged file, and what a document with other entries leads to."""


class TrainingRecord(Artefact):
    """A finished training.

    Attributes:
        configuration, fold: What was trained; `all-data` held no case out.
        identity: Digest of configuration, recipe, split, seed, length and initial weights.
        num_epochs, num_steps: Length.
        seed: Of weights, patches and augmentation.
        seconds: Wall time of all its runs together.
        device, precision: What computed.
        versions: Of autoseg and what it computes with.
        validation_dice: Of the last epoch's patches, per foreground class; whole scans are scored in `crossval/`. Of
            `all-data`, these are patches of cases that were learnt from.
        waiting_share: Of the time of the training steps, what passed until their patches were there.
        num_processes: That trained together.
    """

    configuration: ConfigurationName
    fold: FoldName
    identity: str
    seed: int
    num_epochs: int
    num_steps: int
    seconds: float
    device: str
    precision: str
    versions: dict[str, str]
    validation_dice: dict[str, float | None]
    waiting_share: float = 0.0
    num_processes: int = 1


@dataclass
class OpenEpoch:
    """What the epoch under way has come to.

    Attributes:
        losses: Of its steps so far.
        learning_rate: Of the latest of them.
        seconds: That they took.
        waited_s: The part of these that passed until their patches were there.
    """

    losses: list[Tensor] = field(default_factory=list)
    learning_rate: float = 0.0
    seconds: float = 0.0
    waited_s: float = 0.0


@dataclass
class TrainingState:
    """How far a training is, at the end of an epoch or between any two steps of one.

    Attributes:
        identity: Digest of all that the training depends on.
        epoch: Epochs done.
        step: Steps done, those of the epoch under way among them.
        spent_s: Seconds spent.
        closing_s: Seconds that validation and checkpoint of the last epoch took; 0 before the first.
        stepping_s: Seconds that the steps of finished epochs took.
        waited_s: The part of these that passed until patches were there.
        history: One row per epoch.
        under_way: The epoch that is not done.
        tensors: State of network, average, optimiser and gradient scaler, by name.
        recipe: `Plan.recipe_digest` of what is trained.
    """

    identity: str
    epoch: int = 0
    step: int = 0
    spent_s: float = 0.0
    closing_s: float = 0.0
    stepping_s: float = 0.0
    waited_s: float = 0.0
    history: list[Row] = field(default_factory=list)
    under_way: OpenEpoch = field(default_factory=OpenEpoch)
    tensors: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""


def save_state(state: TrainingState, folder: FoldFolder) -> None:
    """Write checkpoint and history, each whole or not at all."""
    document = {
        "identity": state.identity,
        "epoch": state.epoch,
        "step": state.step,
        "spent_s": state.spent_s,
        "closing_s": state.closing_s,
        "stepping_s": state.stepping_s,
        "waited_s": state.waited_s,
        "history": json.dumps(state.history),
        "under_way": {**vars(state.under_way), "losses": [loss.cpu() for loss in state.under_way.losses]},
        "tensors": dict(state.tensors),
        RECIPE: state.recipe,
    }
    with replacing(folder.checkpoint) as temporary, temporary.open("wb") as stream:
        torch.save(document, stream)
    write_history(state.history, folder.history)


def write_history(rows: list[Row], path: Path) -> None:
    """Write the epochs as CSV."""
    # Imported when needed: it takes longer than everything else that predictions import, but for torch.
    import pandas as pd

    with replacing(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")


def note_spent(identity: str, seconds: float, folder: FoldFolder) -> None:
    """Write how long a training has taken, for when it is killed before its next checkpoint."""
    with replacing(folder.spent) as temporary:
        temporary.write_text(f"{identity} {seconds:.1f}\n", encoding="utf-8")


def _noted_s(identity: str, folder: FoldFolder) -> float:
    """Return what was noted last of how long a training has taken; 0 if nothing was, or of another training."""
    noted = folder.spent.read_text(encoding="utf-8").partition(" ") if folder.spent.exists() else ("", "", "")
    return float(noted[2]) if noted[0] == identity else 0.0


def seconds_taken(folder: FoldFolder) -> float:
    """Return how long the training of a folder has taken, over or broken off; 0 if there is none."""
    if folder.record.exists():
        return TrainingRecord.load(folder.record).seconds
    noted = folder.spent.read_text(encoding="utf-8").partition(" ")[2] if folder.spent.exists() else ""
    row = latest_row(folder)
    return max(float(noted or 0.0), 0.0 if row is None else float(row["seconds"]))


def latest_row(folder: FoldFolder) -> dict[str, str] | None:
    """Return the last epoch of a training's history; None before the first."""
    if not folder.history.exists():
        return None
    with folder.history.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return rows[-1] if rows else None


def load_state(identity: str, folder: FoldFolder) -> TrainingState:
    """Return where a broken-off training stands; a new state if nothing is there.

    Raises:
        TrainingError: If the checkpoint cannot be read or belongs to another training.
    """
    noted_s = _noted_s(identity, folder)
    if not folder.checkpoint.exists():
        return TrainingState(identity, spent_s=noted_s)
    try:
        document = torch.load(folder.checkpoint, map_location="cpu", weights_only=True)
        read = {"history": json.loads(document["history"]), "under_way": OpenEpoch(**document["under_way"])}
        state = TrainingState(**{**document, **read})
    except DAMAGED as error:
        raise TrainingError(
            f"{folder.checkpoint}: must be a checkpoint, got: {error}. Delete it, or start again with --restart."
        ) from None
    if state.identity != identity:
        raise TrainingError(different_training(folder))
    state.spent_s = max(state.spent_s, noted_s)
    return state


@dataclass(frozen=True)
class Begun:
    """Which training a folder holds.

    Attributes:
        identity: See `TrainingRecord`.
        recipe: `Plan.recipe_digest` of what is trained.
    """

    identity: str
    recipe: str


def begun_in(folder: FoldFolder) -> Begun | None:
    """Return which training of a folder is over or broken off; None if there is none that can be read."""
    if folder.record.exists():
        record = TrainingRecord.load(folder.record)
        return Begun(record.identity, record.made_from.get(RECIPE, ""))
    if not folder.checkpoint.exists():
        return None
    try:
        document = torch.load(folder.checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return Begun(str(document["identity"]), str(document.get(RECIPE, "")))
    except DAMAGED:
        return None  # Who goes on with it says what to do.


def different_training(folder: FoldFolder) -> str:
    """Return the message for a folder whose training is another one than was asked for."""
    return (
        f"{folder.root}: a training is continued with the plan, split, cases, seed, length and initial weights"
        " that it began with, got others. Ask for the same, start again with --restart, or use another --workspace."
    )
