import math

import pytest

from autoseg.core.geometry import Geometry
from autoseg.data.grid import grid_differences

SHAPE = (10, 11, 21)
FIRST = Geometry(spacing=(5.0, 2.0, 1.0), origin=(100.0, 50.0, -30.0))


def found(shape: tuple[int, ...] = SHAPE, first: Geometry = FIRST, **changes: object) -> list[tuple[str, str]]:
    other = first.model_copy(update=changes)
    return [(severity, rule) for severity, rule, _ in grid_differences(SHAPE, first, shape, other)]


def turned(degrees: float) -> tuple[float, ...]:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return (cosine, -sine, 0.0, sine, cosine, 0.0, 0.0, 0.0, 1.0)


def test_equal_grids_do_not_differ() -> None:
    assert found() == []


def test_a_shape_is_all_that_is_said_of_other_shapes() -> None:
    assert found((10, 11, 20), spacing=(9.0, 9.0, 9.0)) == [("error", "shape")]


@pytest.mark.parametrize(
    ("spacing", "differences"),
    [
        ((5.0049, 2.0, 1.0), []),
        ((5.0, 2.0, 0.9991), []),
        ((5.006, 2.0, 1.0), [("error", "spacing")]),
        ((1.0, 2.0, 5.0), [("error", "spacing")]),
    ],
)
def test_spacings_agree_within_a_thousandth(spacing: tuple[float, ...], differences: list[tuple[str, str]]) -> None:
    assert found(spacing=spacing) == differences


def test_the_spacing_of_an_axis_of_one_voxel_is_free() -> None:
    other = FIRST.model_copy(update={"spacing": (1.0, 2.0, 1.0)})
    assert list(grid_differences((1, 11, 21), FIRST, (1, 11, 21), other)) == []


@pytest.mark.parametrize(
    ("shift_mm", "differences"),
    [(0.09, []), (0.11, [("warning", "origin")]), (0.49, [("warning", "origin")]), (0.51, [("error", "origin")])],
)
def test_a_shift_is_measured_in_voxels(shift_mm: float, differences: list[tuple[str, str]]) -> None:
    assert found(origin=(100.0 + shift_mm, 50.0, -30.0)) == differences


@pytest.mark.parametrize(("degrees", "differences"), [(0.2, []), (0.8, ["warning"]), (3.0, ["error"])])
def test_a_turn_is_measured_at_the_farthest_corner(degrees: float, differences: list[str]) -> None:
    # The farthest corner lies at (20, 20) mm in the plane of the turn: 28.3 mm * angle is 0.1, 0.4, 1.5 voxels of 1 mm.
    assert found(direction=turned(degrees)) == [(severity, "direction") for severity in differences]


def test_a_flip_is_an_error() -> None:
    flipped = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    assert found(direction=flipped) == [("error", "direction")]


@pytest.mark.parametrize("direction", [FIRST.direction, (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)])
def test_an_origin_that_was_never_stored_is_a_warning(direction: tuple[float, ...]) -> None:
    ((severity, rule, message),) = grid_differences(
        SHAPE, FIRST, SHAPE, Geometry(spacing=FIRST.spacing, direction=direction)
    )
    assert (severity, rule) == ("warning", "origin" if direction == FIRST.direction else "direction")
    assert message.endswith("voxels are matched by their indices")


def test_a_2d_file_and_a_slice_of_3d_match_by_indices() -> None:
    assert found(dimensions=2, origin=(0.0, 0.0, 0.0)) == []
