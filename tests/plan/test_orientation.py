import math
from pathlib import Path

import pytest

from autoseg.core.geometry import Geometry
from autoseg.core.orientation import Orientation, orientation_of
from autoseg.fingerprint.schema import Fingerprint
from autoseg.plan.orientation import common_orientation, slice_axis, turned_fingerprint
from autoseg.plan.planner import make_plan
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import Decision, Plan
from tests.plan.published_case import describe, fingerprint_of

RULEBOOK = load_rulebook()
DATASET = describe("test", ["MRI"], ["background", "organ"])
STACK = ((10.0, 1.4, 1.4), (10, 256, 256))
CORONAL = ((1.4, 10.0, 1.4), (256, 10, 256))
CUBE = ((1.0, 1.0, 1.0), (160, 160, 160))


def _stored(*orientations: str | None) -> Fingerprint:
    """Return the fingerprint of scans of one kind, 20 x 60 x 50 voxels of 3 x 1 x 1.2 mm as "SPL" has them."""
    size, step = {"S": 20, "P": 60, "L": 50}, {"S": 3.0, "P": 1.0, "L": 1.2}
    upward = str.maketrans("IAR", "SPL")
    sides = [(stored or "SPL").translate(upward) for stored in orientations]
    found = fingerprint_of(
        [[step[side] for side in three] for three in sides], [[size[side] for side in three] for three in sides]
    )
    cases = [
        case.model_copy(update={"orientation": stored, "left_right_axis": three.index("L")})
        for case, stored, three in zip(found.cases, orientations, sides, strict=True)
    ]
    return found.model_copy(update={"cases": tuple(cases)})


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (("SPL", "SPL"), "SPL"),
        (("SPL", "RAI", "RAI"), "RAI"),
        (("LPS", "SPL"), "LPS"),
        (("SPL", "SPL", None), None),
        ((None,), None),
    ],
)
def test_most_cases_decide(stored: tuple[str | None, ...], expected: str | None) -> None:
    assert common_orientation(_stored(*stored), RULEBOOK.inferred) == expected


def test_cases_are_measured_as_if_stored_one_way() -> None:
    mixed = _stored("SPL", "RIA", "PSL")
    assert turned_fingerprint(mixed, "SPL").cases[0] == mixed.cases[0]
    shapes = {(case.shape, case.cropped_shape, case.spacing) for case in turned_fingerprint(mixed, "SPL").cases}
    assert shapes == {((20, 60, 50), (20, 60, 50), (3.0, 1.0, 1.2))}
    assert {case.left_right_axis for case in turned_fingerprint(mixed, "SPL").cases} == {2}
    assert turned_fingerprint(mixed, None) == mixed


def test_a_mixed_dataset_is_planned_as_a_uniform_one() -> None:
    """Spacing, patch and the axis that may not be mirrored are those of scans that are all stored one way."""
    dataset = describe("test", ["MRI"], ["background", "left kidney", "right kidney"])
    uniform = make_plan(_stored(*["SPL"] * 5), dataset, RULEBOOK)
    mixed = make_plan(_stored("SPL", "SPL", "SPL", "RIA", "PSL"), dataset, RULEBOOK)
    assert uniform.orientation == mixed.orientation == "SPL"
    assert mixed.configurations == uniform.configurations
    assert mixed.transpose == uniform.transpose
    assert mixed.configurations["3d_fullres"].mirror_axes == (0, 1)
    (decision,) = [found for found in mixed.decisions if found.name == "orientation"]
    assert decision.inputs == {"cases": {"SPL": 3, "RIA": 1, "PSL": 1}, "cases whose slices would be turned": 0}
    assert "3 of 5 cases" in decision.reason


def test_scans_of_unknown_orientation_are_taken_as_stored() -> None:
    planned = make_plan(_stored("SPL", None), DATASET, RULEBOOK)
    assert planned.orientation is None
    assert "not known of each" in _decision(planned).reason
    assert _decision(planned).rules == {}


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((10, 256, 256), (3.1, 1.0, 1.0), 0),
        ((10, 256, 256), (3.0, 1.0, 1.0), None),
        ((256, 10, 256), (0.2, 3.1, 1.0), 1),
        ((256, 10, 256), (0.2, 3.0, 1.0), None),
        ((256, 256, 10), (4.0, 4.0, 9.0), None),
        ((256, 256, 1), (1.4, 1.4, 1.0), 2),
        ((256, 1, 256), (9.0, 1.0, 1.0), 1),
        ((1, 1, 256), (9.0, 1.0, 1.0), None),
    ],
)
def test_slices_lie_across_the_axis_of_one_voxel_or_else_a_much_coarser_one(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], expected: int | None
) -> None:
    assert slice_axis(shape, spacing, 3.0) == expected


