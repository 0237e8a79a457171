import pytest

from autoseg.core.geometry import Shape, Spacing
from autoseg.plan.spacing import coarser_spacing, median_shape, target_spacing, transpose_order

RATIO, PERCENTILE, EXCESS = 3.0, 10.0, 1e-5


def _target(spacings: list[Spacing], shapes: list[Shape]) -> Spacing:
    return target_spacing(
        spacings, shapes, anisotropy_ratio=RATIO, coarse_axis_percentile=PERCENTILE, min_excess_mm=EXCESS
    )


def test_isotropic_data_get_the_median_per_axis() -> None:
    spacings: list[Spacing] = [(1, 1, 1), (2, 1, 0.5), (4, 1, 0.8)]
    assert _target(spacings, [(100, 100, 100)] * 3) == (2, 1, 0.8)


@pytest.mark.parametrize(
    ("coarse", "num_slices", "expected"),
    [
        pytest.param(3.0, 20, 3.0, id="exactly three times coarser is not anisotropic"),
        pytest.param(3.1, 20, 1.5, id="coarser and shorter takes the low percentile"),
        pytest.param(3.1, 34, 3.1, id="34 slices of 100 are not short: 3 x 34 >= 100"),
        pytest.param(3.1, 33, 1.5, id="33 slices of 100 are short: 3 x 33 < 100"),
    ],
)
def test_a_coarse_and_short_axis_takes_a_low_percentile(coarse: float, num_slices: int, expected: float) -> None:
    spacings: list[Spacing] = [(1.5, 1, 1), (1.5, 1, 1), *[(coarse, 1, 1)] * 9]
    assert _target(spacings, [(num_slices, 100, 100)] * 11) == pytest.approx((expected, 1, 1))


def test_the_low_percentile_stays_above_the_other_axes() -> None:
    spacings: list[Spacing] = [(0.5, 1, 1), (0.5, 1, 1), *[(5.0, 1, 1)] * 9]
    assert _target(spacings, [(20, 100, 100)] * 11) == pytest.approx((1 + EXCESS, 1, 1), abs=1e-12)


def test_the_coarse_axis_may_be_any() -> None:
    spacings: list[Spacing] = [(1, 1, 2), *[(1, 1, 8)] * 2]
    assert _target(spacings, [(100, 100, 20)] * 3) == pytest.approx((1, 1, 3.2))


def test_spacings_and_shapes_must_pair() -> None:
    with pytest.raises(ValueError, match="got 1 spacings and 2 shapes"):
        _target([(1, 1, 1)], [(5, 5, 5)] * 2)
    with pytest.raises(ValueError, match="got 0 spacings"):
        _target([], [])


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [((3, 1, 1), (0, 1, 2)), ((1, 3, 1), (1, 0, 2)), ((1, 1, 3), (2, 0, 1)), ((1, 1, 1), (0, 1, 2)),
     ((1, 2, 2), (1, 0, 2))],
)  # fmt: skip
def test_the_coarsest_axis_comes_first(spacing: Spacing, expected: tuple[int, ...]) -> None:
    assert transpose_order(spacing, (1.5, 2, 2)) == expected


@pytest.mark.parametrize(
    ("spacing", "shape", "expected"),
    [
        pytest.param((1, 1.5, 1.5), (1, 256, 300), (0, 1, 2), id="pixels above 1 mm"),
        pytest.param((1, 1.5, 1.5), (1.5, 256, 300), (1, 0, 2), id="half of the cases have a second slice"),
        pytest.param((1.5, 1, 1.5), (256, 1, 300), (1, 0, 2), id="a slice across y"),
        pytest.param((1, 1, 1), (256, 300, 1), (2, 0, 1), id="a slice across x, equal spacings"),
        pytest.param((1, 3, 2), (1, 300, 1), (2, 0, 1), id="of two axes of one voxel the coarser"),
    ],
)
def test_an_axis_of_one_voxel_comes_before_the_coarsest(
    spacing: Spacing, shape: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    assert transpose_order(spacing, shape) == expected


def test_the_median_shape_is_that_of_resampled_cases() -> None:
    shapes: list[Shape] = [(10, 100, 100), (20, 50, 50), (30, 60, 60), (40, 60, 61)]
    spacings: list[Spacing] = [(4, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)]
    assert median_shape(shapes, spacings, (2, 1, 1)) == (25, 60, 60.5)


def test_one_slice_stays_one_however_fine_the_target_spacing_is() -> None:
    shapes: list[Shape] = [(1, 50, 60), (1, 50, 60), (10, 50, 60)]
    assert median_shape(shapes, [(5, 1, 1)] * 3, (1, 2, 1)) == (1, 25, 60)
    assert median_shape(shapes[1:], [(5, 1, 1)] * 2, (5, 2, 1)) == (5.5, 25, 60)


def test_finer_axes_are_coarsened_first() -> None:
    assert coarser_spacing((5, 1, 2.5), step=1.5, finer_axis_ratio=2) == (5, 1.5, 2.5)
    assert coarser_spacing((5, 2.5, 2.5), step=2, finer_axis_ratio=2) == (10, 5, 5)
