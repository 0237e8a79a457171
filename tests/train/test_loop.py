import csv
import multiprocessing
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from autoseg.core.errors import TrainingError
from autoseg.core.progress import Silent, Task
from autoseg.core.workspace import FoldFolder
from autoseg.data.splits import Split
from autoseg.network.checkpoint import load_network
from autoseg.network.unet import UNet
from autoseg.plan.schema import Plan
from autoseg.train import trainer
from autoseg.train.epoch import waiting_sentence
from autoseg.train.loop import FoldData, TrainingRequest, throw_away, train_fold
from autoseg.train.record import TrainingRecord
from autoseg.train.sampling import Batch, PatchSource, SamplingPlan
from tests.train.plans import LABELS, cube_plan, store, store_cube, training

SPLIT = Split(train=("a", "b", "c"), validation=("d",))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Leave the machine's other cores to others; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    for seed, name in enumerate("abcd"):
        store_cube(folder, name, seed)
    return folder


def _request(num_epochs: int | None = 3, **changes: object) -> TrainingRequest:
    settings: dict[str, object] = {
        "configuration": "3d_fullres",
        "fold": 0,
        "num_epochs": num_epochs,
        "budget_s": None,
        "device": "cpu",
        "seed": 5,
        "num_workers": 0,
        "restart": False,
    }
    return TrainingRequest(**{**settings, **changes})  # type: ignore[arg-type]


def _train(
    cases: Path, folder: Path, plan: Plan | None = None, split: Split = SPLIT, **changes: object
) -> TrainingRecord:
    request = _request(**changes)  # type: ignore[arg-type]
    return train_fold(plan or cube_plan(), _data(cases, split), FoldFolder(folder), request, Silent())


def _data(cases: Path, split: Split = SPLIT) -> FoldData:
    return FoldData(split, cases, "digest of the dataset")


def _weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = load_file(FoldFolder(folder).weights)
    return weights


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _history(folder: Path) -> list[dict[str, str]]:
    with FoldFolder(folder).history.open() as stream:
        return list(csv.DictReader(stream))


class Breaking:
    """Progress that is interrupted at a report; with `after_epoch`, at the report of that finished epoch."""

    def __init__(self, *, at_report: int | None = None, after_epoch: int | None = None) -> None:
        self.at_report, self.after_epoch = at_report, after_epoch
        self.num_reports = 0

    @contextmanager
    def task(self, name: str, total: float) -> Iterator[Task]:
        yield self

    def advance(self, steps: float = 1, **shown: str) -> None:
        raise AssertionError("a training reports positions")

    def position(self, done: float, **shown: str) -> None:
        self.num_reports += 1
        if self.num_reports == self.at_report or ("dice" in shown and done == self.after_epoch):
            raise KeyboardInterrupt


def test_a_bright_cube_is_learnt(cases: Path, tmp_path: Path) -> None:
    plan = cube_plan(training(steps_per_epoch=20, validation_steps=5, learning_rate=0.02))
    record = _train(cases, tmp_path, plan, num_epochs=4)
    assert record.num_epochs == 4
    assert record.num_steps == 80
    assert record.validation_dice["cube"] is not None
    assert record.validation_dice["cube"] > 0.8
    network = load_network(FoldFolder(tmp_path).weights, plan.configurations["3d_fullres"].network)
    assert _dice_of_a_new_scan(network, cases) > 0.8


def _dice_of_a_new_scan(network: torch.nn.Module, cases: Path) -> float:
    store_cube(cases, "new", 99)
    stored = PatchSource(cases, ("new",), SamplingPlan((12, 14, 16), 1, 0.0, None, 0, ("new",))).batch(0)
    with torch.no_grad():
        found = network(torch.from_numpy(stored.images)).argmax(1).numpy() == 1
    truth = stored.labels == 1
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def test_what_a_training_leaves_behind(cases: Path, tmp_path: Path) -> None:
    record = _train(cases, tmp_path)
    folder = FoldFolder(tmp_path)
    assert TrainingRecord.load(folder.record) == record
    assert not folder.checkpoint.exists()
    rows = _history(tmp_path)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [int(row["steps"]) for row in rows] == [4, 8, 12]
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates[0] > rates[1] > rates[2] > 0
    seconds = [float(row["seconds"]) for row in rows]
    assert 0 < seconds[0] < seconds[1] < seconds[2] <= record.seconds
    assert {"training_loss", "validation_loss", "dice", "dice_cube"} <= rows[0].keys()