def test_ten_degrees_would_turn_the_slices_of_oblique_stacks() -> None:
    """Stacks at 40 and 50 degrees, stored alike, are planned as they are stored, slices first."""
    assert [_tilted(angle) for angle in (40, 50)] == ["SPL", "LPI"]
    oblique = make_plan(_cases(*[(_tilted(angle), *STACK) for angle in (40, 40, 40, 50, 50)]), DATASET, RULEBOOK)
    straight = make_plan(_cases(*[("SPL", *STACK)] * 5), DATASET, RULEBOOK)
    assert (oblique.orientation, straight.orientation) == (None, "SPL")
    assert oblique.configurations == straight.configurations
    assert oblique.transpose == straight.transpose == (0, 1, 2)
    decision = _decision(oblique)
    assert "turned to SPL, which is most frequent, 2 of 5 cases, more than 10%, would" in decision.reason
    assert decision.inputs == {"cases": {"SPL": 3, "LPI": 2}, "cases whose slices would be turned": 2}
    assert decision.rules == {"orientation.max_turned_slices": 0.1, "resampling.anisotropy_ratio": 3.0}


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ([("SPL", *STACK)] * 9 + [("LPI", *STACK)], "SPL"),
        ([("SPL", *STACK)] * 8 + [("LPI", *STACK)], None),
        ([("SPL", *STACK)] * 3 + [("SAR", *STACK)] * 2, "SPL"),
        ([("SPL", *CUBE)] * 3 + [("LPI", *CUBE)] * 2, "SPL"),
        ([("SPL", *CUBE)] * 3 + [("LPI", *STACK)] * 2, "SPL"),
        ([("SPL", *STACK)] * 3 + [("PSL", *CORONAL)] * 2, "SPL"),
        ([("SPL", *STACK)] * 3 + [("SPL", *CORONAL)] * 2, "SPL"),
        ([("SPL", *STACK)] * 3 + [("SPR", *CORONAL)] * 2, "SPL"),
        ([("SPL", (1.0, 1.4, 1.4), (1, 256, 256))] * 3 + [("LPI", (1.0, 1.4, 1.4), (1, 256, 256))] * 2, None),
    ],
)
def test_scans_are_not_turned_where_that_turns_slices(
    cases: list[tuple[Orientation, tuple[float, ...], tuple[int, ...]]], expected: Orientation | None
) -> None:
    """One case in ten may be; and what differs as stored, or agrees once turned, is no reason."""
    assert common_orientation(_cases(*cases), RULEBOOK.inferred) == expected


def test_slices_that_turning_brings_together_count_for_nothing() -> None:
    decision = _decision(make_plan(_cases(*[("SPL", *STACK)] * 3, *[("PSL", *CORONAL)] * 2), DATASET, RULEBOOK))
    assert decision.inputs["cases whose slices would be turned"] == 0
    assert "3 of 5 cases run this way" in decision.reason


def test_the_share_is_a_rule(tmp_path: Path) -> None:
    (tmp_path / "inferred.toml").write_text("[orientation]\nmax_turned_slices = { value = 0.4 }\n")
    stacks = _cases(*[("SPL", *STACK)] * 3, *[("LPI", *STACK)] * 2)
    decision = _decision(make_plan(stacks, DATASET, load_rulebook(tmp_path)))
    assert decision.value == "SPL"
    assert decision.rules["orientation.max_turned_slices"] == 0.4


def test_cases_of_one_orientation_are_decided_without_a_rule() -> None:
    for stacks in (_cases(*[("LPI", *STACK)] * 3), _cases(*[("SPL", *STACK)] * 3, *[("SPL", *CORONAL)] * 2)):
        decision = _decision(make_plan(stacks, DATASET, RULEBOOK))
        assert decision.value == stacks.cases[0].orientation
        assert set(decision.inputs) == {"cases"}
        assert decision.rules == {}


def _tilted(degrees: float) -> Orientation | None:
    """Return the orientation of a scan that is turned about the patient's axis from front to back."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    direction = (cosine, 0.0, sine, 0.0, 1.0, 0.0, -sine, 0.0, cosine)
    return orientation_of(Geometry(spacing=(10.0, 1.4, 1.4), direction=direction))


def _cases(*kinds: tuple[Orientation | None, tuple[float, ...], tuple[int, ...]]) -> Fingerprint:
    """Return the fingerprint of scans of these orientations, spacings and shapes, all as stored."""
    found = fingerprint_of([spacing for _, spacing, _ in kinds], [shape for *_, shape in kinds])
    cases = [
        case.model_copy(update={"orientation": orientation})
        for case, (orientation, *_) in zip(found.cases, kinds, strict=True)
    ]
    return found.model_copy(update={"cases": tuple(cases)})


def _decision(planned: Plan) -> Decision:
    (decision,) = [found for found in planned.decisions if found.name == "orientation"]
    return decision
