"""The format of preprocessed cases: chunked, compressed arrays of which one patch can be read without the rest.

Files of a case in its folder, `<name>` followed by:
    .image.b2nd    float32, (C, Z, Y, X)
    .label.b2nd    int8 or int16, (Z, Y, X): class indices, `OUTSIDE` outside the non-zero mask, the number of classes
                   where nothing is annotated
    .<stage>.b2nd, .<stage>.json
                   int8 or int16, (Z, Y, X): class indices that an earlier stage of a cascade predicts; and
                   `EarlierPrediction`, written last
    .voxels.npz    int32, (n, 3) per foreground class: positions of some of its voxels; where some are not
                   annotated, also positions of some that are
    .json          `CaseProperties`, written last: a case without it does not exist
"""

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import blosc2
import numpy as np
from numpy.typing import NDArray

from autoseg.core.artefact import Artefact, replacing
from autoseg.core.errors import ArtefactError
from autoseg.core.geometry import Box, Geometry, Shape, box_slices
from autoseg.core.seeding import generator

OUTSIDE = -1
"""Entry of a stored label where every channel of the image was zero."""

WHOLE_CHUNK_BYTES = 2**20
"""An array up to this size is one chunk."""

BLOCK_VOXELS = 2**15
"""Voxels that are compressed together: 128 KiB of an image, the size of a processor's cache."""

MIN_VOXELS_KEPT, SHARE_KEPT = 10_000, 0.01
"""Positions kept per class: as many as the larger of the two allows."""

_ANNOTATED = "annotated"
"""Key of the positions of annotated voxels, beside those of the classes by index."""


class LazyArray(Protocol):
    """An array on disk or in memory that gives the part that is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, part: tuple[slice, ...], /) -> NDArray[Any]: ...


class CaseProperties(Artefact):
    """Where a preprocessed case comes from: all that is needed to bring a label map back to the original grid.

    Attributes:
        name: Of the case.
        geometry: Of the original image.
        original_shape: Of the original image, (z, y, x) as read.
        transpose: Axes of the array as read in the order in which the network sees them.
        flipped: Transposed axes that the network sees backwards.
        crop_box: Box around the non-zero voxels, in transposed axes.
        cropped_shape: Size of that box.
        cropped_spacing: Spacing before resampling, transposed axes, in mm.
        stored_shape: Shape after resampling.
        num_voxels_per_class: Voxels of each class index in the stored label; empty without a label.
        num_ignored_voxels: Voxels of the stored label that are not annotated.
    """

    name: str
    geometry: Geometry
    original_shape: tuple[int, int, int]
    transpose: tuple[int, int, int]
    crop_box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    cropped_shape: tuple[int, int, int]
    cropped_spacing: tuple[float, float, float]
    stored_shape: tuple[int, int, int]
    num_voxels_per_class: tuple[int, ...] = ()
    num_ignored_voxels: int = 0
    flipped: tuple[int, ...] = ()


class EarlierPrediction(Artefact):
    """What an earlier stage of a cascade predicted of a case; `made_from` names all that it depends on."""


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case whose arrays are read in parts.

    Attributes:
        image: float32, (C, Z, Y, X).
        label: int8 or int16, (Z, Y, X), class indices or `OUTSIDE`.
        properties: Where it comes from.
        earlier: int8 or int16, (Z, Y, X), class indices that the stage before it in a cascade predicts; None for none.
    """

    image: LazyArray
    label: LazyArray
    properties: CaseProperties
    earlier: LazyArray | None = None


def write_case(
    folder: Path,
    image: NDArray[np.float32],
    label: NDArray[np.integer],
    properties: CaseProperties,
    patch_size: Shape,
) -> None:
    """Store a case in `folder`; after a crash it is there as a whole or not at all.

    Args:
        folder: Where the files go; made where missing.
        image: Normalised and resampled, (C, Z, Y, X).
        label: Class indices, (Z, Y, X), `OUTSIDE` outside the non-zero mask.
        properties: Its `num_voxels_per_class` has one entry per class.
        patch_size: Of the reads to come, in voxels, (z, y, x) or (y, x); chooses the chunks.
    """
    files = _case_files(folder, properties.name)
    folder.mkdir(parents=True, exist_ok=True)
    files.properties.unlink(missing_ok=True)
    num_classes = len(properties.num_voxels_per_class)
    narrow = _index_type(num_classes)
    patch = (1,) * (3 - len(patch_size)) + tuple(patch_size)
    _write_array(files.image, np.ascontiguousarray(image, dtype=np.float32), patch)
    _write_array(files.label, np.ascontiguousarray(label, dtype=narrow), patch)
    voxels = _sample_voxels(label, num_classes, properties.name)
    named: dict[str, Any] = {str(index): positions for index, positions in voxels.items()}
    if properties.num_ignored_voxels:
        annotated = np.flatnonzero((label >= 0) & (label < num_classes))
        named[_ANNOTATED] = _draw_positions(annotated, label.shape, properties.name, 0)
    with replacing(files.voxels) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **named)
    properties.save(files.properties)


