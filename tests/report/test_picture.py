from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from autoseg.core.errors import ArtefactError
from autoseg.core.geometry import Geometry
from autoseg.core.labels import declare_labels, declare_regions
from autoseg.data.image import Image, LabelImage, read_image
from autoseg.report.palette import PALETTE
from autoseg.report.picture import _telling_slice, write_curves, write_overlay

LABELS = declare_labels({1: "organ", 4: "lesion"})
GEOMETRY = Geometry(spacing=(3.0, 1.0, 1.0))


def scan_of(array: NDArray[np.float32], geometry: Geometry = GEOMETRY) -> Image:
    return Image(array=array, geometry=geometry)


@pytest.fixture
def scan() -> Image:
    return scan_of(np.random.default_rng(0).normal(size=(1, 6, 30, 40)).astype(np.float32))


@pytest.fixture
def label() -> LabelImage:
    array = np.zeros((6, 30, 40), dtype=np.uint8)
    array[1:5, 5:20, 5:20] = 1
    array[3, 8:12, 8:12] = 4
    return LabelImage(array=array, geometry=GEOMETRY)


def pixels_of(path: Path) -> NDArray[np.float32]:
    """Return a PNG, (3, Y, X)."""
    return read_image([path]).array[:, 0]


def shows(path: Path, colour: str) -> bool:
    expected = np.round(np.array(to_rgb(colour)) * 255).reshape(3, 1, 1)
    return bool((pixels_of(path) == expected).all(axis=0).any())


def test_overlay_shows_every_class(tmp_path: Path, scan: Image, label: LabelImage) -> None:
    path = tmp_path / "new" / "overlay.png"
    write_overlay(path, scan, label, label, LABELS, "case, Dice 1.000")

    assert shows(path, PALETTE[0])
    assert shows(path, PALETTE[1])
    assert [file.name for file in path.parent.iterdir()] == ["overlay.png"]


def test_voxels_without_annotation_are_not_shown(tmp_path: Path, scan: Image, label: LabelImage) -> None:
    reference = LabelImage(array=np.where(label.array == 0, 9, label.array), geometry=GEOMETRY)
    labels = LABELS.model_copy(update={"ignored": 9})
    write_overlay(tmp_path / "sparse.png", scan, reference, label, labels, "case")
    write_overlay(tmp_path / "whole.png", scan, label, label, LABELS, "case")
    assert np.array_equal(pixels_of(tmp_path / "sparse.png"), pixels_of(tmp_path / "whole.png"))


def test_overlay_shows_every_region(tmp_path: Path, scan: Image, label: LabelImage) -> None:
    """The whole is drawn around the part of it that is a region of its own."""
    labels = declare_regions({"whole": [1, 4], "part": [4]}, painted=[1, 4])
    write_overlay(tmp_path / "regions.png", scan, label, label, labels, "case")
    write_overlay(tmp_path / "classes.png", scan, label, label, LABELS, "case")
    assert shows(tmp_path / "regions.png", PALETTE[0])
    assert shows(tmp_path / "regions.png", PALETTE[1])
    assert not np.array_equal(pixels_of(tmp_path / "regions.png"), pixels_of(tmp_path / "classes.png"))


