import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg.core.labels import declare_labels, declare_regions
from autoseg.select.postprocess import UNTREATED, Postprocessing, Treatment, holes, postprocess, treat, treatments

LABELS = declare_labels({1: "organ", 4: "lesion"})
SPACING = (2.0, 1.0, 1.0)


def _line(text: str) -> NDArray[np.uint8]:
    """Return a map of one row from its class indices, dots for the background."""
    return np.array([[[int(letter.replace(".", "0")) for letter in text]]], dtype=np.uint8)


def _text(indices: NDArray[np.integer]) -> str:
    return "".join(str(index) for index in indices.ravel()).replace("0", ".")


def _after(text: str, **treatment: object) -> str:
    classes = {"organ": Treatment.model_validate(treatment)}
    return _text(postprocess(_line(text), SPACING, LABELS, Postprocessing(classes=classes)))


@pytest.mark.parametrize(
    ("before", "after", "treatment"),
    [
        ("11.111.1.22.2", "...111...22.2", {"keeps_largest": True}),
        ("11.11", "11...", {"keeps_largest": True}),  # the first of two
        ("11.111.1", "11.111..", {"min_volume_mm3": 4.0}),  # a voxel is 2 mm3, and the bound stays
        ("11.111.1", "...111..", {"min_volume_mm3": 4.1}),
        ("1.1", "...", {"min_volume_mm3": 10.0}),
        ("11..1.2.1", "111111211", {"fills_holes": True}),  # on a line all between is enclosed
        ("......", "......", {"keeps_largest": True, "min_volume_mm3": 3.0, "fills_holes": True}),
        ("11..1.111", "......111", {"keeps_largest": True, "fills_holes": True}),
    ],
)
def test_treatments_by_hand(before: str, after: str, treatment: dict[str, object]) -> None:
    assert _after(before, **treatment) == after


def test_the_largest_foreground_joins_classes() -> None:
    chosen = Postprocessing(keeps_largest_foreground=True)

    assert _text(postprocess(_line("12.111.2"), SPACING, LABELS, chosen)) == "...111.."
    assert _text(postprocess(_line("122.11.2"), SPACING, LABELS, chosen)) == "122....."
    assert _text(postprocess(_line("........"), SPACING, LABELS, chosen)) == "........"


def test_the_foreground_comes_first() -> None:
    chosen = Postprocessing(keeps_largest_foreground=True, classes={"organ": Treatment(keeps_largest=True)})

    assert _text(postprocess(_line("1112221.11111"), SPACING, LABELS, chosen)) == "111222......."


def test_nothing_changes_nothing_and_nothing_is_changed_in_place() -> None:
    before = _line("11.111.1.22.2")
    kept = before.copy()

    assert (postprocess(before, SPACING, LABELS, Postprocessing()) == kept).all()
    postprocess(before, SPACING, LABELS, Postprocessing(keeps_largest_foreground=True))
    assert (before == kept).all()


def test_holes_are_seen_in_volumes_and_in_slices() -> None:
    volume = np.ones((5, 5, 5), dtype=bool)
    volume[2, 2, 2] = volume[0, 0, 0] = False
    ring = np.ones((1, 5, 5), dtype=bool)
    ring[0, 2, 2] = False

    assert np.argwhere(holes(volume)).tolist() == [[2, 2, 2]]
    assert np.argwhere(holes(ring)).tolist() == [[0, 2, 2]]
    assert not holes(np.repeat(ring, 3, axis=0)).any()  # a tunnel is open


def test_other_classes_are_no_holes() -> None:
    indices = np.ones((1, 7, 7), dtype=np.uint8)
    indices[0, 2, 2], indices[0, 4, 4] = 0, 2
    after = postprocess(indices, SPACING, LABELS, Postprocessing(classes={"organ": Treatment(fills_holes=True)}))

    assert (after[0, 2, 2], after[0, 4, 4]) == (1, 2)


def test_what_is_removed_from_a_region_stays_in_the_one_around_it() -> None:
    labels = declare_regions({"whole": [1, 4], "core": [4]}, painted=[1, 4])
    core = Postprocessing(classes={"core": Treatment(keeps_largest=True)})
    whole = Postprocessing(classes={"whole": Treatment(keeps_largest=True)})

    assert _text(postprocess(_line("1221121.12"), SPACING, labels, core)) == "1221111.11"
    assert _text(postprocess(_line("1221121.12"), SPACING, labels, whole)) == "1221121..."


def test_treatments_begin_with_none_and_grow() -> None:
    tried = treatments((30.0, 10.0))

    assert tried[0] == UNTREATED
    assert len(set(tried)) == 2 * 3 * 2
    assert tried[-1].summary == "keep the largest component, remove components below 30 mm3, fill holes"
    assert UNTREATED.summary == "nothing"


def test_a_component_spans_corners() -> None:
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True

    assert treat(mask, ~mask, SPACING, Treatment(keeps_largest=True)).sum() == 3