def stored_properties(folder: Path, name: str) -> CaseProperties | None:
    """Return the properties of a case that is stored whole and readable; None for any other."""
    files = _case_files(folder, name)
    if not all(path.exists() for path in files):
        return None
    try:
        return CaseProperties.load(files.properties)
    except ArtefactError:
        return None


def write_earlier(
    folder: Path,
    properties: CaseProperties,
    stage: str,
    indices: NDArray[np.integer],
    patch_size: Shape,
    made_from: Mapping[str, str],
) -> None:
    """Store beside a case what the stage before it in a cascade predicts, whole or not at all.

    Args:
        folder: Of the case.
        properties: Of the case.
        stage: Name of the stage.
        indices: (Z, Y, X), class indices, of the shape of the stored case.
        patch_size: Of the reads to come, in voxels; chooses the chunks.
        made_from: Digests of what the prediction depends on, by name.
    """
    record = _earlier_record(folder, properties.name, stage)
    record.unlink(missing_ok=True)
    narrow = indices.astype(_index_type(len(properties.num_voxels_per_class)))
    _write_array(_earlier_file(folder, properties.name, stage), narrow, patch_size)
    EarlierPrediction(made_from=dict(made_from)).save(record)


def stored_earlier(folder: Path, name: str, stage: str) -> EarlierPrediction | None:
    """Return what an earlier stage's prediction beside a case was made from; None where none is stored whole."""
    if not _earlier_file(folder, name, stage).exists():
        return None
    try:
        return EarlierPrediction.load(_earlier_record(folder, name, stage))
    except ArtefactError:
        return None


def open_case(folder: Path, name: str, earlier_stage: str | None = None) -> StoredCase:
    """Open a case without reading its arrays; cheap enough (a fraction of a millisecond) to do for every patch.

    Args:
        folder: Of the case.
        name: Of the case.
        earlier_stage: Whose prediction is opened too; None for none.

    Raises:
        ArtefactError: If the case is missing, incomplete or damaged.
    """
    files = _case_files(folder, name)
    properties = CaseProperties.load(files.properties)
    earlier = None if earlier_stage is None else _open_array(_earlier_file(folder, name, earlier_stage))
    return StoredCase(_open_array(files.image), _open_array(files.label), properties, earlier)


