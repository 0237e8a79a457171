import pytest

from autoseg.fingerprint.schema import Fingerprint
from autoseg.plan.orientation import common_orientation, turned_fingerprint
from autoseg.plan.planner import make_plan
from autoseg.plan.rulebook import load_rulebook
from tests.plan.published_case import describe, fingerprint_of

RULEBOOK = load_rulebook()


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
    assert common_orientation(_stored(*stored)) == expected


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
    assert decision.inputs == {"cases": {"SPL": 3, "RIA": 1, "PSL": 1}}
    assert "3 of 5 cases" in decision.reason


def test_scans_of_unknown_orientation_are_taken_as_stored() -> None:
    dataset = describe("test", ["MRI"], ["background", "organ"])
    assert make_plan(_stored("SPL", None), dataset, RULEBOOK).orientation is None
