import numpy as np
import pytest

from autoseg.core.geometry import Box, Shape, Spacing, bounding_box, box_slices, num_voxels, resampled_shape


@pytest.mark.parametrize(
    ("shape", "old", "new", "expected"),
    [
        ((10, 20, 30), (1, 1, 1), (1, 1, 1), (10, 20, 30)),
        ((10, 20, 30), (2, 1, 0.5), (1, 1, 1), (20, 20, 15)),
        ((5, 7, 9), (0.5, 0.5, 0.5), (1, 1, 1), (2, 4, 4)),
        ((5, 7), (0.51, 0.49), (1, 1), (3, 3)),
        ((1, 2, 3), (0.3, 0.3, 0.3), (1, 1, 1), (1, 1, 1)),
    ],
    ids=["same", "finer and coarser", "halves go to the even number", "either side of a half", "never nothing"],
)
def test_resampled_shape(shape: Shape, old: Spacing, new: Spacing, expected: Shape) -> None:
    assert resampled_shape(shape, old, new) == expected


def test_resampled_shape_wants_one_spacing_per_axis() -> None:
    with pytest.raises(ValueError, match="zip"):
        resampled_shape((4, 4, 4), (1, 1), (1, 1))


@pytest.mark.parametrize(
    ("voxels", "box"),
    [
        ([], ((0, 4), (0, 5), (0, 6))),
        ([(0, 0, 0)], ((0, 1), (0, 1), (0, 1))),
        ([(3, 4, 5)], ((3, 4), (4, 5), (5, 6))),
        ([(1, 4, 2), (2, 0, 3)], ((1, 3), (0, 5), (2, 4))),
    ],
)
def test_bounding_box(voxels: list[tuple[int, int, int]], box: Box) -> None:
    mask = np.zeros((4, 5, 6), dtype=bool)
    for voxel in voxels:
        mask[voxel] = True
    assert bounding_box(mask) == box
    assert mask[box_slices(box)].sum() == mask.sum()
    assert mask[box_slices(box)].shape == tuple(last - first for first, last in box)


def test_bounding_box_in_the_plane() -> None:
    mask = np.zeros((4, 5), dtype=bool)
    mask[1, 2:4] = True
    assert bounding_box(mask) == ((1, 2), (2, 4))


def test_num_voxels() -> None:
    assert num_voxels((2, 3, 4)) == 24
    assert num_voxels(()) == 1