@pytest.mark.parametrize(
    "recipe", [{"optimizer": "sgd"}, {"weight_average_decay": 0.8}, {"optimizer": "sgd", "warmup_fraction": 0.0}]
)
def test_every_recipe_changes_the_weights(cases: Path, tmp_path: Path, recipe: dict[str, object]) -> None:
    _train(cases, tmp_path / "short", cube_plan(training(**recipe)), num_epochs=1)
    _train(cases, tmp_path / "long", cube_plan(training(**recipe)), num_epochs=2)
    assert not _same(_weights(tmp_path / "short"), _weights(tmp_path / "long"))


@pytest.mark.parametrize(("decay", "ramp_steps", "kept"), [(0.05, 10, 0.05), (0.9, 10, 0.1), (0.9, 4, 0.25)])
def test_the_average_of_the_weights_is_what_is_kept(
    cases: Path, tmp_path: Path, decay: float, ramp_steps: float, kept: float
) -> None:
    """One step: of the first weights the average keeps the decay, at most 1 / ramp."""
    for name, value in (("last", 0.0), ("averaged", decay)):
        recipe = training(steps_per_epoch=1, weight_average_decay=value, weight_average_ramp_steps=ramp_steps)
        _train(cases, tmp_path / name, cube_plan(recipe), num_epochs=1)
    torch.manual_seed(5)
    start = UNet(cube_plan().configurations["3d_fullres"].network).state_dict()
    last, averaged = _weights(tmp_path / "last"), _weights(tmp_path / "averaged")
    for name, weight in averaged.items():
        torch.testing.assert_close(weight, kept * start[name] + (1 - kept) * last[name])


