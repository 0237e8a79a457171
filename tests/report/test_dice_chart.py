"""The picture of the Dice of every case: what stands in it, from one class of a few cases to many of hundreds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from autoseg.core.labels import Labels, declare_labels
from autoseg.data.image import read_image
from autoseg.evaluate.run import evaluation_rules
from autoseg.evaluate.scores import CaseScores, Evaluation, summarise
from autoseg.report.dice_chart import MEAN, dice_figure, write_dice_chart
from autoseg.report.palette import colours, shortened
from tests.evaluate.test_scores import case, scores


def _evaluation(*dice: Sequence[float | None]) -> Evaluation:
    """Return an evaluation of cases by their Dice of organ and lesion."""
    labels = declare_labels({1: "organ", 4: "lesion"})
    cases = [case(f"case_{number}", organ, lesion) for number, (organ, lesion) in enumerate(dice)]
    return summarise(cases, labels, evaluation_rules())


def _dots(figure: Figure) -> list[int]:
    """Return how many cases each row shows, from the top."""
    return [
        np.shape(found.get_offsets())[0] for found in figure.axes[0].collections if isinstance(found, PathCollection)
    ]


def _named(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def _means(figure: Figure) -> list[str]:
    beside = figure.axes[0].child_axes[0]
    return [label.get_text() for label in beside.get_yticklabels()]


def test_every_case_is_a_dot_and_the_worst_has_its_name() -> None:
    figure = dice_figure({"2d": _evaluation((0.9, 0.8), (0.7, None), (0.8, 0.4))}, "Task")
    assert _dots(figure) == [3, 3, 2]
    assert _named(figure) == ["case_2", "case_1", "case_2"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [MEAN, "organ", "lesion"]
    assert _means(figure)[2].startswith("0.600 (0.400 to 0.800), 2 cases")


def test_equally_bad_cases_are_counted() -> None:
    figure = dice_figure({"2d": _evaluation((0.0, 0.8), (0.0, 0.7), (0.0, 0.9))}, "Task")
    assert _named(figure)[1] == "case_0 and 2 more"


def test_candidates_stand_below_each_other_and_the_first_one_names_the_worst() -> None:
    first, second = _evaluation((0.9, 0.8), (0.7, 0.6)), _evaluation((0.5, 0.8), (0.7, 0.6))
    figure = dice_figure({"2d + 3d_fullres": first, "2d": second}, "Task")
    assert _dots(figure) == [2] * 6
    assert _named(figure) == ["case_1"] * 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["2d + 3d_fullres", "2d", "mean, 95 % interval"]


def test_a_class_that_is_nowhere_defined_stays_empty() -> None:
    figure = dice_figure({"2d": _evaluation((0.9, None), (0.8, None))}, "Task")
    assert _dots(figure) == [2, 2]
    assert _means(figure)[2] == "not defined"


def _many(num_classes: int, num_cases: int) -> Evaluation:
    labels: Labels = declare_labels({number: f"class {number}" for number in range(1, num_classes + 1)})
    table = np.random.default_rng(0).uniform(0.3, 1.0, (num_cases, num_classes))
    cases = [
        CaseScores(
            name=f"case_{row}",
            classes={
                label.name: scores(float(dice)) for label, dice in zip(labels.foreground, table[row], strict=True)
            },
        )
        for row in range(num_cases)
    ]
    return summarise(cases, labels, evaluation_rules())


@pytest.mark.parametrize(("num_classes", "num_cases", "least_height"), [(1, 5, 180), (30, 60, 1500)])
def test_its_height_follows_the_number_of_classes(
    tmp_path: Path, num_classes: int, num_cases: int, least_height: int
) -> None:
    write_dice_chart(tmp_path / "dice.png", {"2d": _many(num_classes, num_cases)}, "Task")
    _, _, height, width = read_image([tmp_path / "dice.png"]).array.shape
    assert width == pytest.approx(9.5 * 130, abs=2)
    assert least_height < height < 1.5 * least_height


def test_all_colours_differ() -> None:
    assert len(set(colours(40))) == 40


def test_long_names_lose_their_middle() -> None:
    assert shortened("liver", 10) == "liver"
    assert shortened("inferior vena cava, left", 10) == "infer…left"
