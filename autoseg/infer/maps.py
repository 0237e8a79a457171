"""Probabilities and uncertainty of a prediction, block by block as its logits reach the grid of the scan.

No array holds all classes of all voxels: probabilities go to disk as they come, and an uncertainty is one number
per voxel.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import blosc2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.core.artefact import replacing
from autoseg.core.errors import ArtefactError
from autoseg.core.labels import Labels
from autoseg.core.orientation import Turn
from autoseg.data.image import Image, LabelImage, write_image
from autoseg.data.store import CaseProperties
from autoseg.infer.export import Observe, Place

Uncertainty = Literal["entropy", "disagreement"]

PROBABILITIES_SUFFIX = ".probabilities.b2nd"
CHUNK_EDGE = 32
"""Of a chunk of stored probabilities, along each axis of space; the blocks that are written have about this size."""


@dataclass(frozen=True)
class Extras:
    """What is written besides the label map.

    Attributes:
        save_probabilities: Whether those of all classes are.
        uncertainty: Which measures of it are: `entropy` of the averaged prediction, 0 (sure) to 1 (all classes alike);
            `disagreement`, the share of folds whose own label differs from that of all together.
    """

    save_probabilities: bool = False
    uncertainty: tuple[Uncertainty, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What each of them is."""
        return (*(("probabilities",) if self.save_probabilities else ()), *self.uncertainty)


NO_EXTRAS = Extras()
"""The label map alone."""


def extra_paths(output: Path, stem: str, extras: Extras) -> dict[str, Path]:
    """Return where the extras of a label map go, by what they are.

    Args:
        output: The label map.
        stem: Its name without suffix.
        extras: That are asked for.
    """
    suffix = next((end for end in (".nrrd", ".mha") if output.name.endswith(end)), ".nii.gz")
    paths: dict[str, Path] = {}
    if extras.save_probabilities:
        paths["probabilities"] = output.with_name(f"{stem}{PROBABILITIES_SUFFIX}")
    return paths | {kind: output.with_name(f"{stem}.{kind}{suffix}") for kind in extras.uncertainty}


def probabilities_of(logits: Tensor, labels: Labels) -> Tensor:
    """Return probabilities for logits (outputs, z, y, x): they sum to one over classes, not over regions."""
    probabilities: Tensor = logits.sigmoid() if labels.regions else logits.softmax(dim=0)
    return probabilities


def entropy_of(probabilities: Tensor, labels: Labels) -> Tensor:
    """Return the entropy per voxel, 0 to 1: over classes, or the mean over regions of whether the voxel is in it.

    Args:
        probabilities: (outputs, z, y, x).
        labels: Whether outputs are regions.
    """
    parts: Tensor = torch.special.entr(probabilities)
    if labels.regions:
        parts = (parts + torch.special.entr(1 - probabilities)).mean(dim=0) / math.log(2)
    else:
        parts = parts.sum(dim=0) / math.log(len(probabilities))
    return parts


@contextmanager
def observing(paths: dict[str, Path], properties: CaseProperties, labels: Labels) -> Iterator[Observe | None]:
    """Give what writes probabilities and entropy of a case as they come; the files appear when the block ends well.

    Args:
        paths: Of the extras, by what they are; others than these two are left alone.
        properties: Of the case.
        labels: Classes or regions.
    """
    with ExitStack() as stack:
        store: blosc2.NDArray | None = None
        entropy: NDArray[np.float32] | None = None
        if "probabilities" in paths:
            temporary = stack.enter_context(replacing(paths["probabilities"]))
            store = _new_store(temporary, properties, labels)
        if "entropy" in paths:
            entropy = np.zeros(properties.original_shape, np.float32)

        def observe(place: Place, logits: Tensor) -> None:
            there = place_in_scan(place, properties)
            probabilities = probabilities_of(logits, labels)
            if store is not None:
                store[(slice(None), *there)] = _turned_back(probabilities.half(), properties)
            if entropy is not None:
                entropy[there] = _turned_back(entropy_of(probabilities, labels)[None], properties)[0]

        yield None if store is None and entropy is None else observe
        if entropy is not None:
            write_image(paths["entropy"], Image(entropy[None], properties.geometry))


def write_disagreement(path: Path, combined: LabelImage, folds: Iterable[LabelImage]) -> None:
    """Write the share of folds whose label differs from the combined one, at every voxel."""
    differing = np.zeros(combined.array.shape, np.float32)
    num_folds = 0
    for fold in folds:
        differing += fold.array != combined.array
        num_folds += 1
    differing /= num_folds
    write_image(path, Image(differing[None], combined.geometry))


def read_probabilities(path: Path, name: str) -> NDArray[np.float16]:
    """Return the probabilities of one class or region of a file that was written, (Z, Y, X) as the scan.

    Raises:
        ArtefactError: If the file cannot be read, or has no class of this name.
    """
    try:
        store = blosc2.open(str(path), mode="r")
        names = list(store.schunk.vlmeta["classes"])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ArtefactError(f"{path}: must hold probabilities, got: {error}. Predict the scan again.") from None
    if name not in names:
        raise ArtefactError(f"{path}: class must be one of {', '.join(names)}, got {name}. Choose one of them.")
    found: NDArray[np.float16] = store[names.index(name)]
    return found


def place_in_scan(place: Place, properties: CaseProperties) -> Place:
    """Return where a part of the cropped, turned box lies in the scan as read."""
    found = [slice(0, 0)] * 3
    for new, axis in enumerate(properties.transpose):
        first, last = (properties.crop_box[new][0] + edge for edge in (place[new].start, place[new].stop))
        size = properties.original_shape[axis]
        found[axis] = slice(size - last, size - first) if new in properties.flipped else slice(first, last)
    return found[0], found[1], found[2]


def _turned_back(values: Tensor, properties: CaseProperties) -> NDArray[np.floating]:
    """Return a part of the turned box, (outputs, z, y, x), with the axes of the scan as read."""
    turn = Turn(properties.transpose, properties.flipped)
    return np.ascontiguousarray(np.stack([turn.undo(channel) for channel in values.cpu().numpy()]))


def _new_store(path: Path, properties: CaseProperties, labels: Labels) -> blosc2.NDArray:
    """Return an array on disk, float16 (outputs, Z, Y, X), that says: all is background."""
    shape = properties.original_shape
    chunk = (1, *(min(size, CHUNK_EDGE) for size in shape))
    store = blosc2.zeros(
        (labels.num_outputs, *shape),
        dtype=np.float16,
        urlpath=str(path),
        mode="w",
        chunks=chunk,
        blocks=chunk,
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.BITSHUFFLE]},
    )
    named = labels.regions or labels.classes
    store.schunk.vlmeta["classes"] = [entry.name for entry in named]
    store.schunk.vlmeta["geometry"] = properties.geometry.model_dump(mode="json")
    store.schunk.vlmeta["axes"] = ["class", "z", "y", "x"]
    if not labels.regions:
        for first in range(0, shape[0], CHUNK_EDGE):
            rows = slice(first, min(first + CHUNK_EDGE, shape[0]))
            store[0, rows] = np.ones((rows.stop - rows.start, *shape[1:]), np.float16)
    return store