@pytest.mark.parametrize("breaking", [{"after_epoch": 1}, {"at_report": 8}, {"at_report": 1}, {"after_epoch": 3}])
@pytest.mark.parametrize("recipe", [{}, {"optimizer": "sgd", "weight_average_decay": 0.8}], ids=["adamw", "averaged"])
def test_a_broken_off_training_ends_with_the_same_weights(
    cases: Path, tmp_path: Path, recipe: dict[str, object], breaking: dict[str, int]
) -> None:
    plan = cube_plan(training(**recipe))
    unbroken = _train(cases, tmp_path / "unbroken", plan)
    broken = FoldFolder(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        train_fold(plan, _data(cases), broken, _request(), Breaking(**breaking))
    assert not broken.record.exists()
    record = _train(cases, broken.root, plan)
    assert _same(_weights(broken.root), _weights(tmp_path / "unbroken"))
    assert record.validation_dice == unbroken.validation_dice
    losses = [[row["training_loss"] for row in _history(folder)] for folder in (broken.root, tmp_path / "unbroken")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def test_background_workers_change_nothing(cases: Path, tmp_path: Path) -> None:
    for num_workers in (0, 2):
        _train(cases, tmp_path / str(num_workers), num_epochs=1, num_workers=num_workers)
    assert _same(_weights(tmp_path / "0"), _weights(tmp_path / "2"))
    assert not multiprocessing.active_children()


def test_the_seed_decides(cases: Path, tmp_path: Path) -> None:
    for name, seed in [("first", 1), ("again", 1), ("other", 2)]:
        _train(cases, tmp_path / name, num_epochs=1, seed=seed)
    assert _same(_weights(tmp_path / "first"), _weights(tmp_path / "again"))
    assert not _same(_weights(tmp_path / "first"), _weights(tmp_path / "other"))


def test_two_trainings_in_one_folder_are_refused(cases: Path, tmp_path: Path) -> None:
    with (
        filelock.FileLock(FoldFolder(tmp_path).lock),
        pytest.raises(TrainingError, match="one training at a time must run here"),
    ):
        _train(cases, tmp_path)
    _train(cases, tmp_path, num_epochs=1)


def test_the_lock_is_given_back_after_an_interruption(cases: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_fold(cube_plan(), _data(cases), FoldFolder(tmp_path), _request(), Breaking(at_report=1))
    with filelock.FileLock(FoldFolder(tmp_path).lock, timeout=0):
        pass


OTHERS = [
    pytest.param({"seed": 6}, id="seed"),
    pytest.param({"num_epochs": 4}, id="length"),
    pytest.param({"num_epochs": None, "budget_s": 60.0}, id="budget"),
    pytest.param({"plan": cube_plan(training(learning_rate=0.02))}, id="recipe"),
    pytest.param({"plan": cube_plan(within_mask=True)}, id="configuration"),
    pytest.param({"split": Split(train=("a", "b"), validation=("c",))}, id="split"),
]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("finished", [True, False])
def test_another_training_in_the_same_folder_is_refused(
    cases: Path, tmp_path: Path, other: dict[str, object], finished: bool
) -> None:
    folder = FoldFolder(tmp_path)
    if finished:
        _train(cases, tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            train_fold(cube_plan(), _data(cases), folder, _request(), Breaking(after_epoch=1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TrainingError, match="a training is continued with the plan, split, cases, seed, length"):
        _train(cases, tmp_path, **other)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_finished_training_is_not_run_again(cases: Path, tmp_path: Path) -> None:
    record = _train(cases, tmp_path)
    changed = FoldFolder(tmp_path).weights.stat().st_mtime_ns
    assert train_fold(cube_plan(), _data(cases), FoldFolder(tmp_path), _request(), Breaking(at_report=1)) == record
    assert FoldFolder(tmp_path).weights.stat().st_mtime_ns == changed


def test_what_is_thrown_away_is_gone_but_not_under_a_training(cases: Path, tmp_path: Path) -> None:
    folder = FoldFolder(tmp_path)
    _train(cases, tmp_path, num_epochs=1)
    with filelock.FileLock(folder.lock), pytest.raises(TrainingError, match="one training at a time"):
        throw_away(folder, 0.0)
    assert folder.record.exists()
    throw_away(folder, 0.0)
    assert {path.name for path in tmp_path.iterdir()} == {folder.lock.name}


def test_a_training_that_is_over_has_no_checkpoint_however_it_ended(cases: Path, tmp_path: Path) -> None:
    """It may have been killed after it wrote its record, and before it deleted the other."""
    record = _train(cases, tmp_path, num_epochs=1)
    FoldFolder(tmp_path).checkpoint.write_bytes(b"a checkpoint")
    assert _train(cases, tmp_path, num_epochs=1) == record
    assert not FoldFolder(tmp_path).checkpoint.exists()


def test_restart_throws_an_earlier_training_away(cases: Path, tmp_path: Path) -> None:
    _train(cases, tmp_path, num_epochs=1)
    record = _train(cases, tmp_path, num_epochs=2, seed=6, restart=True)
    assert record.num_epochs == 2
    assert len(_history(tmp_path)) == 2
    _train(cases, tmp_path / "fresh", num_epochs=2, seed=6)
    assert _same(_weights(tmp_path), _weights(tmp_path / "fresh"))


def test_a_budget_is_kept(cases: Path, tmp_path: Path) -> None:
    record = _train(cases, tmp_path, num_epochs=None, budget_s=3.0)
    assert record.num_epochs > 1
    assert 1.0 < record.seconds < 3.0 + 3.0
    assert float(_history(tmp_path)[-1]["learning_rate"]) < 0.01 / 2


def test_the_smallest_budget_trains_an_epoch_of_one_step(cases: Path, tmp_path: Path) -> None:
    record = _train(cases, tmp_path, num_epochs=None, budget_s=1e-6)
    assert (record.num_epochs, record.num_steps) == (1, 1)
    assert FoldFolder(tmp_path).weights.exists()


def test_a_spent_budget_is_not_spent_again(cases: Path, tmp_path: Path) -> None:
    """An interruption after the last epoch leaves only the weights to be written."""
    request = _request(None, budget_s=1e-6)
    with pytest.raises(KeyboardInterrupt):
        train_fold(cube_plan(), _data(cases), FoldFolder(tmp_path), request, Breaking(at_report=3))
    record = train_fold(cube_plan(), _data(cases), FoldFolder(tmp_path), request, Silent())
    assert record.num_steps == 1
    assert record.seconds >= float(_history(tmp_path)[0]["seconds"])


def test_no_epochs_are_refused(cases: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="must be above zero"):
        _train(cases, tmp_path, num_epochs=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_scan_with_a_voxel_that_is_no_number_is_named(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(trainer, "best_precision", lambda device: precision)
    image = np.full((1, 8, 8, 8), np.nan)
    store(cases, "broken_scan", image, np.ones((8, 8, 8), dtype=np.int16), LABELS.num_classes)
    split = Split(train=("broken_scan",), validation=("d",))
    with pytest.raises(TrainingError, match=r"loss.* must be finite, got .*broken_scan"):
        _train(cases, tmp_path, split=split)
    assert not FoldFolder(tmp_path).record.exists()
    assert not FoldFolder(tmp_path).weights.exists()


def test_a_missing_case_is_named(cases: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=re.escape(str(cases / "missing.json"))):
        _train(cases, tmp_path, split=Split(train=("missing",), validation=("d",)))


def test_outside_the_mask_is_zero_where_normalisation_looked_inside_it() -> None:
    images, labels = torch.ones(1, 1, 2, 2, 2), torch.zeros((1, 2, 2, 2), dtype=torch.int16)
    labels[0, 0] = -1
    for within_mask, expected in [(True, 4.0), (False, 8.0)]:
        configuration = cube_plan(within_mask=within_mask).configurations["3d_fullres"]
        assert float(trainer._blank_outside(images, labels, configuration).sum()) == expected


def test_the_voxels_of_all_validation_patches_make_one_dice(cases: Path, tmp_path: Path) -> None:
    """A class that no patch shows has no Dice."""
    absent = Split(train=("a",), validation=("nothing",))
    store(cases, "nothing", np.zeros((1, 8, 8, 8)), np.zeros((8, 8, 8), dtype=np.int16), LABELS.num_classes)
    record = _train(cases, tmp_path, cube_plan(training(learning_rate=0.1)), split=absent, num_epochs=1)
    assert record.validation_dice["cube"] in (None, 0.0)


def test_how_long_a_training_waited_for_patches_is_told(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading is made to take 0.2 s, far longer than a step."""
    quick = _train(cases, tmp_path / "quick", num_epochs=1)
    read = PatchSource.batch

    def read_slowly(source: PatchSource, step: int) -> Batch:
        time.sleep(0.2)
        return read(source, step)

    monkeypatch.setattr(PatchSource, "batch", read_slowly)
    slow = _train(cases, tmp_path / "slow", num_epochs=1)
    assert 0 < quick.waiting_share < slow.waiting_share < 1
    assert slow.waiting_share > 0.5
    assert waiting_sentence(slow.waiting_share, 0) in caplog.text


@pytest.mark.parametrize(("num_workers", "expected"), [(0, "a faster disk"), (3, "more --workers than 3")])
def test_what_to_do_about_waiting(num_workers: int, expected: str) -> None:
    sentence = waiting_sentence(0.123, num_workers)
    assert sentence.startswith("Training waited for patches 12% of the time")
    assert expected in sentence
