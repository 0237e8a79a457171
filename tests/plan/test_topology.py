import math

import pytest

from autoseg.core.geometry import Spacing
from autoseg.plan.rules import TopologyRules
from autoseg.plan.topology import axis_to_shrink, initial_patch, poolable_axes, poolable_patch, shrink, topology

RULES = TopologyRules(min_edge=4, lone_axis_min_edge=12, similar_spacing_ratio=2.0)


@pytest.mark.parametrize(
    ("spacing", "shape", "expected"),
    [
        pytest.param((1, 1, 1), (500, 500, 500), (256, 256, 256), id="a cube of the edge"),
        pytest.param((1, 1, 1), (500, 100.5, 500), (256, 100.5, 256), id="no longer than the data"),
        pytest.param((8, 1, 1), (500, 5000, 5000), (64, 512, 512), id="equally long in mm"),
        pytest.param((1, 1), (999, 9999), (256, 256), id="a square in 2D"),
        pytest.param((1e9, 1, 1), (500, 9, 9), (1, 9, 9), id="at least one voxel"),
    ],
)
def test_the_search_starts_from_a_cube_of_tissue(
    spacing: Spacing, shape: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    assert initial_patch(spacing, shape, edge=256) == expected


@pytest.mark.parametrize(
    ("sizes", "spacing", "expected"),
    [
        pytest.param((8, 8, 8), (1, 1, 1), (0, 1, 2), id="eight voxels become four"),
        pytest.param((7, 8, 8), (1, 1, 1), (1, 2), id="seven do not"),
        pytest.param((7, 7, 7), (1, 1, 1), (), id="nothing to pool"),
        pytest.param((64, 64, 64), (1.99, 1, 1), (0, 1, 2), id="below twice as coarse goes along"),
        pytest.param((64, 64, 64), (2, 1, 1), (1, 2), id="twice as coarse waits"),
        pytest.param((7, 7, 12), (1, 1, 1), (2,), id="a lone axis of twelve"),
        pytest.param((7, 7, 11), (1, 1, 1), (), id="a lone axis of eleven"),
        pytest.param((64, 7, 7), (5, 1, 1), (0,), id="only axes that can be pooled are compared"),
    ],
)
def test_which_axes_are_pooled(sizes: tuple[int, ...], spacing: Spacing, expected: tuple[int, ...]) -> None:
    assert poolable_axes(sizes, spacing, RULES) == expected


def test_a_cube_is_pooled_until_four_voxels_remain() -> None:
    stages = topology((1, 1, 1), (128, 128, 128), RULES)
    assert stages.strides == ((1, 1, 1), *[(2, 2, 2)] * 5)
    assert stages.kernels == ((3, 3, 3),) * 6
    assert stages.divisors == (32, 32, 32)


def test_an_anisotropic_patch_is_pooled_in_plane_first() -> None:
    stages = topology((5, 1, 1), (20, 64, 64), RULES)
    assert stages.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert stages.kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert stages.patch_size == (20, 64, 64)


def test_the_patch_grows_to_a_multiple_of_its_strides() -> None:
    stages = topology((1, 1, 1), (35.5, 50, 8), RULES)
    assert stages.divisors == (8, 8, 2)
    assert stages.patch_size == (40, 56, 8)


@pytest.mark.parametrize("patch", [(35.5, 50, 8), (17, 233, 120), (9, 9, 9), (64, 200, 3)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 0.7, 0.9), (1.0, 3.0, 1.5)])
def test_every_topology_fits_its_patch(patch: tuple[float, ...], spacing: Spacing) -> None:
    stages = topology(spacing, patch, RULES)
    assert len(stages.kernels) == len(stages.strides)
    for axis in range(3):
        assert stages.divisors[axis] == math.prod(stride[axis] for stride in stages.strides)
        assert stages.patch_size[axis] % stages.divisors[axis] == 0
        assert 0 <= stages.patch_size[axis] - patch[axis] < stages.divisors[axis]


@pytest.mark.parametrize(
    ("patch", "spacing", "expected"),
    [
        pytest.param((8, 8, 8), (1, 1, 1), (8, 8, 8), id="can be pooled as it is"),
        pytest.param((3, 7, 5), (1, 1, 1), (8, 8, 8), id="all axes grow"),
        pytest.param((3, 7, 5), (2, 1, 1), (3, 8, 8), id="a coarse axis does not"),
        pytest.param((5, 5), (1, 9), (12, 5), id="a lone axis grows further"),
        pytest.param((7, 9), (1, 1), (8, 9), id="long axes stay"),
    ],
)
def test_a_patch_too_small_to_pool_grows(patch: tuple[int, ...], spacing: Spacing, expected: tuple[int, ...]) -> None:
    grown = poolable_patch(spacing, patch, RULES)
    assert grown == expected
    assert len(topology(spacing, grown, RULES).strides) >= 2


def test_the_axis_that_covers_most_is_shrunk_the_last_among_equals() -> None:
    assert axis_to_shrink((64, 64, 64), (100, 65, 100)) == 1
    assert axis_to_shrink((64, 64, 64), (100, 100, 100)) == 2


def test_a_shrinking_step_is_the_divisor_of_the_shorter_patch() -> None:
    current = topology((1, 1, 1), (128, 128, 128), RULES)
    smaller = shrink((1, 1, 1), current, 2, RULES)
    assert smaller is not None
    assert smaller.patch_size == (128, 128, 112)  # 128 - 32 = 96 is halved four times, so the step is 16
    assert smaller.divisors == (32, 32, 16)


def test_nothing_is_left_to_shrink_of_one_voxel() -> None:
    assert shrink((1, 1, 1), topology((1, 1, 1), (1, 8, 8), RULES), 0, RULES) is None
