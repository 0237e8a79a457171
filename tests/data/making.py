"""Files and datasets that the tests of `autoseg.data` make for themselves."""

import errno
import gzip
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
SHAPE = (4, 6, 5)


def forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let files and folders of a name be as those are that this user may not read; modes do not keep out root."""

    def refusing(method: Callable[..., object]) -> Callable[..., object]:
        def called(path: Path, *arguments: object, **options: object) -> object:
            if path.name == name:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return method(path, *arguments, **options)

        return called

    for method in ("open", "iterdir"):
        monkeypatch.setattr(Path, method, refusing(getattr(Path, method)))


def scan(number: int = 0, shape: Sequence[int] = SHAPE, dtype: str = "float32") -> NDArray[Any]:
    """Return a scan that differs from that of any other number."""
    return np.random.default_rng(number).normal(100, 20, shape).astype(dtype)


def label_map(shape: Sequence[int] = SHAPE, values: Sequence[int] = (0, 1, 2), dtype: str = "uint8") -> NDArray[Any]:
    """Return a label map in which every value occurs."""
    return np.resize(np.asarray(values), shape).astype(dtype)


def write(path: Path, array: NDArray[Any], **grid: Sequence[float]) -> Path:
    """Write an array with SimpleITK; `grid` may set spacing, origin and direction in its order."""
    return _write(path, sitk.GetImageFromArray(array, isVector=False), **grid)


def write_vectors(path: Path, array: NDArray[Any]) -> Path:
    """Write an array whose last axis is channels as pixels of several components."""
    return _write(path, sitk.GetImageFromArray(array, isVector=True))


def _write(path: Path, image: sitk.Image, **grid: Sequence[float]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = image.GetDimension()
    image.SetSpacing(tuple(grid.get("spacing", (1.5, 1.25, 3.0)))[:axes])
    image.SetOrigin(tuple(grid.get("origin", (10.0, -20.0, 5.0)))[:axes])
    if "direction" in grid:
        image.SetDirection(tuple(grid["direction"]))
    sitk.WriteImage(image, str(path))
    return path


def describe(root: Path, **changes: object) -> Path:
    """Write a `dataset.json` in the Decathlon's dialect; a change to None removes a key."""
    document = {"name": "phantom", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "a", "2": "b"}}
    root.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in {**document, **changes}.items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(kept), encoding="utf-8")
    return root


def decathlon(root: Path, **changes: object) -> Path:
    """Make a Decathlon dataset of cases c0, c1 and c2 without fault."""
    training = []
    for number in range(3):
        write(root / f"imagesTr/c{number}.nii.gz", scan(number))
        write(root / f"labelsTr/c{number}.nii.gz", label_map())
        training.append({"image": f"./imagesTr/c{number}.nii.gz", "label": f"./labelsTr/c{number}.nii.gz"})
    return describe(root, **{"training": training, **changes})


def nnunet_raw(root: Path) -> Path:
    """Make an nnU-Net raw dataset of two channels and cases c0, c1 and c2 without fault."""
    for number in range(3):
        for channel in range(2):
            write(root / f"imagesTr/c{number}_{channel:04d}.nii.gz", scan(10 * number + channel))
        write(root / f"labelsTr/c{number}.nii.gz", label_map())
    names = {"0": "T1", "1": "T2"}
    return describe(
        root, modality=None, channel_names=names, labels={"background": 0, "a": 1, "b": 2}, file_ending=".nii.gz"
    )


def plain_folders(root: Path) -> Path:
    """Make folders `images` and `labels` with grey PNG of cases c0, c1 and c2, and masks of 0 and 255."""
    for number in range(3):
        write(root / f"images/c{number}.png", scan(number, (8, 9), "uint8"))
        write(root / f"labels/c{number}.png", label_map((8, 9), (0, 255)))
    return root


def patch_nifti(path: Path, layout: str, offset: int, *values: float) -> Path:
    """Overwrite numbers in the header of a compressed NIfTI file."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(layout, content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content), mtime=0))
    return path


def shorten(path: Path, share: float = 0.7) -> Path:
    """Cut the end off a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path
