from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.core.errors import ArtefactError
from autoseg.core.geometry import Geometry
from autoseg.core.labels import declare_labels, declare_regions
from autoseg.core.orientation import Turn
from autoseg.data.store import CaseProperties
from autoseg.infer.maps import entropy_of, observing, place_in_scan, probabilities_of, read_probabilities

CLASSES = declare_labels({0: "background", 1: "organ", 5: "lesion"})
REGIONS = declare_regions({"whole": (1, 2), "core": (2,)}, (1, 2))
SHAPE = (7, 9, 8)


def _properties(turn: Turn = Turn()) -> CaseProperties:  # noqa: B008 - a frozen value
    sizes = [SHAPE[axis] for axis in turn.axes]
    box = tuple((1, size - 2) for size in sizes)
    return CaseProperties.model_validate(
        {
            "name": "scan",
            "geometry": Geometry(spacing=(2.0, 1.0, 1.0), origin=(5.0, 6.0, 7.0)),
            "original_shape": SHAPE,
            "transpose": turn.axes,
            "flipped": turn.flipped,
            "crop_box": box,
            "cropped_shape": tuple(size - 3 for size in sizes),
            "cropped_spacing": (1.0, 1.0, 1.0),
            "stored_shape": tuple(size - 3 for size in sizes),
        }
    )


@pytest.mark.parametrize("turn", [Turn(), Turn((2, 0, 1)), Turn((1, 2, 0), (0, 2)), Turn((0, 1, 2), (0, 1, 2))])
def test_parts_of_the_turned_box_find_their_place(turn: Turn) -> None:
    volume = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    properties = _properties(turn)
    box = tuple(slice(first, last) for first, last in properties.crop_box)
    cropped = turn.apply(volume)[box]
    place = (slice(1, 3), slice(0, 2), slice(2, 4))
    np.testing.assert_array_equal(volume[place_in_scan(place, properties)], turn.undo(cropped[place]))


def test_entropy_is_none_for_sure_and_one_for_nothing_known() -> None:
    logits = torch.tensor([[0.0, 90.0], [0.0, 0.0], [0.0, 0.0]])[:, None, None, :]
    found = entropy_of(probabilities_of(logits, CLASSES), CLASSES)
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.0]]]))
    logits = torch.tensor([[0.0, 90.0, 0.0], [0.0, -90.0, 90.0]])[:, None, None, :]
    found = entropy_of(probabilities_of(logits, REGIONS), REGIONS)
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.0, 0.5]]]))


def test_regions_are_named_and_absent_outside_of_the_box(tmp_path: Path) -> None:
    path = tmp_path / "a.probabilities.b2nd"
    properties = _properties()
    with observing({"probabilities": path}, properties, REGIONS) as observe:
        assert observe is not None
        observe((slice(0, 4), slice(0, 6), slice(0, 5)), torch.full((2, 4, 6, 5), 90.0))
        assert not path.exists()
    found = read_probabilities(path, "core")
    expected = np.zeros(SHAPE, np.float16)
    expected[1:5, 1:7, 1:6] = 1
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ArtefactError, match="class must be one of whole, core, got rim"):
        read_probabilities(path, "rim")


def test_nothing_asked_for_needs_no_observer(tmp_path: Path) -> None:
    with observing({"disagreement": tmp_path / "a.nii.gz"}, _properties(), CLASSES) as observe:
        assert observe is None
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.b2nd").write_bytes(b"no array")
    with pytest.raises(ArtefactError, match=r"a\.b2nd: must hold probabilities"):
        read_probabilities(tmp_path / "a.b2nd", "organ")
