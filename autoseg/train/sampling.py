"""Which patches a training sees: step by step, the draw depends on seed, fold and step alone.

A broken-off training therefore goes on with exactly the batches that it would have seen, and the number of background
workers changes nothing.
"""

import os
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from numpy.typing import NDArray

from autoseg.core.errors import AutosegError, TrainingError
from autoseg.core.geometry import Box
from autoseg.core.parallel import end_with_parent
from autoseg.core.seeding import generator
from autoseg.data.store import StoredCase, annotated_voxels, foreground_voxels, open_case, read_earlier, read_patch
from autoseg.plan.schema import AugmentationPlan, ConfigurationPlan, TrainingPlan
from autoseg.train.augment import OUTSIDE, AugmentationDraw, draw_augmentation, source_shape
from autoseg.train.cascade import EarlierStage, draw_earlier

WATCH_S = 2.0
"""How often background processes are looked at from outside."""


@dataclass(frozen=True)
class SamplingPlan:
    """How patches are drawn.

    Attributes:
        patch_size: Of the network's input; two entries for slices.
        batch_size: Patches per step.
        foreground_fraction: Share of a batch that is centred on a foreground voxel.
        augmentation: Probabilities and ranges; None for validation.
        seed: Of the whole training.
        place: What else the draws depend on, for example ("train", fold).
        mirror_axes: Along which patches may be mirrored; None for all.
        earlier: The stage before it in a cascade; None for none.
        part: Samples of each batch that are read; the others, which other processes read, are drawn alone.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    foreground_fraction: float
    augmentation: AugmentationPlan | None
    seed: int
    place: tuple[str | int, ...]
    mirror_axes: tuple[int, ...] | None = None
    earlier: EarlierStage | None = None
    part: slice = field(default_factory=lambda: slice(None))

    @classmethod
    def of(
        cls, recipe: TrainingPlan, configuration: ConfigurationPlan, seed: int, place: tuple[str | int, ...]
    ) -> "SamplingPlan":
        """Return how the patches of a configuration are drawn that a network learns from.

        Args:
            recipe: Augmentation and share of foreground.
            configuration: Patch, batch and axes that may be mirrored.
            seed: Of the whole training.
            place: What else the draws depend on.
        """
        return cls(
            patch_size=configuration.patch_size,
            batch_size=configuration.batch_size,
            foreground_fraction=recipe.foreground_fraction,
            augmentation=recipe.augmentation,
            seed=seed,
            place=place,
            mirror_axes=configuration.mirror_axes,
        )


@dataclass(frozen=True)
class Batch:
    """What the training step gets.

    Attributes:
        images: (B, C, ...) float32, larger than the patch where a sample will be rotated or scaled; of the others, the
            patch alone is there, in the middle of zeros.
        labels: (B, ...) int16, class indices, -1 outside the scan and what is read of it, the number of classes where
            nothing is annotated.
        draws: Augmentation of each sample; empty for validation.
        cases: Name of each sample's case.
        earlier: (B, ...) int16, class indices that the earlier stage of a cascade predicts; None for none.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int16]
    draws: list[AugmentationDraw]
    cases: list[str]
    earlier: NDArray[np.int16] | None = None


