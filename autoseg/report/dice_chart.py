"""A picture of the Dice of every held-out case in every class, by configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from autoseg.evaluate.bootstrap import Interval
from autoseg.evaluate.scores import Evaluation, score_table
from autoseg.report.palette import colours, save, shortened

MEAN = "mean of classes"
ROW_INCHES = 0.24
GAP_ROWS = 0.6
"""Between classes, in rows."""

WIDTH_INCHES, MARGIN_INCHES = 9.5, 1.35
BOX_SHARE = 0.62
"""Of a row, that its box is high."""

FEW_CASES = 30
"""Up to so many, the dots are large and there is no box: a box of so few says less than they do."""

LONGEST_NAME = 26
ROOM_OF_LETTER = 0.009
"""Share of the panel's width that a letter of a case's name takes."""

LOWEST_ROOM = 0.12
"""Of the range that is shown, left of the worst case for its name."""


@dataclass(frozen=True)
class _Row:
    """The cases of one class, or of the mean over classes, as one candidate segments them.

    Attributes:
        scores: Dice by case, NaN where it is not defined.
        mean: Over the cases.
        interval: In which it lies.
    """

    scores: NDArray[np.float64]
    mean: float | None
    interval: Interval | None

    @property
    def text(self) -> str:
        """Mean and interval, for people."""
        if self.mean is None:
            return "not defined"
        spread = "" if self.interval is None else f" ({self.interval.low:.3f} to {self.interval.high:.3f})"
        num_defined = int((~np.isnan(self.scores)).sum())
        fewer = "" if num_defined == len(self.scores) else f", {num_defined} cases"
        return f"{self.mean:.3f}{spread}{fewer}"


def write_dice_chart(path: Path, candidates: Mapping[str, Evaluation], title: str) -> None:
    """Write a PNG: for each class and candidate the Dice of every case, their quartiles, mean and interval.

    The worst case of the first candidate is named in each class.

    Args:
        path: Of the PNG.
        candidates: Evaluations of the same cases and classes by name, the most important first; at least one.
        title: Stands on top.
    """
    save(dice_figure(candidates, title), path)


def dice_figure(candidates: Mapping[str, Evaluation], title: str) -> Figure:
    """Return the picture of `write_dice_chart`."""
    first = next(iter(candidates.values()))
    names = [label.name for label in first.labels.foreground]
    groups = ([MEAN] if len(names) > 1 else []) + names
    tables = [_rows(evaluation, groups) for evaluation in candidates.values()]
    places = _places(len(groups), len(candidates))
    height = ROW_INCHES * (places.max() + 1 + GAP_ROWS) + MARGIN_INCHES
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.set_xlim(*_limits([row.scores for table in tables for row in table.values()]))
    panel.set_ylim(places.max() + 0.5 + GAP_ROWS / 2, -0.5 - GAP_ROWS / 2)
    shades = colours(len(candidates))
    for number, (table, shade) in enumerate(zip(tables, shades, strict=True)):
        for group, place in zip(groups, places[:, number], strict=True):
            _draw_row(panel, table[group], float(place), shade)
    case_names = [case.name for case in first.cases]
    for group, place in zip(groups, places[:, 0], strict=True):
        _name_worst(panel, tables[0][group].scores, case_names, float(place))
    _label_axes(panel, groups, places, [[table[group].text for table in tables] for group in groups])
    figure.suptitle(f"{title}: Dice of {len(first.cases)} held-out cases", fontweight="bold")
    figure.legend(
        handles=_legend(list(candidates), shades, has_boxes=len(first.cases) > FEW_CASES),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    return figure


def _rows(evaluation: Evaluation, groups: Sequence[str]) -> dict[str, _Row]:
    """Return a row per class, and one of the mean over classes."""
    table = score_table(evaluation.cases, evaluation.labels, "dice")
    rows = {
        label.name: _Row(table[:, number], summary.dice.mean, summary.dice.interval)
        for number, label in enumerate(evaluation.labels.foreground)
        if (summary := evaluation.per_class[label.name])
    }
    means = np.array([np.nan if case.dice is None else case.dice for case in evaluation.cases])
    rows[MEAN] = _Row(means, evaluation.mean_foreground_dice, evaluation.mean_foreground_interval)
    return {group: rows[group] for group in groups}


def _places(num_groups: int, num_candidates: int) -> NDArray[np.float64]:
    """Return where each row lies, counted from the top, (groups, candidates)."""
    starts = np.arange(num_groups) * (num_candidates + GAP_ROWS)
    places: NDArray[np.float64] = starts[:, None] + np.arange(num_candidates, dtype=np.float64)
    return places


def _limits(scores: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the range of Dice that is shown, with room for names left of the lowest."""
    defined = np.concatenate([found[~np.isnan(found)] for found in scores])
    lowest = float(defined.min()) if defined.size else 0.0
    start = np.floor(10 * lowest) / 10
    width = 1.0 - start
    return start - max(LOWEST_ROOM * width, 0.02), 1.0 + 0.01 * max(width, 0.1)


