"""What ends a training against its will: one sentence each, and the last checkpoint stays intact."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from autoseg.core.disk import not_writable
from autoseg.core.errors import ArtefactError, TrainingError
from autoseg.network.shortage import is_shortage, is_shortage_of_device
from autoseg.plan.schema import AugmentationPlan, TrainingPlan
from autoseg.train.augment import AugmentationDraw, draw_augmentation
from autoseg.train.distributed import ALONE, Team
from autoseg.train.sampling import Batch

INTACT = "The last checkpoint is intact, and the same command goes on from it."

_GIB = r"([\d.]+ [KMGT]iB)"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name `path` and a remedy if it cannot be written within the block.

    Raises:
        TrainingError: Instead of what the system or a library raises.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(f"{not_writable(path, error)} {INTACT}") from error


@contextmanager
def reading() -> Iterator[None]:
    """Say that the checkpoint is intact if a preprocessed case cannot be read within the block.

    Raises:
        TrainingError: Instead of the `ArtefactError` that names the file.
    """
    try:
        yield
    except ArtefactError as error:
        raise TrainingError(f"{error} {INTACT}") from None


@contextmanager
def computing() -> Iterator[None]:
    """Say how much memory the device lacks, or the machine, if it runs out of it within the block.

    Raises:
        TrainingError: Instead of torch's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        text = str(error)
        sizes = [
            re.search(pattern, text)
            for pattern in (f"allocate {_GIB}", f"capacity of {_GIB}", f"of which {_GIB} is free")
        ]
        got = text.partition("\n")[0] or "none left"
        if all(sizes):
            wanted, total, free = (found[1] for found in sizes if found)
            got = f"{wanted} more to allocate with {free} free of {total}"
        place, fewer = ("device", "") if is_shortage_of_device(error) else ("machine", " use fewer --workers,")
        raise TrainingError(
            f"training: a step must fit into the memory of the {place}, got: {got.rstrip('.')}. End what else runs on"
            f" it,{fewer} or plan with a smaller --gpu-memory. {INTACT}"
        ) from None


def broken_samples(batch: Batch) -> list[int]:
    """Return which samples of a batch have an image that is not finite."""
    return [sample for sample, image in enumerate(batch.images) if not np.isfinite(image).all()]


def not_finite(
    step: int, found: str, batch: Batch, recipe: TrainingPlan, patch_size: tuple[int, ...], team: Team = ALONE
) -> TrainingError:
    """Return the error for a step whose loss or gradient is not finite; it names cases and their augmentation.

    Args:
        step: Number of the step.
        found: What is not finite.
        batch: Of the step; samples whose image is not finite are named alone.
        recipe: Of the training.
        patch_size: Of the network's input.
        team: Processes that share the batch out, each of which must call this with its part.
    """
    broken = broken_samples(batch)
    if team.any(bool(broken)) and not broken:
        return TrainingError(
            f"training, step {step}: loss and gradient must be finite, got {found} for a scan that another process"
            f" has read. It names the scan, and what to do. {INTACT}"
        )
    named = [
        f"{batch.cases[sample]} (augmentation: {changed_entries(batch.draws[sample], recipe.augmentation, patch_size)})"
        for sample in broken or range(len(batch.cases))
    ]
    if broken:
        cause, remedy = "the preprocessed images that are not", "Run `autoseg check`, and mend the scans."
    else:
        cause, remedy = "the cases", "Lower the learning rate, or try another --seed."
    return TrainingError(
        f"training, step {step}: loss and gradient must be finite, got {found} for {cause}: {'; '.join(named)}."
        f" {remedy} {INTACT}"
    )


def changed_entries(draw: AugmentationDraw, plan: AugmentationPlan, patch_size: tuple[int, ...]) -> str:
    """Return the entries of a draw that change anything, for people: `gamma (1.2), mirrored (yes, no, no)`."""
    never = {name: 0.0 for name in AugmentationPlan.model_fields if name.endswith("_probability")}
    neutral = draw_augmentation(
        np.random.default_rng(0), plan.model_copy(update=never), patch_size, num_channels=len(draw.gamma)
    )
    unchanged = {**asdict(neutral), "noise_seed": draw.noise_seed}
    changed = [f"{name} {_short(value)}" for name, value in asdict(draw).items() if value != unchanged[name]]
    return ", ".join(changed) or "none"


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(_short(entry) for entry in value)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
