"""Pictures in files: a segmented slice beside its reference, the curves of a training."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from autoseg.core.errors import ArtefactError
from autoseg.core.labels import Labels
from autoseg.core.orientation import orientation_of, turn_between
from autoseg.data.image import Image, LabelImage
from autoseg.evaluate.metrics import blank_ignored, overlaps, region_mask
from autoseg.plan.spacing import transpose_order
from autoseg.report.palette import colours, save, shortened

FILL_OPACITY = 0.30
WINDOW_PERCENTILES = (0.5, 99.5)
SMALLEST_PANEL_INCHES, LARGEST_PANEL_INCHES, WIDEST_PANEL_INCHES = 2.6, 4.2, 6.5
MARGIN_INCHES = 1.0
CONTOUR_POINTS = 400
"""Along a slice, at least, so that outlines follow the edges of its voxels instead of cutting corners."""

LEGEND_ROW_INCHES = 0.22
LONGEST_NAME = 28
MANY_CLASSES = 8
"""Of more, a legend lists those alone that are to be seen."""

MOST_CURVES = 6
FEW_EPOCHS = 60
"""Up to this many, each epoch gets a dot, so that a short training is seen at all."""

AS_SHOWN = "IPL"
"""Orientation in which slices are looked at: rows run to the feet or the back, columns to the patient's left."""


