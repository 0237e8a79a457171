"""Pictures in files: a segmented slice beside its reference, the curves of a training."""

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from autoseg.core.artefact import replacing
from autoseg.core.errors import ArtefactError
from autoseg.core.labels import Labels
from autoseg.data.image import Image, LabelImage
from autoseg.evaluate.metrics import blank_ignored, overlaps, region_mask

PALETTE = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2")
"""Colours of the foreground classes, in order; told apart by the colour-blind too (Okabe and Ito 2008)."""

FILL_OPACITY = 0.30
WINDOW_PERCENTILES = (0.5, 99.5)
SMALLEST_PANEL_INCHES, LARGEST_PANEL_INCHES, WIDEST_PANEL_INCHES = 2.6, 4.2, 6.5
MARGIN_INCHES = 1.0
DOTS_PER_INCH = 130
FEW_EPOCHS = 60
"""Up to this many, each epoch gets a dot, so that a short training is seen at all."""


def write_overlay(
    path: Path, image: Image, reference: LabelImage | None, prediction: LabelImage, labels: Labels, title: str
) -> None:
    """Write a PNG of one slice: the scan, the reference on it, the prediction on it, with a legend of the classes.

    The slice lies across the coarsest axis and is the one that shows all classes best. With a reference, the legend
    gives each class's Dice of the whole scan.

    Args:
        path: Of the PNG.
        image: Scan; its first channel is shown.
        reference: Label map on the grid of the scan, or None if there is none.
        prediction: Label map on the grid of the scan.
        labels: Classes of both maps.
        title: Stands on top.

    Raises:
        ValueError: If shapes differ or a label is undeclared.
    """
    maps = {"reference": reference, "prediction": prediction}
    indices = {name: labels.to_indices(label.array) for name, label in maps.items() if label is not None}
    for name, array in indices.items():
        if array.shape != image.array.shape[1:]:
            raise ValueError(f"{name} must have the scan's shape {image.array.shape[1:]}, got {array.shape}")
    axis = int(np.argmax(np.round(image.geometry.spacing, 3)))
    number = _telling_slice(next(iter(indices.values())), axis, labels.members)
    row_mm, column_mm = (step for other, step in enumerate(image.geometry.spacing) if other != axis)
    scan = image.array[0].take(number, axis)
    figure, panels = _figure(1 + len(indices), scan.shape[1] * column_mm / (scan.shape[0] * row_mm))
    for panel, name in zip(panels, ("scan", *indices), strict=True):
        _show_scan(panel, scan, row_mm / column_mm)
        panel.set_title(f"scan, slice {number + 1} of {image.array.shape[1 + axis]}" if name == "scan" else name)
        if name in indices:
            _show_classes(panel, np.take(indices[name], number, axis), labels.members)
    figure.suptitle(title, fontweight="bold")
    figure.legend(
        handles=_legend(labels, indices),
        loc="outside lower center",
        ncols=min(4, len(labels.foreground)),
        frameon=False,
    )
    _save(figure, path)


def write_curves(path: Path, history: Path) -> None:
    """Write a PNG of a training: loss, Dice and learning rate by epoch.

    Args:
        path: Of the PNG.
        history: CSV of the training, one row per epoch.

    Raises:
        ArtefactError: If the history cannot be read.
    """
    try:
        rows = pd.read_csv(history)
    except (OSError, ValueError) as error:
        raise ArtefactError(
            f"{history}: the history of a training must be readable, got: {error}. Train this fold."
        ) from None
    classes = [name for name in rows if str(name).startswith("dice_")]
    figure, (loss, dice, rate) = _figure(3, aspect=1.2)
    _plot(loss, rows, {"training_loss": "training", "validation_loss": "validation"})
    _plot(dice, rows, {"dice": "mean", **{str(name): str(name).removeprefix("dice_") for name in classes}})
    _plot(rate, rows, {"learning_rate": "learning rate"})
    for panel, name in ((loss, "loss"), (dice, "Dice of validation patches"), (rate, "learning rate")):
        panel.set_title(name)
        panel.set_xlabel("epoch")
        panel.set_xlim(0, rows["epoch"].max() + 1)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
    dice.set_ylim(0, 1)
    for panel in (loss, dice):
        panel.legend(frameon=False)
    _save(figure, path)


def _telling_slice(indices: NDArray[np.integer], axis: int, members: Sequence[tuple[int, ...]]) -> int:
    """Return the slice in which the classes show most of their largest cut, each counting the same."""
    others = tuple(other for other in range(indices.ndim) if other != axis)
    shares = np.zeros(indices.shape[axis])
    for region in members:
        areas = np.sum(region_mask(indices, region), axis=others)
        shares += areas / max(areas.max(), 1)
    return int(np.argmax(shares)) if shares.any() else indices.shape[axis] // 2


def _show_scan(panel: Axes, scan: NDArray[np.floating], aspect: float) -> None:
    low, high = np.percentile(scan, WINDOW_PERCENTILES)
    panel.imshow(scan, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect)
    panel.set_axis_off()


def _show_classes(panel: Axes, indices: NDArray[np.integer], members: Sequence[tuple[int, ...]]) -> None:
    for region, colour in zip(members, _colours(len(members)), strict=True):
        mask = region_mask(indices, region)
        if not mask.any():
            continue
        padded = np.pad(mask, 1).astype(float)
        rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
        panel.contourf(columns, rows, padded, levels=(0.5, 1.5), colors=[colour], alpha=FILL_OPACITY)
        panel.contour(columns, rows, padded, levels=(0.5,), colors=[colour], linewidths=1.5)
    height, width = indices.shape
    panel.set_xlim(-0.5, width - 0.5)
    panel.set_ylim(height - 0.5, -0.5)


def _legend(labels: Labels, indices: dict[str, NDArray[np.uint16]]) -> list[Patch]:
    names = [label.name for label in labels.foreground]
    if len(indices) == 2:
        maps = blank_ignored(indices["prediction"], indices["reference"], labels.num_classes)
        scores = overlaps(*maps, labels.num_classes, labels.members)
        texts = ("in neither" if score.dice is None else f"Dice {score.dice:.3f}" for score in scores)
        names = [f"{name}: {text}" for name, text in zip(names, texts, strict=True)]
    return [Patch(color=colour, label=name) for colour, name in zip(_colours(len(names)), names, strict=True)]


def _colours(count: int) -> Sequence[str]:
    return tuple(islice(cycle(PALETTE), count))


def _plot(panel: Axes, rows: pd.DataFrame, names: dict[str, str]) -> None:
    marker = "." if len(rows) <= FEW_EPOCHS else None
    for (column, name), colour in zip(names.items(), ("#222222", *_colours(len(names))), strict=False):
        panel.plot(rows["epoch"], rows[column], label=name, color=colour, marker=marker, linewidth=1.5)


def _figure(num_panels: int, aspect: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels side by side, each `aspect` times as wide as high."""
    width = float(np.clip(LARGEST_PANEL_INCHES * aspect, SMALLEST_PANEL_INCHES, WIDEST_PANEL_INCHES))
    height = float(np.clip(width / aspect, SMALLEST_PANEL_INCHES / 2, LARGEST_PANEL_INCHES))
    figure = Figure(figsize=(num_panels * width, height + MARGIN_INCHES), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, num_panels, squeeze=False)[0])


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH)
