"""Which way the axes of a dataset's scans run: one orientation for all, to which scans that differ are turned."""

from collections import Counter

from autoseg.core.orientation import Orientation, turn_between
from autoseg.fingerprint.schema import CaseFingerprint, Fingerprint
from autoseg.plan.schema import Decision


def common_orientation(fingerprint: Fingerprint) -> Orientation | None:
    """Return the orientation of most cases, the first of equals; None if a case's is not known."""
    counts = Counter(case.orientation for case in fingerprint.cases)
    return None if None in counts else counts.most_common(1)[0][0]


def turned_fingerprint(fingerprint: Fingerprint, orientation: Orientation | None) -> Fingerprint:
    """Return a fingerprint whose cases are measured as if all were stored in one orientation; None changes nothing."""
    if orientation is None:
        return fingerprint
    cases = tuple(_turned(case, orientation) for case in fingerprint.cases)
    return fingerprint.model_copy(update={"cases": cases})


def orientation_decision(fingerprint: Fingerprint, orientation: Orientation | None) -> Decision:
    """Return why scans are turned to an orientation."""
    counts = Counter(case.orientation or "unknown" for case in fingerprint.cases)
    return Decision(
        configuration=None,
        name="orientation",
        value=orientation,
        reason=(
            "Scans are taken as they are stored, as it is not known of each which way its axes run."
            if orientation is None
            else f"{counts[orientation]} of {counts.total()} cases run this way; others are turned, "
            "and predictions are turned back."
        ),
        inputs={"cases": dict(counts.most_common())},
        rules={},
        source="core/orientation.py: a change of axes, which touches no value",
    )


def _turned(case: CaseFingerprint, orientation: Orientation) -> CaseFingerprint:
    axes = turn_between(case.orientation, orientation).axes
    per_axis = ("shape", "cropped_shape", "spacing", "foreground_extent_mm")
    changes: dict[str, object] = {name: tuple(getattr(case, name)[axis] for axis in axes) for name in per_axis}
    if case.left_right_axis is not None:
        changes["left_right_axis"] = axes.index(case.left_right_axis)
    return case.model_copy(update={**changes, "orientation": orientation})