def _draw_row(panel: Axes, row: _Row, place: float, shade: str) -> None:
    found = row.scores[~np.isnan(row.scores)]
    if not found.size:
        return
    many = len(found) > FEW_CASES
    spread = np.random.default_rng(0).uniform(-0.5, 0.5, len(found)) * BOX_SHARE * (0.9 if many else 0.5)
    size, opacity = (5, 0.35) if many else (22, 0.75)
    panel.scatter(found, place + spread, s=size, color=shade, alpha=opacity, linewidths=0, zorder=2)
    if many:
        low, middle, high = np.quantile(found, (0.25, 0.5, 0.75))
        edges = np.array([-0.5, 0.5]) * BOX_SHARE + place
        panel.fill_betweenx(edges, low, high, facecolor=shade, alpha=0.25, linewidth=0, zorder=1)
        panel.fill_betweenx(edges, low, high, facecolor="none", edgecolor=shade, linewidth=1.0, zorder=3)
        panel.plot([middle, middle], edges, color=shade, linewidth=2.0, zorder=4)
    if row.mean is not None:
        panel.plot(row.mean, place, marker="D", markersize=4.5, color="white", markeredgecolor="black", zorder=6)
    if row.interval is not None:
        panel.plot([row.interval.low, row.interval.high], [place, place], color="black", linewidth=1.4, zorder=5)


def _name_worst(panel: Axes, scores: NDArray[np.float64], names: Sequence[str], place: float) -> None:
    """Write the name of the worst case left of its dot, or right of it where there is no room."""
    if np.isnan(scores).all():
        return
    worst = int(np.nanargmin(scores))
    num_as_bad = int((scores == scores[worst]).sum()) - 1
    text = shortened(names[worst], LONGEST_NAME) + (f" and {num_as_bad} more" if num_as_bad else "")
    lowest, highest = panel.get_xlim()
    has_room = (scores[worst] - lowest) / (highest - lowest) > ROOM_OF_LETTER * (len(text) + 2)
    panel.annotate(
        text,
        (float(scores[worst]), place),
        xytext=(-5 if has_room else 5, 0),
        textcoords="offset points",
        ha="right" if has_room else "left",
        va="center",
        fontsize=7,
        zorder=7,
        bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.7, "linewidth": 0},
    )


def _label_axes(
    panel: Axes, groups: Sequence[str], places: NDArray[np.float64], texts: Sequence[Sequence[str]]
) -> None:
    panel.set_yticks(places.mean(axis=1), [shortened(group, LONGEST_NAME) for group in groups])
    for group, label in zip(groups, panel.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if group == MEAN else "normal")
    panel.tick_params(axis="y", length=0)
    panel.set_xlabel("Dice")
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    for number in range(1, len(groups)):
        panel.axhline(places[number, 0] - 0.5 - GAP_ROWS / 2, color="#DDDDDD", linewidth=0.8)
    beside = panel.secondary_yaxis("right")
    beside.set_yticks(places.ravel().tolist(), [text for row in texts for text in row], fontsize=8)
    beside.tick_params(length=0)
    beside.spines["right"].set_visible(False)


def _legend(names: Sequence[str], shades: Sequence[str], *, has_boxes: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], marker="o", linestyle="", color=shade, label=name)
        for name, shade in zip(names, shades, strict=True)
    ]
    mean = Line2D(
        [], [], marker="D", markersize=4.5, color="black", markerfacecolor="white", label="mean, 95 % interval"
    )
    handles.append(mean)
    if has_boxes:
        handles.append(Line2D([], [], marker="s", linestyle="", color="#999999", label="quartiles and median"))
    return handles