def read_patch(stored: StoredCase, box: Box) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Read the part of a case inside a box, and only the chunks that it touches.

    Args:
        stored: An open case.
        box: First voxel and the one after the last per axis, (z, y, x); may reach beyond the case.

    Returns:
        Image, (C, z, y, x), zero beyond the case, and label, (z, y, x), `OUTSIDE` beyond it. Both are fresh arrays.
    """
    image: NDArray[np.float32] = _read_part(stored.image, box, 0, np.dtype(np.float32))
    return image, _read_part(stored.label, box, OUTSIDE)


def read_earlier(stored: StoredCase, box: Box) -> NDArray[np.integer]:
    """Read the part of an earlier stage's prediction inside a box, (z, y, x), `OUTSIDE` beyond the case.

    Raises:
        ValueError: If the case was opened without one.
    """
    if stored.earlier is None:
        raise ValueError(f"{stored.properties.name} must be opened with its earlier stage, got none")
    return _read_part(stored.earlier, box, OUTSIDE)


def _read_part(array: LazyArray, box: Box, fill: int, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
    """Return the part of an array (..., Z, Y, X) inside a box, filled beyond its borders."""
    leading, shape = array.shape[:-3], array.shape[-3:]
    inside = tuple(
        (min(max(first, 0), size), max(min(last, size), 0)) for (first, last), size in zip(box, shape, strict=True)
    )
    empty = any(last <= first for first, last in inside)
    every = tuple(slice(0, size) for size in leading)
    found = array[(*every, *(box_slices(inside) if not empty else (slice(0, 1),) * len(shape)))]
    part = np.full((*leading, *(last - first for first, last in box)), fill, dtype=dtype or found.dtype)
    if not empty:
        place = tuple(slice(a - first, b - first) for (a, b), (first, _) in zip(inside, box, strict=True))
        part[(*every, *place)] = found
    return part


def foreground_voxels(folder: Path, name: str, label: int) -> NDArray[np.int32]:
    """Read positions of voxels of a foreground class in a stored case, (n, 3); none if the class does not occur.

    Raises:
        ArtefactError: If the file is missing or damaged.
    """
    return _read_positions(folder, name, str(label))


def annotated_voxels(folder: Path, name: str) -> NDArray[np.int32]:
    """Read positions of annotated voxels in a stored case that has others too, (n, 3); none if nothing is annotated.

    Raises:
        ArtefactError: If the file is missing or damaged.
    """
    return _read_positions(folder, name, _ANNOTATED)


def _read_positions(folder: Path, name: str, key: str) -> NDArray[np.int32]:
    path = _case_files(folder, name).voxels
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            found: NDArray[np.int32] = archive[key] if key in archive else np.empty((0, 3), np.int32)
            return found
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None


def _earlier_record(folder: Path, name: str, stage: str) -> Path:
    return folder / f"{name}.{stage}.json"


def _earlier_file(folder: Path, name: str, stage: str) -> Path:
    return folder / f"{name}.{stage}.b2nd"


def _index_type(num_classes: int) -> type[np.int8 | np.int16]:
    """Return the smallest type for class indices, `OUTSIDE`, and the number of classes itself."""
    return np.int8 if num_classes <= np.iinfo(np.int8).max else np.int16


class _CaseFiles(NamedTuple):
    properties: Path
    image: Path
    label: Path
    voxels: Path


def _case_files(folder: Path, name: str) -> _CaseFiles:
    return _CaseFiles(
        *(folder / f"{name}{suffix}" for suffix in (".json", ".image.b2nd", ".label.b2nd", ".voxels.npz"))
    )


def _sample_voxels(label: NDArray[np.integer], num_classes: int, name: str) -> dict[int, NDArray[np.int32]]:
    """Return positions of voxels drawn without replacement, for each foreground class that occurs.

    Source:
        Isensee et al. 2021, Methods, oversampling of foreground; the cap bounds the file, not the chance of a voxel.
    """
    flat = label.ravel()
    foreground = np.flatnonzero(flat > 0)
    classes = flat[foreground]
    voxels = {}
    for index in range(1, num_classes):
        places = foreground[classes == index]
        if places.size:
            voxels[index] = _draw_positions(places, label.shape, name, index)
    return voxels


def _draw_positions(places: NDArray[np.integer], shape: Shape, name: str, index: int) -> NDArray[np.int32]:
    kept = max(min(MIN_VOXELS_KEPT, places.size), math.ceil(SHARE_KEPT * places.size))
    drawn = np.sort(generator(0, "voxels", name, index).choice(places, kept, replace=False))
    return np.stack(np.unravel_index(drawn, shape), axis=1).astype(np.int32)


def _write_array(path: Path, array: NDArray[Any], patch: Shape) -> None:
    chunks, blocks = _chunks_and_blocks(array.shape, array.nbytes, patch)
    with replacing(path) as temporary:
        blosc2.asarray(
            array,
            urlpath=str(temporary),
            mode="w",
            chunks=chunks,
            blocks=blocks,
            cparams={
                "codec": blosc2.Codec.LZ4,
                "clevel": 5,
                "filters": [blosc2.Filter.SHUFFLE],
                "nthreads": 1,
            },
        )


def _open_array(path: Path) -> LazyArray:
    try:
        return _FileArray(path, blosc2.open(str(path), mode="r", dparams={"nthreads": 1}))
    except (OSError, RuntimeError, ValueError) as error:
        raise _damaged(path, error) from None


@dataclass(frozen=True)
class _FileArray:
    """An array on disk that names its file where a part of it cannot be read."""

    path: Path
    array: LazyArray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __getitem__(self, part: tuple[slice, ...], /) -> NDArray[Any]:
        try:
            return self.array[part]
        except (OSError, RuntimeError, ValueError) as error:
            raise _damaged(self.path, error) from None


def _damaged(path: Path, error: Exception) -> ArtefactError:
    return ArtefactError(
        f"{path}: must be a readable part of a preprocessed case, got: {error}. Delete it and preprocess again."
    )


def _chunks_and_blocks(shape: Shape, num_bytes: int, patch: Shape) -> tuple[Shape | None, Shape | None]:
    """Return the shapes of what is stored together (chunks) and of what is decompressed together (blocks).

    A block is a part of the patch with nearly equal edges, so that few blocks lie across the border of a patch; a chunk
    holds two blocks along each axis. Channels are stored apart.
    """
    if num_bytes <= WHOLE_CHUNK_BYTES:
        return shape, None
    leading = (1,) * (len(shape) - 3)
    spatial = shape[-3:]
    block = [min(edge, size) for edge, size in zip(patch, spatial, strict=True)]
    while math.prod(block) > BLOCK_VOXELS:
        longest = int(np.argmax(block))
        block[longest] = (block[longest] + 1) // 2
    chunk = tuple(min(2 * edge, size) for edge, size in zip(block, spatial, strict=True))
    return (*leading, *chunk), (*leading, *block)
