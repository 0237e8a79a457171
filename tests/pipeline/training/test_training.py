"""How long a training lasts and which fold it holds out."""

from pathlib import Path

import pytest

from autoseg.core.errors import TrainingError
from autoseg.core.workspace import Workspace
from autoseg.data.splits import Split, Splits
from autoseg.pipeline.planning.folds import load_split
from autoseg.pipeline.training.fold import TrainingLength, training_length
from tests.preprocess import plans


@pytest.mark.parametrize(
    ("num_epochs", "budget_s", "expected"),
    [
        (7, None, TrainingLength(7, None)),
        (None, 60.0, TrainingLength(None, 60.0)),
        (None, None, TrainingLength(plans.plan().training.num_epochs, None)),
    ],
)
def test_training_length(num_epochs: int | None, budget_s: float | None, expected: TrainingLength) -> None:
    assert training_length(plans.plan(), num_epochs, budget_s) == expected


def test_epochs_and_budget_together_are_refused() -> None:
    with pytest.raises(TrainingError, match="--epochs or --budget, got both"):
        training_length(plans.plan(), 5, 60.0)


@pytest.mark.parametrize("fold", [-1, 2])
def test_a_fold_that_does_not_exist_is_named(tmp_path: Path, fold: int) -> None:
    split = Split(train=("a",), validation=("b",))
    Splits(folds=(split, split), seed=1).save(Workspace(tmp_path).splits)
    assert load_split(Workspace(tmp_path), 1) == split
    with pytest.raises(TrainingError, match=f"must be one of 0 to 1, got {fold}"):
        load_split(Workspace(tmp_path), fold)
