"""Which way the axes of a dataset's scans run: one orientation for all, to which scans that differ are turned."""

from collections import Counter
from collections.abc import Sequence

from pydantic import JsonValue

from autoseg.core.geometry import Shape, Spacing
from autoseg.core.orientation import Orientation, turn_between
from autoseg.fingerprint.schema import CaseFingerprint, Fingerprint
from autoseg.plan.rules import Inferred
from autoseg.plan.schema import Decision


def common_orientation(fingerprint: Fingerprint, rules: Inferred) -> Orientation | None:
    """Return the orientation of most cases, the first of equals; None where scans are taken as they are stored.

    That is where a case's orientation is not known, and where the slices of too many cases would come to lie across
    those of the others. Of planes about halfway between those of the patient, as of the heart's short axis, a few
    degrees decide which side an axis is named for; stacks may also have been cut across different axes of the patient.

    Args:
        fingerprint: Of the dataset, as stored; at least one case.
        rules: How many cases are too many, and how coarse an axis is that slices lie across.

    Source:
        rules/inferred.toml [orientation] and [resampling.anisotropy_ratio].
    """
    orientation = _most_frequent(fingerprint)
    share = _num_turned_slices(fingerprint, orientation, rules) / len(fingerprint.cases)
    return None if share > rules.orientation.max_turned_slices else orientation


def slice_axis(shape: Shape, spacing: Spacing, anisotropy_ratio: float) -> int | None:
    """Return the axis across which the slices of a scan lie; None if it has none.

    That is its only axis of one voxel, or else the coarsest axis if it is much coarser than the next.

    Args:
        shape: In voxels, three axes in any order.
        spacing: In mm, in the same order.
        anisotropy_ratio: By more than this factor the coarsest spacing exceeds the next.
    """
    single = [axis for axis, size in enumerate(shape) if size == 1]
    if single:
        return single[0] if len(single) == 1 else None
    _, next_coarsest, coarsest = sorted(range(3), key=lambda axis: spacing[axis])
    return coarsest if spacing[coarsest] > anisotropy_ratio * spacing[next_coarsest] else None


def turned_fingerprint(fingerprint: Fingerprint, orientation: Orientation | None) -> Fingerprint:
    """Return a fingerprint whose cases are measured as if all were stored in one orientation; None changes nothing."""
    if orientation is None:
        return fingerprint
    cases = tuple(_turned(case, orientation) for case in fingerprint.cases)
    return fingerprint.model_copy(update={"cases": cases})


def orientation_decision(fingerprint: Fingerprint, orientation: Orientation | None, rules: Inferred) -> Decision:
    """Return why scans are turned to an orientation, or taken as they are stored.

    Args:
        fingerprint: Of the dataset, as stored.
        orientation: What was decided.
        rules: As for `common_orientation`.
    """
    counts = Counter(case.orientation or "unknown" for case in fingerprint.cases)
    inputs: dict[str, JsonValue] = {"cases": dict(counts.most_common())}
    used: dict[str, JsonValue] = {}
    reason = (
        "Scans are taken as they are stored, as it is not known of each which way its axes run."
        if orientation is None
        else f"{counts[orientation]} of {counts.total()} cases run this way; others are turned, "
        "and predictions are turned back."
    )
    usual, allowed = _most_frequent(fingerprint), rules.orientation.max_turned_slices
    if usual is not None and len(counts) > 1:
        num_turned = _num_turned_slices(fingerprint, usual, rules)
        inputs["cases whose slices would be turned"] = num_turned
        used = {
            "orientation.max_turned_slices": allowed,
            "resampling.anisotropy_ratio": rules.resampling.anisotropy_ratio,
        }
        if orientation is None:
            reason = (
                f"Scans are taken as they are stored: turned to {usual}, which is most frequent, {num_turned} of "
                f"{counts.total()} cases, more than {allowed:.0%}, would have their slices across those of the others."
            )
    return Decision(
        configuration=None,
        name="orientation",
        value=orientation,
        reason=reason,
        inputs=inputs,
        rules=used,
        source="core/orientation.py: a change of axes, which touches no value",
    )


def _most_frequent(fingerprint: Fingerprint) -> Orientation | None:
    """Return the orientation of most cases, the first of equals; None if a case's is not known."""
    counts = Counter(case.orientation for case in fingerprint.cases)
    return None if None in counts else counts.most_common(1)[0][0]


def _num_turned_slices(fingerprint: Fingerprint, orientation: Orientation | None, rules: Inferred) -> int:
    """Return how many more cases have slices across those of most when all are turned than as they are stored, or 0."""
    ratio = rules.resampling.anisotropy_ratio
    stored, turned = (
        [slice_axis(case.shape, case.spacing, ratio) for case in found.cases]
        for found in (fingerprint, turned_fingerprint(fingerprint, orientation))
    )
    return max(0, _num_unlike_most(turned) - _num_unlike_most(stored))


def _num_unlike_most(axes: Sequence[int | None]) -> int:
    """Return how many scans with slices have them across another axis than most."""
    counts = Counter(axis for axis in axes if axis is not None)
    return counts.total() - max(counts.values(), default=0)


def _turned(case: CaseFingerprint, orientation: Orientation) -> CaseFingerprint:
    axes = turn_between(case.orientation, orientation).axes
    per_axis = ("shape", "cropped_shape", "spacing", "foreground_extent_mm")
    changes: dict[str, object] = {name: tuple(getattr(case, name)[axis] for axis in axes) for name in per_axis}
    if case.left_right_axis is not None:
        changes["left_right_axis"] = axes.index(case.left_right_axis)
    return case.model_copy(update={**changes, "orientation": orientation})
