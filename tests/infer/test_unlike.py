"""Both sides of every threshold; the training data are those of `tests.pipeline.models.fingerprint`."""

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