class PatchSource:
    """The preprocessed cases of one side of a fold, from which the batch of any step can be drawn."""

    def __init__(self, folder: Path, names: tuple[str, ...], plan: SamplingPlan) -> None:
        self.plan = plan
        self._folder = folder
        self._names = names

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, or the part of it that this process reads."""
        plan = self.plan
        stage = plan.earlier.name if plan.earlier is not None else None
        rng = generator(plan.seed, *plan.place, step)
        names = [self._names[index] for index in rng.integers(len(self._names), size=plan.batch_size)]
        cases = [open_case(self._folder, name, stage) for name in names]
        centres = [self._draw_centre(rng, case, sample) for sample, case in enumerate(cases)]
        draws = self._draw(rng, cases[0].image.shape[0])
        shape = source_shape(draws, plan.patch_size)
        read = [plan.patch_size if draw.is_rigid else shape for draw in draws] or [shape] * len(cases)
        part = plan.part
        boxes = [self._box(*found) for found in zip(cases[part], centres[part], read[part], strict=True)]
        return _read(cases[part], boxes, shape, draws[part], with_earlier=stage is not None)

    def _draw(self, rng: np.random.Generator, num_channels: int) -> list[AugmentationDraw]:
        plan = self.plan
        if plan.augmentation is None:
            return []
        draws = [
            draw_augmentation(rng, plan.augmentation, plan.patch_size, num_channels, plan.mirror_axes)
            for _ in range(plan.batch_size)
        ]
        if plan.earlier is None:
            return draws
        num_foreground = plan.earlier.num_foreground
        return [replace(draw, earlier=draw_earlier(rng, plan.augmentation, num_foreground)) for draw in draws]

    def _draw_centre(self, rng: np.random.Generator, case: StoredCase, sample: int) -> tuple[int, ...]:
        """Draw the central voxel of a patch: on a class that occurs in the case, or anywhere the patch fits.

        In a case that is annotated in part, anywhere is where it is annotated. Where classes form regions, nnU-Net
        draws a region; here a class is drawn, so that each has the same chance, in however many regions it lies.
        """
        plan = self.plan
        counts = case.properties.num_voxels_per_class
        present = [label for label, count in enumerate(counts) if label > 0 and count > 0]
        if present and self._is_forced(rng, sample):
            chosen = present[rng.integers(len(present))]
            voxels = foreground_voxels(self._folder, case.properties.name, chosen)
            return tuple(int(place) for place in voxels[rng.integers(len(voxels))])
        if case.properties.num_ignored_voxels:
            voxels = annotated_voxels(self._folder, case.properties.name)
            if len(voxels):
                return tuple(int(place) for place in voxels[rng.integers(len(voxels))])
        patch = (1,) * (3 - len(plan.patch_size)) + plan.patch_size
        return tuple(
            int(rng.integers(size // 2, extent - (size - size // 2) + 1)) if extent > size else extent // 2
            for size, extent in zip(patch, case.image.shape[1:], strict=True)
        )

    def _is_forced(self, rng: np.random.Generator, sample: int) -> bool:
        """Return whether a patch is centred on foreground: the last ones of a batch are; of a batch too small, some."""
        plan = self.plan
        num_free = round(plan.batch_size * (1 - plan.foreground_fraction))
        if num_free < plan.batch_size or sample < plan.batch_size - 1 or plan.foreground_fraction == 0:
            return sample >= num_free
        return bool(rng.random() < plan.batch_size * plan.foreground_fraction)

    def _box(self, case: StoredCase, centre: tuple[int, ...], shape: tuple[int, ...]) -> Box:
        """Return the surroundings of a voxel, (z, y, x); the patch itself is kept inside the scan where it fits.

        nnU-Net lets a patch around a voxel of the foreground overhang the scan at its upper end. Here none overhangs,
        as no tile of a prediction does; only what is read around a patch, to turn and scale it, may.
        """
        extent = case.image.shape[1:]
        flat = (1,) * (3 - len(shape))
        patch, around = flat + self.plan.patch_size, flat + shape
        box = []
        for middle, size, read, length in zip(centre, patch, around, extent, strict=True):
            first = min(max(middle - size // 2, 0), length - size) if length >= size else (length - size) // 2
            first -= (read - size) // 2
            box.append((first, first + read))
        return tuple(box)


def _read(
    cases: Sequence[StoredCase],
    boxes: Sequence[Box],
    shape: tuple[int, ...],
    draws: list[AugmentationDraw],
    *,
    with_earlier: bool,
) -> Batch:
    """Return what lies in a box of each case, in the middle of a batch of arrays of a shape.

    A sample that neither turns nor grows is read as far as its patch goes; nothing looks at what lies around it.
    """
    flat = (1,) * (3 - len(shape))
    images = np.zeros((len(cases), cases[0].image.shape[0], *flat, *shape), np.float32)
    labels = np.full((len(cases), *flat, *shape), OUTSIDE, np.int16)
    earlier = np.full_like(labels, OUTSIDE) if with_earlier else None
    for sample, (case, box) in enumerate(zip(cases, boxes, strict=True)):
        place = _in_the_middle(box, labels.shape[1:])
        images[sample][(slice(None), *place)], labels[sample][place] = read_patch(case, box)
        if earlier is not None:
            earlier[sample][place] = read_earlier(case, box)
    return Batch(
        images=images.reshape(*images.shape[:2], *shape),
        labels=labels.reshape(-1, *shape),
        draws=draws,
        cases=[case.properties.name for case in cases],
        earlier=None if earlier is None else earlier.reshape(-1, *shape),
    )


def _in_the_middle(box: Box, around: Sequence[int]) -> tuple[slice, ...]:
    """Return where a box lies in a larger one; `centre_crop` takes it out again."""
    sizes = [last - first for first, last in box]
    starts = [(large - size) // 2 for size, large in zip(sizes, around, strict=True)]
    return tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))


class _Loader:
    """The protocol of batchgenerators: a number of workers, each with its share of the steps."""

    def __init__(self, source: PatchSource, first_step: int, num_workers: int, period: int | None) -> None:
        self._source = source
        self._first_step = first_step
        self._num_workers = num_workers
        self._period = period
        self._steps: Iterator[int] = iter(())
        self._owner = os.getpid()
        self.set_thread_id(0)

    def set_thread_id(self, thread_id: int) -> None:
        if os.getpid() != self._owner:
            end_with_parent()  # A killed training's workers would hold the lock of its folder for ever.
        self._steps = iter(range(self._first_step + thread_id, 2**62, self._num_workers))

    def __iter__(self) -> "_Loader":
        return self

    def __next__(self) -> dict[str, Any]:
        """Return a batch, or the error of a case that cannot be read, which thus passes from process to process."""
        step = next(self._steps)
        try:
            return {"batch": self._source.batch(step % self._period if self._period else step)}
        except AutosegError as error:
            return {"error": error}


def load_batches(
    source: PatchSource, first_step: int, num_workers: int, period: int | None = None
) -> Generator[Batch, None, None]:
    """Yield the batches from `first_step` on, without end.

    Args:
        source: The cases.
        first_step: Number of the first batch.
        num_workers: Background processes of batchgenerators, which hand over in the order of the steps; 0 loads in
            this process.
        period: After so many steps they begin again; None for never.

    Raises:
        ArtefactError: If a case cannot be read.
        TrainingError: If a background process dies.
    """
    if num_workers == 0:
        for item in SingleThreadedAugmenter(_Loader(source, first_step, 1, period), None):
            yield _batch_of(item)
        return
    steps = _Loader(source, first_step, num_workers, period)
    loader = MultiThreadedAugmenter(steps, None, num_workers, num_cached_per_queue=2)
    try:
        loader._start()  # noqa: SLF001 - its processes, before there is a thread that they would inherit
        with _watched(loader):
            for item in loader:
                yield _batch_of(item)
    except RuntimeError:
        raise TrainingError(
            "patches: background workers must live as long as the training, got the death of one. Mend what is"
            " printed above, give the machine more memory, or use fewer --workers; the last checkpoint is intact."
        ) from None
    finally:
        loader._finish()  # noqa: SLF001 - batchgenerators has no public way to end its workers


@contextmanager
def _watched(loader: MultiThreadedAugmenter) -> Iterator[None]:
    """Within the block, end a loader when one of its processes is gone.

    It looks itself, but not while it reads a batch: where the process was killed that was about to write the rest of
    it, it would wait for ever.
    """
    over, processes = threading.Event(), list(loader._processes)  # noqa: SLF001 - batchgenerators does not show them

    def watch() -> None:
        while not over.wait(WATCH_S):
            if not all(process.is_alive() for process in processes):
                loader.abort_event.set()
                return

    threading.Thread(target=watch, daemon=True, name="watch workers").start()
    try:
        yield
    finally:
        over.set()


def _batch_of(item: dict[str, Any]) -> Batch:
    if "error" in item:
        raise item["error"]
    batch: Batch = item["batch"]
    return batch