def test_prediction_changes_the_picture(tmp_path: Path, scan: Image, label: LabelImage) -> None:
    empty = LabelImage(array=np.zeros_like(label.array), geometry=GEOMETRY)
    write_overlay(tmp_path / "full.png", scan, label, label, LABELS, "case")
    write_overlay(tmp_path / "empty.png", scan, label, empty, LABELS, "case")
    full, other = pixels_of(tmp_path / "full.png"), pixels_of(tmp_path / "empty.png")

    changed = np.flatnonzero((full != other).any(axis=(0, 1)))
    upper = np.flatnonzero((full != other)[:, : full.shape[1] * 3 // 4].any(axis=(0, 1)))
    assert changed.size > 0
    assert upper.min() > full.shape[2] * 0.6


def test_without_reference_there_are_two_panels(tmp_path: Path, scan: Image, label: LabelImage) -> None:
    write_overlay(tmp_path / "three.png", scan, label, label, LABELS, "case")
    write_overlay(tmp_path / "two.png", scan, None, label, LABELS, "case")

    widths = {name: pixels_of(tmp_path / f"{name}.png").shape[2] for name in ("two", "three")}
    assert widths["two"] * 3 == pytest.approx(widths["three"] * 2, abs=3)


def test_aspect_follows_the_spacing(tmp_path: Path) -> None:
    square = np.zeros((1, 1, 20, 20), dtype=np.float32)
    empty = np.zeros((1, 20, 20), dtype=np.uint8)
    shapes = {}
    for name, spacing in {"square": (5.0, 1.0, 1.0), "wide": (5.0, 1.0, 1.5)}.items():
        geometry = Geometry(spacing=spacing)
        write_overlay(
            tmp_path / f"{name}.png", scan_of(square, geometry), None, LabelImage(empty, geometry), LABELS, name
        )
        shapes[name] = pixels_of(tmp_path / f"{name}.png").shape[1:]

    assert shapes["wide"][0] == shapes["square"][0]
    assert shapes["wide"][1] == pytest.approx(1.5 * shapes["square"][1], rel=0.05)


def test_slice_shows_every_class_where_one_can(label: LabelImage) -> None:
    indices = LABELS.to_indices(label.array)

    assert _telling_slice(indices, 0, LABELS.members) == 3
    assert 8 <= _telling_slice(indices, 1, LABELS.members) < 12


def test_slice_without_foreground_is_the_middle() -> None:
    assert _telling_slice(np.zeros((7, 4, 4), dtype=np.uint16), 0, LABELS.members) == 3


def test_slice_lies_across_the_coarsest_axis(tmp_path: Path, scan: Image, label: LabelImage) -> None:
    geometry = Geometry(spacing=(5.0, 1.0, 6.0))
    write_overlay(
        tmp_path / "side.png", scan_of(scan.array, geometry), None, LabelImage(label.array, geometry), LABELS, "side"
    )
    height, width = pixels_of(tmp_path / "side.png").shape[1:]

    assert width / height == pytest.approx(2 * 4.2 / 5.2, abs=0.02)


@pytest.mark.parametrize("across", [0, 1, 2])
def test_one_slice_is_shown_whole_whatever_its_spacing(tmp_path: Path, label: LabelImage, across: int) -> None:
    """Its pixels, larger than its thickness, make no other picture than those that are smaller."""
    array = np.expand_dims(label.array[3], across)
    scan = np.random.default_rng(0).normal(size=(1, *array.shape)).astype(np.float32)
    for thickness in (1.0, 3.0):
        geometry = Geometry(spacing=tuple(thickness if axis == across else 1.5 for axis in range(3)))
        flat = LabelImage(array, geometry)
        write_overlay(tmp_path / f"{thickness:g}.png", scan_of(scan, geometry), flat, flat, LABELS, "case")
    assert shows(tmp_path / "1.png", PALETTE[0])
    assert shows(tmp_path / "1.png", PALETTE[1])
    assert np.array_equal(pixels_of(tmp_path / "1.png"), pixels_of(tmp_path / "3.png"))


def test_a_2d_image_is_shown_in_its_plane(tmp_path: Path, label: LabelImage) -> None:
    geometry = Geometry(spacing=(1.0, 1.5, 1.5), dimensions=2)
    flat = LabelImage(label.array[3:4], geometry)
    write_overlay(
        tmp_path / "flat.png", scan_of(np.ones((1, 1, 30, 40), np.float32), geometry), flat, flat, LABELS, "case"
    )
    height, width = pixels_of(tmp_path / "flat.png").shape[1:]
    assert width / height == pytest.approx(3 * 4.2 * (40 / 30) / 5.2, rel=0.05)


def test_constant_scan_and_channels_can_be_drawn(tmp_path: Path, label: LabelImage) -> None:
    write_overlay(tmp_path / "flat.png", scan_of(np.ones((2, 6, 30, 40), np.float32)), label, label, LABELS, "flat")

    assert shows(tmp_path / "flat.png", PALETTE[0])


def test_shapes_must_agree(tmp_path: Path, scan: Image, label: LabelImage) -> None:
    short = LabelImage(array=label.array[:5], geometry=GEOMETRY)

    with pytest.raises(ValueError, match=r"prediction must have the scan's shape \(6, 30, 40\), got \(5, 30, 40\)"):
        write_overlay(tmp_path / "x.png", scan, label, short, LABELS, "case")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_epochs", [1, 200])
def test_curves_show_each_class(tmp_path: Path, num_epochs: int) -> None:
    epochs = np.arange(1, num_epochs + 1)
    rows = pd.DataFrame({"epoch": epochs, "learning_rate": 0.01 / epochs, "dice": 0.5, "dice_organ": 0.6})
    rows["dice_lesion"] = np.nan
    rows["training_loss"] = rows["validation_loss"] = 1.0 / epochs
    rows.to_csv(tmp_path / "history.csv", index=False)
    write_curves(tmp_path / "curves.png", tmp_path / "history.csv")

    assert shows(tmp_path / "curves.png", PALETTE[0])
    assert shows(tmp_path / "curves.png", PALETTE[1])


@pytest.mark.parametrize("content", [None, ""])
def test_history_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "history.csv").write_text(content)

    with pytest.raises(ArtefactError, match=r"history\.csv: the history of a training must be readable, got: "):
        write_curves(tmp_path / "curves.png", tmp_path / "history.csv")
