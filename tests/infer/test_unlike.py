"""Both sides of every threshold; the training data are those of `tests.pipeline.models.fingerprint`."""

from dataclasses import replace

import numpy as np
import pytest

from autoseg.core.geometry import Geometry
from autoseg.data.image import Image
from autoseg.infer.unlike import Familiar, unlike_result, unlike_scan
from autoseg.plan.rules import UnlikeRules
from autoseg.preprocess.case import prepare_image
from tests.pipeline.models import SHAPE, fingerprint
from tests.preprocess.plans import configuration, plan

RULES = UnlikeRules(spacing_ratio=1.5, extent_ratio=2.0, volume_ratio=3.0, min_share_of_foreground_intensity=0.01)
FAMILIAR = Familiar(plan(), fingerprint(), RULES)


def _scan(
    spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
    shape: tuple[int, int, int] = SHAPE,
    value: float = 1.0,
    dimensions: int = 3,
) -> Image:
    return Image(np.full((1, *shape), value, np.float32), Geometry(spacing=spacing, dimensions=dimensions))


def _warnings(scan: Image, familiar: Familiar = FAMILIAR) -> dict[str, str]:
    return unlike_scan(scan, prepare_image(scan, familiar.plan, configuration(), "la"), familiar)


def _trained_on(
    *orientations: str | None,
    spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
    orientation: str | None = None,
    transpose: tuple[int, int, int] = (0, 1, 2),
) -> Familiar:
    """Return what a model knows whose training cases have one spacing, and were stored in these orientations."""
    seen = fingerprint()
    cases = tuple(
        case.model_copy(update={"orientation": stored, "spacing": spacing})
        for case, stored in zip(seen.cases, orientations, strict=True)
    )
    the_plan = plan(transpose).model_copy(update={"orientation": orientation})
    return Familiar(the_plan, seen.model_copy(update={"cases": cases}), RULES)


@pytest.mark.parametrize(
    "scan",
    [
        _scan(),
        _scan(spacing=(1.0, 1.0, 2.0)),
        _scan(spacing=(4.5, 1.0, 1.0)),
        _scan(spacing=(2.0, 0.67, 0.67)),
        _scan(shape=(12, 24, 24)),
        _scan(value=0.5),
        _scan(value=2.5),
    ],
)
def test_scans_like_the_training_data_lead_to_no_warning(scan: Image) -> None:
    assert _warnings(scan) == {}


@pytest.mark.parametrize(
    ("scan", "words"),
    [
        (_scan(spacing=(4.6, 1.0, 1.0)), "spacing is 1 x 1 x 4.6 mm, that of the training data 1 x 1 x 2 to 1 x 1 x 3"),
        (_scan(spacing=(2.0, 0.6, 0.6)), "spacing is 0.6 x 0.6 x 2 mm"),
        (_scan(shape=(12, 5, 12)), "field of view is 5 x 12 x 24 mm, that of the training data 12 x 12 x 24 to"),
        (_scan(shape=(37, 12, 12)), "field of view is 12 x 12 x 74 mm"),
        (_scan(value=40.0), "intensities of scan are 40 to 40, and 0.00% of the voxels"),
        (_scan(value=0.4), "intensities of scan are 0.4 to 0.4"),
    ],
)
def test_a_scan_unlike_them_is_described(scan: Image, words: str) -> None:
    ((about, warning),) = _warnings(scan).items()
    assert words.startswith(about)
    assert words in warning


def test_some_voxels_of_the_structures_intensity_suffice() -> None:
    image = _scan(value=40.0)
    image.array[0, 0, :2] = 1.0
    assert _warnings(image) == {}


def test_a_border_of_zeros_is_no_field_of_view() -> None:
    """Nor is it in the training data, of which nnU-Net notes the shapes after cropping alone."""
    image = _scan(shape=(50, 50, 50), value=0.0)
    image.array[:, 3:15, 3:15, 3:15] = 1.0
    seen = fingerprint()
    cases = tuple(case.model_copy(update={"shape": (90, 90, 90)}) for case in seen.cases)
    assert _warnings(image, Familiar(plan(), seen.model_copy(update={"cases": cases}), RULES)) == {}
    image.array[:, 3:40] = 1.0
    assert set(_warnings(image)) == {"field of view"}


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (("SPL", None), None),
        (("SPR", None), "the scan is stored as SPL and predicted as it is, training cases as SPR or as not known"),
        ((None, None), None),
    ],
)
def test_an_orientation_that_no_training_case_has_is_described_where_scans_are_not_turned(
    known: tuple[str | None, ...], words: str | None
) -> None:
    seen = fingerprint()
    cases = tuple(
        case.model_copy(update={"orientation": orientation})
        for case, orientation in zip(seen.cases, known, strict=True)
    )
    familiar = Familiar(plan(), seen.model_copy(update={"cases": cases}), RULES)
    assert _warnings(_scan(), familiar).get("orientation") == words
    assert _warnings(_scan(dimensions=2), familiar) == {}


