from collections.abc import Sequence

import pytest

from autoseg.core.labels import Labels, declare_labels
from autoseg.plan.mirroring import Sides, axes_in_patch, find_sides, mirror_axes, side_pairs
from tests.plan.published_case import fingerprint_of

KIDNEYS = (("left kidney", "right kidney"),)


def _labels(*names: str) -> Labels:
    return declare_labels(dict(enumerate(("background", *names))))


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["left kidney", "right kidney"], [("left kidney", "right kidney")]),
        (["kidney_right", "kidney_left"], [("kidney_left", "kidney_right")]),
        (["Kidney-Left", "kidney (RIGHT)"], [("Kidney-Left", "kidney (RIGHT)")]),
        (["lung upper left", "lung lower right"], []),
        (["left atrium", "myocardium"], []),
        (["leftover", "rightover"], []),
        (["left", "right"], [("left", "right")]),
        (["rib_left_1", "rib_right_1", "rib_left_2"], [("rib_left_1", "rib_right_1")]),
        (
            ["eye left", "lung left", "lung right", "eye right"],
            [("eye left", "eye right"), ("lung left", "lung right")],
        ),
    ],
)
def test_pairs_differ_in_the_words_left_and_right_alone(names: list[str], pairs: list[tuple[str, str]]) -> None:
    assert list(side_pairs(_labels(*names))) == pairs


@pytest.mark.parametrize(
    ("num_axes", "sides", "axes"),
    [
        (3, Sides((), 2), (0, 1, 2)),
        (2, Sides((), None), (0, 1)),
        (3, Sides(KIDNEYS, 2), (0, 1)),
        (3, Sides(KIDNEYS, 0), (1, 2)),
        (3, Sides(KIDNEYS, None), ()),
        (2, Sides(KIDNEYS, 2), (0,)),
        (2, Sides(KIDNEYS, 1), (1,)),
        (2, Sides(KIDNEYS, 0), (0, 1)),
        (2, Sides(KIDNEYS, None), ()),
    ],
)
def test_the_left_right_axis_of_the_patch_is_left_out(num_axes: int, sides: Sides, axes: tuple[int, ...]) -> None:
    assert mirror_axes(num_axes, sides) == axes


@pytest.mark.parametrize(
    ("stated", "transpose", "axis"),
    [
        ([2, 2, 2], (0, 1, 2), 2),
        ([2, 2, 2], (2, 0, 1), 0),
        ([0, 0, 0], (2, 0, 1), 1),
        ([2, 1, 2], (0, 1, 2), None),
        ([2, None, 2], (0, 1, 2), None),
        ([None, None, None], (0, 1, 2), None),
    ],
)
def test_the_axis_is_followed_through_the_transposition(
    stated: Sequence[int | None], transpose: tuple[int, int, int], axis: int | None
) -> None:
    found = fingerprint_of([(1, 1, 1)] * 3, [(8, 8, 8)] * 3)
    cases = [case.model_copy(update={"left_right_axis": own}) for case, own in zip(found.cases, stated, strict=True)]
    fingerprint = found.model_copy(update={"cases": tuple(cases)})
    assert find_sides(_labels("left eye", "right eye"), fingerprint, transpose).axis == axis


@pytest.mark.parametrize(
    ("num_axes", "axes", "transpose", "places"),
    [
        (3, (0, 1, 2), (0, 1, 2), (0, 1, 2)),
        (3, (), (0, 1, 2), ()),
        (3, (2,), (2, 0, 1), (0,)),
        (3, (0, 1), (2, 0, 1), (1, 2)),
        (2, (0, 1), (2, 0, 1), (0, 1)),
        (2, (2,), (2, 0, 1), ()),
        (2, (0, 2), (0, 1, 2), (1,)),
    ],
)
def test_axes_of_the_images_are_found_in_the_patch(
    num_axes: int, axes: tuple[int, ...], transpose: tuple[int, int, int], places: tuple[int, ...]
) -> None:
    assert axes_in_patch(num_axes, axes, transpose) == places
