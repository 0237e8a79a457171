"""Trainings by the clock, on a clock of their own: every step, validation and checkpoint takes what it is told to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from autoseg.core.errors import InterruptionError
from autoseg.core.progress import Silent
from autoseg.core.workspace import FoldFolder
from autoseg.data.splits import Split
from autoseg.train.epoch import NOTE_S
from autoseg.train.hooks import NO_HOOKS, Hooks
from autoseg.train.loop import FoldData, TrainingRequest, train_fold
from autoseg.train.record import TrainingRecord, TrainingState, save_state
from autoseg.train.sampling import Batch
from autoseg.train.trainer import Trainer
from tests.train.plans import cube_plan, store_cube, training

PLAN = cube_plan(training(steps_per_epoch=40, validation_steps=4))
CLASSES = 2


@dataclass
class Machine:
    """A machine whose time passes when it works.

    Attributes:
        now: Seconds.
        step_s: Of a training step, from and to; drawn anew each time.
        validation_s: Of a batch to validate.
        checkpoint_s: Of a checkpoint.
        rates: Learning rates of the steps so far.
    """

    now: float
    step_s: tuple[float, float]
    validation_s: float
    checkpoint_s: float
    rates: list[float]

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def step(self, batch: Batch, rate: float, step: int) -> Tensor:
        self.now += self._rng.uniform(*self.step_s)
        self.rates.append(rate)
        return torch.tensor(0.5)

    def validate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.now += self.validation_s
        return torch.tensor(0.5), torch.ones(3, CLASSES)

    def save(self, state: TrainingState, folder: FoldFolder) -> None:
        save_state(state, folder)
        self.now += self.checkpoint_s


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FoldData:
    folder = tmp_path_factory.mktemp("cases")
    for seed, name in enumerate("ab"):
        store_cube(folder, name, seed)
    return FoldData(Split(train=("a",), validation=("b",)), folder, "digest")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, data: FoldData) -> Machine:
    made = Machine(now=1000.0, step_s=(0.5, 1.5), validation_s=0.3, checkpoint_s=2.0, rates=[])
    for module in ("loop", "epoch", "schedule"):
        monkeypatch.setattr(f"autoseg.train.{module}.time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(Trainer, "step", made.step)
    monkeypatch.setattr(Trainer, "validate", made.validate)
    monkeypatch.setattr("autoseg.train.epoch.save_state", made.save)
    monkeypatch.setattr("autoseg.train.sampling.PatchSource.batch", lambda source, step: None)
    return made


def _train(data: FoldData, folder: FoldFolder, budget_s: float, hooks: Hooks = NO_HOOKS) -> TrainingRecord:
    request = TrainingRequest(
        configuration="3d_fullres",
        fold=0,
        num_epochs=None,
        budget_s=budget_s,
        device="cpu",
        seed=0,
        num_workers=0,
        restart=False,
    )
    return train_fold(PLAN, data, folder, request, Silent(), hooks)


def _stopping_at(num_asked: int) -> Hooks:
    asked = iter(range(1, 10**6))

    @contextmanager
    def stopping() -> Iterator[Callable[[], bool]]:
        yield lambda: next(asked) >= num_asked

    return Hooks(stopping)


@pytest.mark.parametrize("budget_s", [60.0, 100.0, 137.0, 300.0, 1000.0])
@pytest.mark.parametrize(("validation_s", "checkpoint_s"), [(0.0, 0.0), (0.3, 2.0), (1.0, 0.1)])
def test_a_training_ends_when_its_budget_does(
    data: FoldData, tmp_path: Path, machine: Machine, budget_s: float, validation_s: float, checkpoint_s: float
) -> None:
    """Within 3 %, validation and checkpoint included; by then the learning rate has come down."""
    machine.validation_s, machine.checkpoint_s = validation_s, checkpoint_s
    record = _train(data, FoldFolder(tmp_path), budget_s)
    assert 0.97 * budget_s <= machine.now - 1000 <= 1.03 * budget_s
    assert record.seconds == pytest.approx(machine.now - 1000)
    assert machine.rates[-1] < 0.15 * max(machine.rates)


@pytest.mark.parametrize("num_asked", [30, 43, 60])
def test_a_training_that_is_killed_has_spent_its_time_all_the_same(
    data: FoldData, tmp_path: Path, machine: Machine, num_asked: int
) -> None:
    """In the first epoch, as it validates, and in a later one: the steps since the last checkpoint are lost."""
    folder = FoldFolder(tmp_path)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            _train(data, folder, 150.0, _killed_at(num_asked))
        machine.now += 5000
    _train(data, folder, 150.0)
    assert 0.97 * 150 <= machine.now - 11_000 <= 1.03 * 150 + 2 * NOTE_S
    assert {path.name for path in tmp_path.iterdir()} == {
        path.name for path in (folder.record, folder.weights, folder.history, folder.lock)
    }


def test_what_another_training_has_spent_is_not_counted(data: FoldData, tmp_path: Path, machine: Machine) -> None:
    folder = FoldFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _train(data, folder, 150.0, _killed_at(30))
    assert folder.spent.exists()
    began = machine.now
    _train(data, folder, 160.0)
    assert machine.now - began == pytest.approx(160.0, rel=0.03)


def _killed_at(num_asked: int) -> Hooks:
    """Return hooks that end a training without a word or a checkpoint."""
    asked = iter(range(1, 10**6))

    def die() -> bool:
        if next(asked) >= num_asked:
            raise KeyboardInterrupt
        return False

    @contextmanager
    def stopping() -> Iterator[Callable[[], bool]]:
        yield die

    return Hooks(stopping)


@pytest.mark.parametrize("num_asked", [2, 39, 42, 60, 100])
def test_a_training_that_goes_on_spends_what_was_left(
    data: FoldData, tmp_path: Path, machine: Machine, num_asked: int
) -> None:
    """Time between the runs counts nowhere."""
    folder = FoldFolder(tmp_path)
    with pytest.raises(InterruptionError):
        _train(data, folder, 150.0, _stopping_at(num_asked))
    spent_s, num_steps = machine.now - 1000, len(machine.rates)
    machine.now += 5000
    record = _train(data, folder, 150.0)
    left_s = machine.now - 6000 - spent_s
    assert spent_s + left_s == pytest.approx(150.0, rel=0.03)
    assert record.seconds == pytest.approx(spent_s + left_s, abs=machine.checkpoint_s)
    assert record.num_steps == len(machine.rates) > num_steps
    falling = machine.rates[int(np.argmax(machine.rates)) :]
    assert falling == sorted(falling, reverse=True)