def test_where_all_orientations_are_known_none_is_said_to_be_missing() -> None:
    """Oblique stacks are not turned either."""
    warning = _warnings(_scan(), _trained_on("LPI", "SPR"))["orientation"]
    assert warning == "the scan is stored as SPL and predicted as it is, training cases as LPI, SPR"


@pytest.mark.parametrize(
    ("degrees", "orientation", "known", "words"),
    [
        (40, "SPL", ("SPL", "SPL"), None),
        (50, "SPL", ("SPL", "SPL"), "across the third axis of the network's input, those of the training cases across"),
        (50, "SPL", ("SPL", "LPI"), "slices lie across the third axis of the network's input"),
        (40, "SPL", ("SPL", "LPI"), None),
        (50, None, ("SPL", "LPI"), None),
    ],
)
def test_slices_across_another_axis_than_those_of_the_training_cases_are_described(
    degrees: float, orientation: str | None, known: tuple[str, str], words: str | None
) -> None:
    """A few degrees turn them; a training case that was itself turned so is no excuse."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    direction = (cosine, 0.0, sine, 0.0, 1.0, 0.0, -sine, 0.0, cosine)
    scan = Image(_scan().array, Geometry(spacing=(4.0, 1.0, 1.0), direction=direction))
    found = _warnings(scan, _trained_on(*known, spacing=(4.0, 1.0, 1.0), orientation=orientation))
    assert set(found) == (set() if words is None else {"slices"})
    assert words is None or words in found["slices"]


@pytest.mark.parametrize(
    ("scan", "spacing", "words"),
    [
        (_scan(spacing=(1.0, 3.1, 1.0)), (3.1, 1.0, 1.0), "across the first axis of the network's input"),
        (_scan(spacing=(1.0, 3.1, 1.0)), (3.1, 1.0, 1.0), "those of the training cases across the second"),
        (_scan(spacing=(1.0, 1.0, 3.1)), (3.1, 1.0, 1.0), "across the third axis"),
        (_scan(spacing=(3.1, 1.0, 1.0)), (3.1, 1.0, 1.0), None),
        (_scan(spacing=(1.0, 3.0, 1.0)), (3.1, 1.0, 1.0), None),
        (_scan(spacing=(1.0, 3.1, 1.0)), (3.0, 1.0, 1.0), None),
        (_scan(spacing=(1.0, 1.0, 1.0), shape=(12, 12, 1)), (3.1, 1.0, 1.0), "across the third axis"),
    ],
)
def test_slices_are_compared_in_the_order_that_the_network_sees(
    scan: Image, spacing: tuple[float, float, float], words: str | None
) -> None:
    """The plan's order is y, z, x here, and scans are taken as they are stored."""
    familiar = _trained_on(None, None, spacing=spacing, transpose=(1, 0, 2))
    found = _warnings(scan, familiar)
    assert ("slices" in found) == (words is not None)
    assert words is None or words in found["slices"]


def test_slices_across_any_axis_of_the_training_cases_are_like_them() -> None:
    """Stacks that one orientation does not turn, and which lie across different axes as they are stored."""
    seen = _trained_on("SPL", "SPL", spacing=(4.0, 1.0, 1.0), orientation="SPL")
    coronal = seen.fingerprint.cases[1].model_copy(update={"spacing": (1.0, 4.0, 1.0)})
    mixed = replace(
        seen, fingerprint=seen.fingerprint.model_copy(update={"cases": (seen.fingerprint.cases[0], coronal)})
    )
    assert "slices" not in _warnings(_scan(spacing=(1.0, 4.0, 1.0)), mixed)
    assert "across the first or second" in _warnings(_scan(spacing=(1.0, 1.0, 4.0)), mixed)["slices"]


def test_a_scan_without_orientation_is_described_where_the_training_data_have_one() -> None:
    oriented = Familiar(plan().model_copy(update={"orientation": "SPL"}), fingerprint(), RULES)
    assert _warnings(_scan(), oriented) == {}
    ((about, warning),) = _warnings(_scan(dimensions=2), oriented).items()
    assert about == "orientation"
    assert "states no orientation" in warning
    assert _warnings(_scan(dimensions=2)) == {}


@pytest.mark.parametrize(
    ("organ_ml", "lesion_ml", "words"),
    [
        (0.2, 0.02, None),
        (0.067, 0.0, None),
        (0.89, 0.059, None),
        (0.0, 0.02, "no organ was found, which every training case has (0.2 to 0.3 ml)"),
        (0.06, 0.02, "volume of organ is 0.06 ml, that of the training cases 0.2 to 0.3 ml"),
        (0.91, 0.02, "volume of organ is 0.91 ml"),
        (0.2, 0.061, "volume of lesion is 0.061 ml, that of the training cases 0.02 to 0.02 ml"),
    ],
)
def test_volumes_are_compared(organ_ml: float, lesion_ml: float, words: str | None) -> None:
    found = unlike_result({"organ": organ_ml, "lesion": lesion_ml}, FAMILIAR)
    assert len(found) == (words is not None)
    assert words is None or words in next(iter(found.values()))
