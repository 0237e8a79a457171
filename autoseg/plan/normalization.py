"""Rules for intensities and resampling: how voxels become network input."""

from collections.abc import Sequence

from autoseg.fingerprint.schema import IntensityStatistics
from autoseg.plan.rules import NormalizationRules, ResamplingRules
from autoseg.plan.schema import ChannelNormalization, NormalizationScheme, ResamplingPlan


def normalization_scheme(channel: str, rules: NormalizationRules) -> NormalizationScheme:
    """Return the scheme of a channel by its name, whatever the case of its letters.

    Source:
        rules/inferred.toml [normalization]; Isensee et al. 2021, Methods, intensity normalisation.
    """
    known = {name.casefold(): scheme for name, scheme in rules.schemes.items()}
    return known.get(channel.casefold(), rules.default_scheme)


def normalize_within_mask(scheme: NormalizationScheme, relative_size: float, rules: NormalizationRules) -> bool:
    """Return whether statistics are taken, and voxels changed, inside the non-zero mask only.

    Args:
        scheme: Only `zscore` knows a mask.
        relative_size: Median over cases of cropped voxels / stored voxels.
        rules: Constants.

    Source:
        rules/inferred.toml [normalization.mask_below_relative_size].
    """
    return scheme == "zscore" and relative_size < rules.mask_below_relative_size


def normalization(
    channels: Sequence[str],
    intensities: Sequence[IntensityStatistics],
    relative_size: float,
    rules: NormalizationRules,
) -> tuple[ChannelNormalization, ...]:
    """Return how each channel is normalised.

    Args:
        channels: Names.
        intensities: Foreground statistics, one entry per channel.
        relative_size: Median over cases of cropped voxels / stored voxels.
        rules: Constants.

    Raises:
        ValueError: If channels and statistics differ in number.
    """
    if len(channels) != len(intensities):
        raise ValueError(f"statistics are needed for {len(channels)} channels, got {len(intensities)}")
    entries = []
    for channel, statistics in zip(channels, intensities, strict=True):
        scheme = normalization_scheme(channel, rules)
        entry = ChannelNormalization(
            channel=channel, scheme=scheme, within_mask=normalize_within_mask(scheme, relative_size, rules)
        )
        if scheme == "ct":
            found = {"lower": statistics.percentile_00_5, "upper": statistics.percentile_99_5}
            entry = entry.model_copy(update={**found, "mean": statistics.mean, "std": statistics.std})
        entries.append(entry)
    return tuple(entries)


def resampling(rules: ResamplingRules) -> ResamplingPlan:
    """Return how arrays change their spacing.

    Source:
        rules/inferred.toml [resampling].
    """
    return ResamplingPlan(
        image_order=rules.image_order,
        label_order=rules.label_order,
        output_order=rules.output_order,
        coarse_axis_order=rules.coarse_axis_order,
        anisotropy_ratio=rules.anisotropy_ratio,
    )
