import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter

from autoseg.core.errors import ArtefactError, TrainingError
from autoseg.core.geometry import Box
from autoseg.data.store import StoredCase, open_case, read_patch, write_earlier
from autoseg.train import sampling
from autoseg.train.augment import AugmentationDraw, apply_augmentation
from autoseg.train.cascade import EarlierDraw, EarlierStage
from autoseg.train.sampling import Batch, PatchSource, SamplingPlan, load_batches
from tests.train.plans import augmentation, store

SHAPE = (10, 11, 12)
FAR_CORNER = (9, 10, 11)
EARLIER_ALWAYS = {
    f"earlier_{name}_probability": 1.0 for name in ("reshaping", "reshaping_class", "removal", "removal_class")
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases whose voxels hold their own number, from 1; each class lies at a corner or in the middle.

    `corners` has class 1 in its last voxel and class 2 in many, `empty` has no foreground, `tiny` is smaller than a
    patch along two axes.
    """
    folder = tmp_path_factory.mktemp("cases")
    numbers = np.arange(1, np.prod(SHAPE) + 1).reshape(1, *SHAPE)
    label = np.zeros(SHAPE, dtype=np.int16)
    store(folder, "empty", numbers, label, 3)
    corners = label.copy()
    corners[0, :8, :8] = 2
    corners[FAR_CORNER] = 1
    store(folder, "corners", numbers, corners, 3)
    store(folder, "tiny", numbers[:, :4, :5], np.full((4, 5, 12), 2, dtype=np.int16), 3)
    return folder


def _source(folder: Path, names: tuple[str, ...], **changes: object) -> PatchSource:
    settings: dict[str, object] = {
        "patch_size": (6, 6, 6),
        "batch_size": 2,
        "foreground_fraction": 0.33,
        "augmentation": None,
        "seed": 3,
        "place": ("train", 0),
    }
    return PatchSource(folder, names, SamplingPlan(**{**settings, **changes}))  # type: ignore[arg-type]


def _same(first: Batch, second: Batch) -> bool:
    return (
        np.array_equal(first.images, second.images)
        and np.array_equal(first.labels, second.labels)
        and first.draws == second.draws
        and first.cases == second.cases
    )


ALL = ("corners", "empty", "tiny")


def test_a_batch_depends_on_its_step_alone(folder: Path) -> None:
    forwards, backwards = (_source(folder, ALL, augmentation=augmentation(0.5)) for _ in range(2))
    first = [forwards.batch(step) for step in range(6)]
    second = [backwards.batch(step) for step in reversed(range(6))][::-1]
    assert all(_same(one, other) for one, other in zip(first, second, strict=True))
    assert not any(_same(first[0], other) for other in first[1:])


@pytest.mark.parametrize("change", [{"seed": 4}, {"place": ("train", 1)}, {"place": ("validation", 0)}])
def test_another_seed_or_place_draws_other_batches(folder: Path, change: dict[str, object]) -> None:
    one, other = _source(folder, ALL), _source(folder, ALL, **change)
    assert not any(_same(one.batch(step), other.batch(step)) for step in range(5))


def test_patches_that_seek_no_class_centre_on_annotated_voxels(tmp_path: Path) -> None:
    """Of 100 slices, one is annotated, all as background: each patch holds it in its middle."""
    label = np.full((100, 8, 8), 2, dtype=np.int16)
    label[60] = 0
    store(tmp_path, "sparse", np.ones((1, *label.shape)), label, 2)
    batch = _source(tmp_path, ("sparse",), batch_size=4).batch(0)
    assert (batch.labels[:, 3] == 0).all()
    assert (np.delete(batch.labels, 3, axis=1) == 2).all()


def test_a_case_without_any_annotation_is_drawn_from_anywhere(tmp_path: Path) -> None:
    store(tmp_path, "bare", np.ones((1, 8, 8, 8)), np.full((8, 8, 8), 2, dtype=np.int16), 2)
    assert (_source(tmp_path, ("bare",)).batch(0).labels == 2).all()


def test_shapes_and_types(folder: Path) -> None:
    batch = _source(folder, ALL, batch_size=3).batch(0)
    assert batch.images.shape == (3, 1, 6, 6, 6)
    assert batch.labels.shape == (3, 6, 6, 6)
    assert batch.images.dtype == np.float32
    assert batch.labels.dtype == np.int16
    assert batch.draws == []
    assert len(batch.cases) == 3


def test_more_is_read_where_a_sample_moves(folder: Path) -> None:
    recipe = augmentation(0.0, rotation_probability=1.0)
    batch = _source(folder, ("empty",), augmentation=recipe).batch(0)
    assert len(batch.draws) == 2
    assert all(size > 6 for size in batch.images.shape[2:])
    assert batch.images.shape[2:] == batch.labels.shape[1:]


def test_what_moves_is_centred_on_the_patch(folder: Path) -> None:
    """The centre of the larger part is the patch that is read when nothing moves, up to the side of an even size."""
    still = _source(folder, ("empty",), augmentation=augmentation(0.0)).batch(5)
    moved = _source(folder, ("empty",), augmentation=augmentation(0.0, scaling_probability=1.0)).batch(5)
    for small, large in zip(still.images, moved.images, strict=True):
        start = [(big - 6) // 2 for big in large.shape[1:]]
        centre = large[0][tuple(slice(first, first + 6) for first in start)]
        assert np.array_equal(centre, small[0])


@pytest.mark.parametrize("patch_size", [(6, 6, 6), (6, 8)])
def test_what_does_not_move_is_read_as_far_as_its_patch_goes_and_learnt_from_alike(
    folder: Path, monkeypatch: pytest.MonkeyPatch, patch_size: tuple[int, ...]
) -> None:
    """To the network, no bit differs from what it would see if every sample were read as widely as the widest."""
    recipe = augmentation(0.3, **EARLIER_ALWAYS)
    source = _source_with_earlier(folder, augmentation=recipe, patch_size=patch_size, batch_size=5)
    num_read: list[int] = []

    def counting(case: StoredCase, box: Box) -> tuple[np.ndarray, np.ndarray]:
        num_read.append(math.prod(last - first for first, last in box))
        return read_patch(case, box)

    monkeypatch.setattr(sampling, "read_patch", counting)
    spared = 0
    for step in range(20):
        batch = source.batch(step)
        with monkeypatch.context() as patch:
            patch.setattr(AugmentationDraw, "is_rigid", False)
            wide = source.batch(step)
        assert batch.draws == wide.draws
        for number, wanted, draw in zip(num_read[-10:-5], num_read[-5:], batch.draws, strict=True):
            assert number == (math.prod(patch_size) if draw.is_rigid else wanted)
            spared += wanted > number
        for seen, expected in zip(_seen(batch, patch_size), _seen(wide, patch_size), strict=True):
            assert torch.equal(seen, expected)
    assert 10 < spared < 90


def _seen(batch: Batch, patch_size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and maps as the network gets them."""
    assert batch.earlier is not None
    images, *maps = (torch.from_numpy(found) for found in (batch.images, batch.labels, batch.earlier))
    return apply_augmentation(images, torch.stack(maps, dim=1), batch.draws, patch_size)


@pytest.mark.parametrize(
    ("batch_size", "fraction", "num_free"), [(2, 0.33, 1), (12, 0.33, 8), (3, 0.33, 2), (4, 0.0, 4), (4, 1.0, 0)]
)
def test_the_last_samples_hold_foreground(folder: Path, batch_size: int, fraction: float, num_free: int) -> None:
    source = _source(folder, ("corners",), batch_size=batch_size, foreground_fraction=fraction)
    batches = [source.batch(step) for step in range(25)]
    found = np.array([[(label > 0).any() for label in batch.labels] for batch in batches])
    assert found[:, num_free:].all()
    assert not found[:, :num_free].all(axis=0).any()


def test_of_batches_of_one_some_hold_foreground(folder: Path) -> None:
    shares = []
    for fraction in (0.0, 0.33):
        source = _source(folder, ("corners",), batch_size=1, foreground_fraction=fraction)
        shares.append(np.mean([(source.batch(step).labels > 0).any() for step in range(200)]))
    assert shares[1] == pytest.approx(shares[0] + 0.33 * (1 - shares[0]), abs=0.08)


def test_rare_classes_are_drawn_as_often_as_others(folder: Path) -> None:
    source = _source(folder, ("corners",), foreground_fraction=1.0, batch_size=4)
    rare = [(label == 1).any() for step in range(50) for label in source.batch(step).labels]
    assert np.mean(rare) == pytest.approx(0.5, abs=0.1)


def test_a_case_without_foreground_gives_any_patch(folder: Path) -> None:
    batch = _source(folder, ("empty",), foreground_fraction=1.0).batch(0)
    assert not batch.labels.any()


def test_patches_lie_inside_the_scan_and_reach_its_borders(folder: Path) -> None:
    source = _source(folder, ("corners",))
    batches = [source.batch(step) for step in range(200)]
    assert all((batch.images > 0).all() and (batch.labels >= 0).all() for batch in batches)
    places = np.array([np.unravel_index(int(batch.images[0, 0, 0, 0, 0]) - 1, SHAPE) for batch in batches])
    assert places.min(axis=0).tolist() == [0, 0, 0]
    assert places.max(axis=0).tolist() == [size - 6 for size in SHAPE]


def test_image_and_label_are_of_one_place(folder: Path) -> None:
    batch = _source(folder, ("corners",), foreground_fraction=1.0, batch_size=8).batch(0)
    where = batch.labels == 1
    last = np.prod(SHAPE)
    assert where.any()
    assert np.array_equal(batch.images[:, 0] == last, where)


def test_a_scan_smaller_than_a_patch_is_padded_on_both_sides(folder: Path) -> None:
    batch = _source(folder, ("tiny",)).batch(0)
    inside = np.zeros((6, 6, 6), dtype=bool)
    inside[1:5, 1:6] = True
    for image, label in zip(batch.images[:, 0], batch.labels, strict=True):
        assert np.array_equal(image != 0, inside)
        assert np.array_equal(label != -1, inside)


def test_slices(folder: Path) -> None:
    source = _source(folder, ("corners",), patch_size=(6, 8))
    batches = [source.batch(step) for step in range(60)]
    assert batches[0].images.shape == (2, 1, 6, 8)
    assert batches[0].labels.shape == (2, 6, 8)
    depths = {(int(batch.images[0, 0, 0, 0]) - 1) // (SHAPE[1] * SHAPE[2]) for batch in batches}
    assert depths == set(range(SHAPE[0]))
    assert all((batch.labels[1] > 0).any() for batch in batches)


def test_steps_come_in_order_without_workers(folder: Path) -> None:
    source = _source(folder, ALL, augmentation=augmentation(0.5))
    batches = list(islice(load_batches(source, 7, 0), 4))
    assert all(_same(batch, source.batch(7 + step)) for step, batch in enumerate(batches))


def test_workers_give_the_same_batches_in_the_same_order_and_end(folder: Path) -> None:
    source = _source(folder, ALL, augmentation=augmentation(0.5))
    before = set(multiprocessing.active_children())
    batches = load_batches(source, 7, 2)
    drawn = list(islice(batches, 5))
    assert len(set(multiprocessing.active_children()) - before) == 2
    batches.close()
    assert all(_same(batch, source.batch(7 + step)) for step, batch in enumerate(drawn))
    deadline = time.monotonic() + 5
    while set(multiprocessing.active_children()) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_may_begin_again(folder: Path, num_workers: int) -> None:
    source = _source(folder, ALL)
    with closing(load_batches(source, 0, num_workers, period=3)) as batches:
        drawn = list(islice(batches, 7))
    assert all(_same(batch, source.batch(step % 3)) for step, batch in enumerate(drawn))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_error_of_a_case_comes_from_whatever_process_reads_it(
    folder: Path, capfd: pytest.CaptureFixture[str], num_workers: int
) -> None:
    with pytest.raises(ArtefactError, match=r"missing\.json"):
        next(load_batches(_source(folder, ("missing",)), 0, num_workers))
    assert capfd.readouterr() == ("", "")


def test_the_death_of_a_worker_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying:
        """Stands for batchgenerators' loader, which raises this once a process of it is gone."""

        def __init__(self, *_: object, **__: object) -> None:
            self.is_finished, self._processes = False, list[object]()

        def _start(self) -> None:
            pass

        def __iter__(self) -> "Dying":
            return self

        def __next__(self) -> object:
            raise RuntimeError("One or more background workers are no longer alive.")

        def _finish(self) -> None:
            self.is_finished = True

    monkeypatch.setattr(sampling, "MultiThreadedAugmenter", Dying)
    with pytest.raises(TrainingError, match=r"background workers must live .* the last checkpoint is intact"):
        next(load_batches(_source(folder, ("a",)), 0, 2))


def _write_half_and_die(connection: Connection, content: bytes) -> None:
    """Stand for `Connection._send` in a process that the system kills for want of memory."""
    os.write(connection.fileno(), content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of batchgenerators' thread
def test_a_worker_that_is_killed_while_its_batch_is_read_is_no_reason_to_wait(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, taken = sampling._Loader.__next__, list[int]()

    def take_or_die(loader: sampling._Loader) -> dict[str, object]:
        found = take(loader)
        taken.append(1)
        if len(taken) == 2:
            time.sleep(0.5)  # Until the first is on its way.
            Connection._send = _write_half_and_die  # type: ignore[attr-defined]
        return found

    monkeypatch.setattr(sampling._Loader, "__next__", take_or_die)
    monkeypatch.setattr(sampling, "WATCH_S", 0.1)
    finish = MultiThreadedAugmenter._finish
    monkeypatch.setattr(MultiThreadedAugmenter, "_finish", lambda self, **_: finish(self, timeout=0.5))
    batches = load_batches(_source(folder, ALL), 0, 1)
    with _at_most(20):
        next(batches)
        with pytest.raises(TrainingError, match="background workers must live"):
            next(batches)


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Within the block, raise an error when it takes longer."""

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _source_with_earlier(folder: Path, **changes: object) -> PatchSource:
    """Return a source of two classes whose earlier stage said the number of each voxel, modulo 3."""
    numbers = np.arange(1, np.prod(SHAPE) + 1).reshape(SHAPE)
    properties = open_case(folder, "corners").properties
    write_earlier(folder, properties, "3d_lowres", (numbers % 3).astype(np.uint8), (6, 6, 6), {})
    return _source(folder, ("corners",), earlier=EarlierStage("3d_lowres", 2), **changes)


@pytest.mark.parametrize("patch_size", [(6, 6, 6), (6, 8)])
def test_the_prediction_of_an_earlier_stage_is_of_the_same_place(folder: Path, patch_size: tuple[int, ...]) -> None:
    batch = _source_with_earlier(folder, patch_size=patch_size).batch(3)
    assert batch.earlier is not None
    assert batch.earlier.dtype == np.int16
    assert np.array_equal(batch.earlier, batch.images[:, 0].astype(int) % 3)


def test_what_happens_to_it_is_drawn_with_the_rest(folder: Path) -> None:
    recipe = augmentation(0.0, rotation_probability=1.0, **EARLIER_ALWAYS)
    batch = _source_with_earlier(folder, augmentation=recipe).batch(3)
    assert batch.earlier is not None
    assert batch.earlier.shape == batch.labels.shape
    assert max(batch.earlier.shape[1:]) > 6
    assert all(len(draw.earlier.reshaped) == len(draw.earlier.removed) == 2 for draw in batch.draws)
    plain = _source(folder, ("corners",), augmentation=recipe).batch(3)
    assert all(draw.earlier == EarlierDraw() for draw in plain.draws)


def test_sides_that_are_told_apart_are_not_mirrored(folder: Path) -> None:
    recipe = augmentation(0.0, mirror_probability=1.0)
    batch = _source(folder, ("corners",), augmentation=recipe, mirror_axes=(0, 1)).batch(0)
    assert all(draw.mirrored == (True, True, False) for draw in batch.draws)


SPAWNED = """
import multiprocessing, sys
from itertools import islice
from pathlib import Path
import numpy as np
from autoseg.train.sampling import PatchSource, SamplingPlan, load_batches

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    plan = SamplingPlan((6, 6, 6), 2, 0.33, None, 3, ("train", 0))
    source = PatchSource(Path(sys.argv[1]), ("corners", "tiny"), plan)
    loaded = load_batches(source, 7, 2)
    for step, batch in enumerate(islice(loaded, 3)):
        assert np.array_equal(batch.images, source.batch(7 + step).images)
    loaded.close()
"""


@pytest.mark.slow
def test_workers_can_be_spawned(folder: Path, tmp_path: Path) -> None:
    """On macOS and Windows, workers are fresh processes that are sent what they need."""
    script = tmp_path / "script.py"
    script.write_text(SPAWNED)
    subprocess.run([sys.executable, str(script), str(folder)], check=True, timeout=120)
