import pytest

from autoseg.fingerprint.schema import IntensityStatistics
from autoseg.plan.normalization import normalization, normalization_scheme, normalize_within_mask, resampling
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import NormalizationScheme

INFERRED = load_rulebook().inferred
RULES = INFERRED.normalization


@pytest.mark.parametrize(
    ("channel", "scheme"),
    [("CT", "ct"), ("ct", "ct"), ("noNorm", "none"), ("ZSCORE", "zscore"), ("rescale_to_0_1", "rescale_to_0_1"),
     ("rgb_to_0_1", "rgb_to_0_1"), ("T2", "zscore"), ("CT scan", "zscore")],
)  # fmt: skip
def test_the_name_of_a_channel_decides_its_scheme(channel: str, scheme: str) -> None:
    assert normalization_scheme(channel, RULES) == scheme


@pytest.mark.parametrize(
    ("scheme", "relative_size", "expected"),
    [("zscore", 0.7499, True), ("zscore", 0.75, False), ("ct", 0.1, False), ("none", 0.1, False)],
)
def test_the_mask_is_used_where_cropping_removes_much(
    scheme: NormalizationScheme, relative_size: float, expected: bool
) -> None:
    assert normalize_within_mask(scheme, relative_size, RULES) is expected


def test_the_statistics_of_the_foreground_are_kept() -> None:
    statistics = IntensityStatistics(mean=4, median=3, std=2, min=-1, max=90, percentile_00_5=0.5, percentile_99_5=80)
    (entry,) = normalization(["CT"], [statistics], 0.5, RULES)
    assert (entry.lower, entry.upper, entry.mean, entry.std) == (0.5, 80, 4, 2)
    assert (entry.channel, entry.scheme, entry.within_mask) == ("CT", "ct", False)


def test_each_channel_needs_statistics() -> None:
    with pytest.raises(ValueError, match="2 channels, got 0"):
        normalization(["T1", "T2"], [], 0.5, RULES)


def test_images_are_resampled_with_cubic_splines_labels_linearly() -> None:
    plan = resampling(INFERRED.resampling)
    assert (plan.image_order, plan.label_order, plan.output_order, plan.coarse_axis_order) == (3, 1, 1, 0)