def write_overlay(
    path: Path, image: Image, reference: LabelImage | None, prediction: LabelImage, labels: Labels, title: str
) -> None:
    """Write a PNG of one slice: the scan, the reference on it, the prediction on it, with a legend of the classes.

    The slice lies across the axis of one voxel, or else the coarsest, and is the one that shows all classes best; it is
    turned as radiologists look at it, the patient's right on the left and front or head on top, where the file says how
    the patient lies. With a reference, the legend gives each class's Dice of the whole scan.

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
    turn = turn_between(orientation_of(image.geometry), AS_SHOWN)
    turned = {name: turn.apply(array) for name, array in indices.items()}
    spacing = [image.geometry.spacing[axis] for axis in turn.axes]
    axis = transpose_order(tuple(round(step, 3) for step in spacing), turned["prediction"].shape)[0]
    number = _telling_slice(next(iter(turned.values())), axis, labels.members)
    row_mm, column_mm = (step for other, step in enumerate(spacing) if other != axis)
    scan = turn.apply(image.array[0]).take(number, axis)
    handles, num_columns = _legend(labels, indices)
    aspect = scan.shape[1] * column_mm / (scan.shape[0] * row_mm)
    figure, panels = _figure(1 + len(indices), aspect, math.ceil(len(handles) / num_columns))
    num_slices = turned["prediction"].shape[axis]
    stored = num_slices - number if axis in turn.flipped else number + 1
    for panel, name in zip(panels, ("scan", *indices), strict=True):
        _show_scan(panel, scan, row_mm / column_mm)
        panel.set_title(f"scan, slice {stored} of {num_slices}" if name == "scan" else name)
        if name in indices:
            _show_classes(panel, np.take(turned[name], number, axis), labels.members)
    figure.suptitle(title, fontweight="bold")
    figure.legend(handles=handles, loc="outside lower center", ncols=num_columns, frameon=False)
    save(figure, path)


def write_curves(path: Path, history: Path) -> None:
    """Write a PNG of a training: loss, Dice and learning rate by epoch.

    Of many classes, those with the lowest Dice are shown beside the mean.

    Args:
        path: Of the PNG.
        history: CSV of the training, one row per epoch.

    Raises:
        ArtefactError: If the history cannot be read.
    """
    rows = _read_history(history)
    figure, (loss, dice, rate) = _figure(3, aspect=1.2)
    _plot(loss, rows, {"training_loss": "training", "validation_loss": "validation"})
    _plot(dice, rows, {"dice": "mean", **_lowest_classes(rows)})
    _plot(rate, rows, {"learning_rate": "learning rate"})
    for panel, name in ((loss, "loss"), (dice, "Dice of validation patches"), (rate, "learning rate")):
        _label_epochs(panel, name, rows["epoch"].max())
    dice.set_ylim(0, 1)
    for panel in (loss, dice):
        panel.legend(frameon=False, fontsize=8)
    save(figure, path)


def write_fold_curves(path: Path, histories: Mapping[int, Path], title: str) -> None:
    """Write a PNG of the trainings of all folds of a configuration: losses and mean Dice by epoch.

    Args:
        path: Of the PNG.
        histories: CSV of each training, by fold.
        title: Stands on top.

    Raises:
        ArtefactError: If a history cannot be read.
    """
    folds = {fold: _read_history(history) for fold, history in histories.items()}
    figure, panels = _figure(3, aspect=1.2)
    named = (("training_loss", "loss, training"), ("validation_loss", "loss, validation"), ("dice", "Dice of patches"))
    for panel, (column, name) in zip(panels, named, strict=True):
        for (fold, rows), colour in zip(folds.items(), colours(len(folds)), strict=True):
            _plot_line(panel, rows, column, f"fold {fold}", colour)
        _label_epochs(panel, name, max(rows["epoch"].max() for rows in folds.values()))
    panels[2].set_ylim(0, 1)
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontweight="bold")
    save(figure, path)


def _read_history(history: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(history)
    except (OSError, ValueError) as error:
        raise ArtefactError(
            f"{history}: the history of a training must be readable, got: {error}. Train this fold."
        ) from None


def _lowest_classes(rows: pd.DataFrame) -> dict[str, str]:
    """Return the columns of the classes with the lowest Dice at the end, in their order, and their names."""
    columns = [str(name) for name in rows if str(name).startswith("dice_")]
    last = rows[columns].iloc[-1].fillna(0.0)
    shown = set(sorted(columns, key=lambda column: float(last[column]))[:MOST_CURVES])
    return {column: shortened(column.removeprefix("dice_"), LONGEST_NAME) for column in columns if column in shown}


def _label_epochs(panel: Axes, name: str, last: int) -> None:
    panel.set_title(name)
    panel.set_xlabel("epoch")
    panel.set_xlim(0, last + 1)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(alpha=0.3)


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
    for region, colour in zip(members, colours(len(members)), strict=True):
        mask = region_mask(indices, region)
        if not mask.any():
            continue
        finer = max(CONTOUR_POINTS // max(mask.shape), 1)
        padded = np.pad(mask.repeat(finer, 0).repeat(finer, 1), 1).astype(float)
        rows, columns = ((np.arange(-1, finer * size + 1) + 0.5) / finer - 0.5 for size in mask.shape)
        panel.contourf(columns, rows, padded, levels=(0.5, 1.5), colors=[colour], alpha=FILL_OPACITY)
        panel.contour(columns, rows, padded, levels=(0.5,), colors=[colour], linewidths=1.5)
    height, width = indices.shape
    panel.set_xlim(-0.5, width - 0.5)
    panel.set_ylim(height - 0.5, -0.5)


def _legend(labels: Labels, indices: dict[str, NDArray[np.uint16]]) -> tuple[list[Patch], int]:
    """Return the classes, of many only those that are in a map, and how many stand side by side."""
    names = [label.name for label in labels.foreground]
    is_shown = [len(names) <= MANY_CLASSES or _is_in(indices, members) for members in labels.members]
    texts = [shortened(name, LONGEST_NAME) for name in names]
    if len(indices) == 2:
        maps = blank_ignored(indices["prediction"], indices["reference"], labels.num_classes)
        scores = overlaps(*maps, labels.num_classes, labels.members)
        found = ("in neither" if score.dice is None else f"Dice {score.dice:.3f}" for score in scores)
        texts = [f"{name}: {text}" for name, text in zip(texts, found, strict=True)]
    shades = colours(len(names))
    handles = [
        Patch(color=colour, label=text) for colour, text, shown in zip(shades, texts, is_shown, strict=True) if shown
    ]
    return handles, max(min(4, len(handles)), 1)


def _is_in(indices: dict[str, NDArray[np.uint16]], members: tuple[int, ...]) -> bool:
    return any(region_mask(array, members).any() for array in indices.values())


def _plot(panel: Axes, rows: pd.DataFrame, names: dict[str, str]) -> None:
    for (column, name), colour in zip(names.items(), ("#222222", *colours(len(names))), strict=False):
        _plot_line(panel, rows, column, name, colour)


def _plot_line(panel: Axes, rows: pd.DataFrame, column: str, name: str, colour: str) -> None:
    marker = "." if len(rows) <= FEW_EPOCHS else None
    panel.plot(rows["epoch"], rows[column], label=name, color=colour, marker=marker, linewidth=1.5)


def _figure(num_panels: int, aspect: float, legend_rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels side by side, each `aspect` times as wide as high, with room for a legend below."""
    width = float(np.clip(LARGEST_PANEL_INCHES * aspect, SMALLEST_PANEL_INCHES, WIDEST_PANEL_INCHES))
    height = float(np.clip(width / aspect, SMALLEST_PANEL_INCHES / 2, LARGEST_PANEL_INCHES))
    figure = Figure(
        figsize=(num_panels * width, height + MARGIN_INCHES + LEGEND_ROW_INCHES * (legend_rows - 1)),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, num_panels, squeeze=False)[0])
