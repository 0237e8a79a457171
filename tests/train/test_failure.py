"""What ends a training against its will: one clear message, and a checkpoint from which it goes on."""

import csv
import errno
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autoseg.core.errors import ArtefactError, InterruptionError, TrainingError
from autoseg.core.progress import Silent
from autoseg.core.seeding import generator
from autoseg.core.workspace import FoldFolder
from autoseg.data.splits import Split
from autoseg.network.checkpoint import save_weights
from autoseg.network.unet import UNet
from autoseg.train import trainer
from autoseg.train.augment import draw_augmentation
from autoseg.train.distributed import Team
from autoseg.train.failure import changed_entries, computing, not_finite, reading, writing
from autoseg.train.hooks import NO_HOOKS, Hooks
from autoseg.train.loop import FoldData, TrainingRequest, train_fold
from autoseg.train.sampling import Batch
from tests.train.plans import LABELS, augmentation, cube_plan, store, store_cube, training

SPLIT = Split(train=("a", "b", "c"), validation=("d",))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    folder = tmp_path / "cases"
    for seed, name in enumerate("abcd"):
        store_cube(folder, name, seed)
    return folder


@pytest.fixture
def begun(cases: Path, tmp_path: Path) -> FoldFolder:
    """A training of three epochs, left after the first."""
    folder = FoldFolder(tmp_path / "fold")
    with pytest.raises(InterruptionError):
        _train(cases, folder, hooks=Hooks(stopping=_stop_at(num_asked=4 + 2 + 1)))
    return folder


def _stop_at(num_asked: int) -> Callable[[], AbstractContextManager[Callable[[], bool]]]:
    asked = iter(range(1, 10**6))

    @contextmanager
    def stopping() -> Iterator[Callable[[], bool]]:
        yield lambda: next(asked) >= num_asked

    return stopping


def _train(
    cases: Path, folder: FoldFolder, split: Split = SPLIT, hooks: Hooks = NO_HOOKS, num_workers: int = 0
) -> None:
    request = TrainingRequest(
        configuration="3d_fullres",
        fold=0,
        num_epochs=3,
        budget_s=None,
        device="cpu",
        seed=5,
        num_workers=num_workers,
        restart=False,
    )
    train_fold(cube_plan(), FoldData(split, cases, "digest"), folder, request, Silent(), hooks)


@contextmanager
def _files_up_to(num_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size: writes fail as they do on a full disk, in whatever library writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("num_bytes", [0, 1000, 20_000])
def test_a_disk_that_takes_no_more_leaves_the_last_checkpoint(
    cases: Path, begun: FoldFolder, tmp_path: Path, num_bytes: int
) -> None:
    before = begun.checkpoint.read_bytes()
    with (
        _files_up_to(num_bytes),
        pytest.raises(TrainingError, match=r"last\.checkpoint: must be writable, got: File too large\. .*is intact"),
    ):
        _train(cases, begun)
    assert begun.checkpoint.read_bytes() == before
    assert not list(begun.root.glob(".writing-*"))
    _train(cases, begun)
    unbroken = FoldFolder(tmp_path / "unbroken")
    _train(cases, unbroken)
    mine, theirs = load_file(begun.weights), load_file(unbroken.weights)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "Free some space"), (errno.EROFS, "Make the folder writable")]
)
@pytest.mark.parametrize("what", ["history.csv", "weights.safetensors"])
def test_every_file_that_cannot_be_written_is_named(
    cases: Path, begun: FoldFolder, monkeypatch: pytest.MonkeyPatch, what: str, number: int, remedy: str
) -> None:
    """History and checkpoint are one write: the message names the checkpoint."""

    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    target = {
        "history.csv": "autoseg.train.record.write_history",
        "weights.safetensors": "autoseg.train.loop.save_weights",
    }
    monkeypatch.setattr(target[what], refuse)
    named = {"history.csv": "last.checkpoint"}.get(what, what)
    with pytest.raises(TrainingError) as raised:
        _train(cases, begun)
    assert str(begun.root / named) in str(raised.value)
    assert os.strerror(number) in str(raised.value)
    assert remedy in str(raised.value)
    assert not begun.record.exists()
    monkeypatch.undo()
    _train(cases, begun)
    assert begun.record.exists()


