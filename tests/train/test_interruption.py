"""A training that is asked to leave at any moment, and goes on to the same weights."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autoseg.core.errors import InterruptionError, TrainingError
from autoseg.core.progress import Silent
from autoseg.core.workspace import FoldFolder, FoldName
from autoseg.data.splits import Split
from autoseg.plan.schema import ConfigurationName
from autoseg.train.hooks import NO_HOOKS, Hooks
from autoseg.train.loop import FoldData, TrainingRequest, train_fold
from autoseg.train.record import TrainingRecord, load_state
from autoseg.train.sampling import Batch, PatchSource
from tests.train.plans import cube_plan, store_cube, training

STEPS_PER_EPOCH, VALIDATION_STEPS = 3, 2
ASKED_PER_EPOCH = STEPS_PER_EPOCH + VALIDATION_STEPS
PLAN = cube_plan(training(steps_per_epoch=STEPS_PER_EPOCH, validation_steps=VALIDATION_STEPS, weight_average_decay=0.8))


class Stop:
    """Asks a training to leave when it is asked for the n-th time, counted from 1, and from then on."""

    def __init__(self, at: int) -> None:
        self.at, self.num_asked = at, 0

    @contextmanager
    def stopping(self) -> Iterator[Callable[[], bool]]:
        yield self._ask

    def _ask(self) -> bool:
        self.num_asked += 1
        return self.num_asked >= self.at


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FoldData:
    folder = tmp_path_factory.mktemp("cases")
    for seed, name in enumerate("abcd"):
        store_cube(folder, name, seed)
    return FoldData(Split(train=("a", "b", "c"), validation=("d",)), folder, "digest")


@pytest.fixture(scope="module")
def unbroken(data: FoldData, tmp_path_factory: pytest.TempPathFactory) -> FoldFolder:
    folder = FoldFolder(tmp_path_factory.mktemp("unbroken"))
    _train(data, folder)
    return folder


def _train(data: FoldData, folder: FoldFolder, hooks: Hooks = NO_HOOKS, **changes: object) -> TrainingRecord:
    settings: dict[str, object] = {"num_epochs": 2, "budget_s": None, "num_workers": 0, **changes}
    request = TrainingRequest(
        configuration="3d_fullres",
        fold=0,
        device="cpu",
        seed=5,
        restart=False,
        **settings,  # type: ignore[arg-type]
    )
    return train_fold(PLAN, data, folder, request, Silent(), hooks)


def _rows(folder: FoldFolder) -> list[dict[str, str]]:
    """Return the history but for what a clock says."""
    with folder.history.open() as stream:
        rows = list(csv.DictReader(stream))
    return [{name: text for name, text in row.items() if name not in ("seconds", "waiting_share")} for row in rows]


def _same_weights(first: FoldFolder, second: FoldFolder) -> bool:
    mine, theirs = load_file(first.weights), load_file(second.weights)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("at", range(1, 2 * ASKED_PER_EPOCH + 1))
def test_a_training_left_at_any_moment_ends_with_the_same_weights(
    data: FoldData, unbroken: FoldFolder, tmp_path: Path, at: int
) -> None:
    folder = FoldFolder(tmp_path)
    with pytest.raises(InterruptionError, match="The same command goes on from there"):
        _train(data, folder, Hooks(Stop(at).stopping))
    epochs, place = divmod(at - 1, ASKED_PER_EPOCH)
    state = load_state(_identity(folder), folder)
    assert (state.epoch, state.step) == (epochs, STEPS_PER_EPOCH * epochs + min(place, STEPS_PER_EPOCH))
    assert not folder.weights.exists()
    _train(data, folder)
    assert _same_weights(folder, unbroken)
    assert _rows(folder) == _rows(unbroken)


def _identity(folder: FoldFolder) -> str:
    identity = torch.load(folder.checkpoint, weights_only=True)["identity"]
    assert isinstance(identity, str)
    return identity


def test_a_training_left_after_every_single_step_ends_with_the_same_weights(
    data: FoldData, unbroken: FoldFolder, tmp_path: Path
) -> None:
    folder = FoldFolder(tmp_path)
    for _ in range(2 * STEPS_PER_EPOCH - 1):
        with pytest.raises(InterruptionError):
            _train(data, folder, Hooks(Stop(2).stopping))
    _train(data, folder)
    assert _same_weights(folder, unbroken)
    assert _rows(folder) == _rows(unbroken)


def test_an_interruption_says_where_it_stands(data: FoldData, tmp_path: Path) -> None:
    with pytest.raises(InterruptionError, match=r"training left in epoch 2 after step 4, with a checkpoint"):
        _train(data, FoldFolder(tmp_path), Hooks(Stop(ASKED_PER_EPOCH + 2).stopping))


def test_what_was_spent_of_a_budget_is_kept(data: FoldData, tmp_path: Path) -> None:
    folder = FoldFolder(tmp_path)
    with pytest.raises(InterruptionError):
        _train(data, folder, Hooks(Stop(3).stopping), num_epochs=None, budget_s=2.0)
    spent_s = load_state(_identity(folder), folder).spent_s
    assert 0 < spent_s < 2.0
    record = _train(data, folder, num_epochs=None, budget_s=2.0)
    assert 1.5 < record.seconds < 2.0 + 2.0


def test_workers_that_end_with_the_training_do_not_make_it_an_error(
    data: FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal to a group of processes may end the workers first: the training is told when it is waiting for them."""

    def batches(source: PatchSource, first_step: int, *_: object) -> Iterator[Batch]:
        yield source.batch(first_step)
        raise TrainingError("the worker is dead")

    monkeypatch.setattr("autoseg.train.loop.load_batches", batches)
    with pytest.raises(TrainingError, match="the worker is dead"):
        _train(data, FoldFolder(tmp_path / "not_asked"))
    folder = FoldFolder(tmp_path / "asked")
    with pytest.raises(InterruptionError):
        _train(data, folder, Hooks(Stop(3).stopping))
    assert load_state(_identity(folder), folder).step == 1


def test_each_epoch_is_announced_once_its_row_is_on_disk(data: FoldData, tmp_path: Path) -> None:
    folder = FoldFolder(tmp_path)
    seen: list[tuple[ConfigurationName, FoldName, int]] = []

    def after_epoch(configuration: ConfigurationName, fold: FoldName) -> None:
        seen.append((configuration, fold, len(_rows(folder))))

    _train(data, folder, Hooks(after_epoch=after_epoch))
    assert seen == [("3d_fullres", 0, 1), ("3d_fullres", 0, 2)]