def test_weights_that_do_not_fit_on_the_disk_leave_the_last_checkpoint(
    cases: Path, begun: FoldFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*arguments: object) -> None:
        with _files_up_to(1000):
            save_weights(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("autoseg.train.loop.save_weights", save)
        with pytest.raises(TrainingError, match=r"weights\.safetensors: must be writable, got: File too large\."):
            _train(cases, begun)
    assert not begun.weights.exists()
    _train(cases, begun)
    assert begun.weights.exists()


def test_a_file_in_place_of_the_folder_is_named(cases: Path, tmp_path: Path) -> None:
    (tmp_path / "fold").write_text("not a folder")
    with pytest.raises(TrainingError, match=re.escape(f"{tmp_path / 'fold'}: must be writable, got: File exists.")):
        _train(cases, FoldFolder(tmp_path / "fold"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_only_be_read_is_named(
    cases: Path, begun: FoldFolder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Stands for the permissions, which do not bind whoever may do everything."""
    before = begun.checkpoint.read_bytes()
    touch = os.open

    def refuse(path: str | Path, flags: int, *mode: int) -> int:
        if Path(path).parent == begun.root and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(number, os.strerror(number), str(path))
        return touch(path, flags, *mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(TrainingError, match=rf"must be writable, got: {os.strerror(number)}\. Make the folder"):
            _train(cases, begun)
    assert begun.checkpoint.read_bytes() == before
    _train(cases, begun)
    assert begun.record.exists()


@pytest.mark.parametrize("suffix", [".image.b2nd", ".label.b2nd", ".json", ".voxels.npz"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_preprocessed_file_that_vanishes_is_named(
    cases: Path, begun: FoldFolder, suffix: str, num_workers: int
) -> None:
    before = begun.checkpoint.read_bytes()
    for name in "abc":
        (cases / f"{name}{suffix}").unlink()
    with pytest.raises(TrainingError, match=rf"cases/[abc]{re.escape(suffix)}: .*checkpoint is intact"):
        _train(cases, begun, num_workers=num_workers)
    assert begun.checkpoint.read_bytes() == before
    assert not active_children()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of batchgenerators' thread
def test_a_worker_that_is_killed_ends_the_training_with_one_message(cases: Path, begun: FoldFolder) -> None:
    """As the system does when memory runs out."""

    @contextmanager
    def stopping() -> Iterator[Callable[[], bool]]:
        yield kill_the_worker

    def kill_the_worker() -> bool:
        for child in active_children():
            os.kill(child.pid or 0, signal.SIGKILL)
        return False

    with pytest.raises(TrainingError, match=r"background workers must live .* the last checkpoint is intact"):
        _train(cases, begun, hooks=Hooks(stopping), num_workers=1)
    assert not active_children()
    assert begun.checkpoint.exists()  # of this epoch or, where batches were at hand already, of a later one
    _train(cases, begun)
    assert begun.record.exists()


@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_a_damaged_image_is_named(cases: Path, begun: FoldFolder, damage: str) -> None:
    for name in "abc":
        path = cases / f"{name}.image.b2nd"
        content = path.read_bytes()
        half = len(content) // 2
        path.write_bytes(content[:half] + (b"" if damage == "truncated" else b"\xff" * (len(content) - half)))
    with pytest.raises(
        TrainingError, match=r"cases/[abc]\.image\.b2nd: must be a readable part of a preprocessed case"
    ):
        _train(cases, begun)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_scan_that_is_not_finite_is_named_alone(
    cases: Path, begun: FoldFolder, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(trainer, "best_precision", lambda device: precision)
    image = np.full((1, 12, 14, 16), np.nan)
    store(cases, "b", image, np.ones(image.shape[1:], dtype=np.int16), LABELS.num_classes)
    with pytest.raises(TrainingError, match=r"step \d+: .*must be finite, got .*nan.* b \(augmentation: ") as raised:
        _train(cases, begun)
    message = str(raised.value)
    assert "autoseg check" in message
    assert "noise_seed" not in message
    assert not re.search(r" [acd] \(augmentation", message)


def _half_precision_with_bad_steps(monkeypatch: pytest.MonkeyPatch, bad_steps: set[int]) -> None:
    """Train in float16, where the loss of some steps is too large."""
    monkeypatch.setattr(trainer, "best_precision", lambda device: "float16")
    take = trainer.Trainer.step

    def step(self: trainer.Trainer, batch: Batch, rate: float, step: int) -> torch.Tensor:
        loss = take(self, batch, rate, step)
        return torch.full_like(loss, torch.inf) if step in bad_steps else loss

    monkeypatch.setattr(trainer.Trainer, "step", step)


def test_a_step_that_half_precision_skips_is_told_and_left_out(
    cases: Path, begun: FoldFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _half_precision_with_bad_steps(monkeypatch, {6})
    with caplog.at_level("WARNING", logger="autoseg"):
        _train(cases, begun)
    assert "half precision has skipped 1 of 4 steps whose loss was not finite" in caplog.text
    with begun.history.open(newline="") as stream:
        losses = [float(row["training_loss"]) for row in csv.DictReader(stream)]
    assert len(losses) == 3
    assert np.isfinite(losses).all()


def test_a_loss_that_half_precision_seldom_holds_ends_the_training(
    cases: Path, begun: FoldFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _half_precision_with_bad_steps(monkeypatch, {5, 6})
    with pytest.raises(TrainingError, match=r"step 6: .*got loss inf in 2 of 4 steps for the cases: .*learning rate"):
        _train(cases, begun)


def test_gradients_that_half_precision_never_holds_end_the_training(
    cases: Path, begun: FoldFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is finite in every step, and every step is skipped: the scale falls and falls."""
    monkeypatch.setattr(trainer, "best_precision", lambda device: "float16")
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=8.0))
    forward = UNet.forward_all

    def spoilt(network: UNet, x: torch.Tensor) -> list[torch.Tensor]:
        outputs = forward(network, x)
        outputs[0].register_hook(lambda gradient: gradient * torch.inf)  # type: ignore[no-untyped-call]
        return outputs

    monkeypatch.setattr(UNet, "forward_all", spoilt)
    with pytest.raises(
        TrainingError, match=r"must be finite, got gradients that are not, scaled by 0\.5 for the cases"
    ):
        _train(cases, begun)


def _batch(images: list[float]) -> Batch:
    rng = generator(0, "batch")
    draws = [draw_augmentation(rng, augmentation(0.0), (4, 4, 4), 1) for _ in images]
    filled = np.stack([np.full((1, 4, 4, 4), value, dtype=np.float32) for value in images])
    labels = np.zeros((len(images), 4, 4, 4), dtype=np.int16)
    return Batch(filled, labels, draws, [f"case_{number}" for number in range(len(images))])


def test_where_every_image_is_finite_all_cases_are_named() -> None:
    message = str(not_finite(7, "loss inf", _batch([1.0, 2.0]), training(), (4, 4, 4)))
    assert "step 7: loss and gradient must be finite, got loss inf" in message
    assert "case_0 (augmentation: none); case_1 (augmentation: none)" in message
    assert "learning rate" in message


@pytest.mark.parametrize(
    ("images", "words"),
    [([1.0, 2.0], "for a scan that another process has read. It names the scan"), ([1.0, np.inf], "case_1 (augm")],
)
def test_the_process_that_has_read_the_scan_names_it_and_no_other(
    monkeypatch: pytest.MonkeyPatch, images: list[float], words: str
) -> None:
    monkeypatch.setattr(Team, "any", lambda team, flag: True)
    message = str(not_finite(7, "loss nan", _batch(images), training(), (4, 4, 4), Team(0, 2)))
    assert words in message
    assert "case_0" not in message


def test_changed_entries_are_those_that_change_something() -> None:
    plan = augmentation(0.0)
    draw = draw_augmentation(generator(1, "draw"), plan, (8, 8, 8), 1)
    assert changed_entries(draw, plan, (8, 8, 8)) == "none"
    changed = replace(draw, mirrored=(True, False, False), gamma=(1.23456,))
    assert changed_entries(changed, plan, (8, 8, 8)) == "mirrored (yes, no, no), gamma (1.23)"


def test_memory_that_a_gpu_lacks_is_counted(cases: Path, begun: FoldFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*arguments: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of 7.79 GiB of which 312.50 MiB"
            " is free. Including non-PyTorch memory, this process has 7.45 GiB memory in use."
        )

    before = begun.checkpoint.read_bytes()
    monkeypatch.setattr(trainer.Trainer, "step", step)
    with pytest.raises(
        TrainingError, match=r"got: 2\.25 GiB more to allocate with 312\.50 MiB free of 7\.79 GiB.*--gpu-memory.*intact"
    ):
        _train(cases, begun)
    assert begun.checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("the device is full"),
        RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_that_the_device_lacks_is_told_in_its_words(error: Exception) -> None:
    said = re.escape(str(error).partition("\n")[0].rstrip("."))
    with pytest.raises(TrainingError, match=rf"memory of the device, got: {said}\. End what else"), computing():
        raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes."), "DefaultCPUAllocator: can't .* 8 bytes"),
        (MemoryError(), "none left"),
    ],
)
def test_memory_that_the_machine_lacks_is_told_apart(error: Exception, said: str) -> None:
    with pytest.raises(TrainingError, match=rf"memory of the machine, got: {said}\..*fewer --workers"), computing():
        raise error


def test_a_network_that_is_larger_than_the_device_is_told_too(
    cases: Path, begun: FoldFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(*arguments: object) -> None:
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(trainer, "place", place)
    with pytest.raises(TrainingError, match=r"memory of the device, got: the device is full\. .*is intact"):
        _train(cases, begun)
    assert begun.checkpoint.exists()


def test_other_errors_pass() -> None:
    for guard in (computing(), reading(), writing(Path("file"))):
        with pytest.raises(KeyError, match="key"), guard:
            raise KeyError("key")
    with pytest.raises(RuntimeError, match="sizes must agree"), computing():
        raise RuntimeError("sizes must agree")
    with pytest.raises(TrainingError, match=r"case\.json: broken\. The last checkpoint is intact"), reading():
        raise ArtefactError("case.json: broken.")
