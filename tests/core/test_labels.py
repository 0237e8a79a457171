import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg.core.labels import Labels, declare_labels, declare_regions

GAPPED = declare_labels({0: "background", 7: "organ", -3: "vessel", 300: "lesion"})


def test_classes_follow_in_ascending_value() -> None:
    assert GAPPED.values == (0, -3, 7, 300)
    assert [label.name for label in GAPPED.foreground] == ["vessel", "organ", "lesion"]
    assert GAPPED.num_classes == 4


@pytest.mark.parametrize(
    ("names", "values", "background"),
    [
        ({0: "background", 1: "organ"}, (0, 1), "background"),
        ({1: "organ"}, (0, 1), "background"),
        ({0: "air", 1: "organ"}, (0, 1), "air"),
        ({0: "organ", 5: "Background"}, (5, 0), "Background"),
        ({-1: "background", 0: "organ", 1: "vessel"}, (-1, 0, 1), "background"),
    ],
)
def test_the_background_comes_first(names: dict[int, str], values: tuple[int, ...], background: str) -> None:
    labels = declare_labels(names)
    assert labels.values == values
    assert labels.classes[0].name == background


def test_names_must_differ() -> None:
    with pytest.raises(ValueError, match="class names must differ"):
        declare_labels({0: "background", 1: "organ", 2: "organ"})


def test_ignored_voxels_are_no_class() -> None:
    labels = declare_labels({0: "background", 7: "organ", 3: "Ignore", -1: "vessel"})
    assert (labels.values, labels.ignored, labels.num_classes) == ((0, -1, 7), 3, 3)
    assert labels.to_indices(np.array([0, -1, 3, 7])).tolist() == [0, 1, 3, 2]
    assert labels.declared_values == (0, -1, 7, 3)
    assert labels.undeclared(np.array([3, 4])) == (4.0,)


def test_the_background_cannot_be_ignored() -> None:
    with pytest.raises(ValueError, match="ignore must have another value than the background, got 0"):
        declare_labels({0: "ignore", 1: "organ"})


def test_regions_are_learnt_instead_of_classes() -> None:
    labels = declare_regions({"whole": [7, 3], "core": [7]}, painted=[3, 7], ignored=9)
    assert (labels.values, labels.ignored, labels.num_outputs) == ((0, 3, 7), 9, 2)
    assert [region.name for region in labels.foreground] == ["whole", "core"]
    assert labels.members == ((1, 2), (2,))
    assert labels.painted == (1, 2)


def test_labels_in_words() -> None:
    regions = declare_regions({"whole": [7, 3], "core": [7]}, painted=[3, 7], ignored=9)
    assert regions.summary == "0 background, 7 + 3 whole, 7 core, 9 ignore"
    assert GAPPED.summary == "0 background, -3 vessel, 7 organ, 300 lesion"


def test_classes_are_regions_of_one_class() -> None:
    assert GAPPED.members == ((1,), (2,), (3,))
    assert (GAPPED.painted, GAPPED.num_outputs) == ((), 4)


@pytest.mark.parametrize(
    ("regions", "painted", "words"),
    [
        ({}, [], "got none"),
        ({"whole": [1, 2], "core": [2]}, [1], r"each of the 2 regions must be painted with a value, got \[1\]"),
        ({"whole": [1, 2]}, [3], r"whole must be painted with one of its values \[1, 2\], got 3"),
        ({"whole": [0, 1]}, [1], r"whole must consist of values of classes, got \[0, 1\]"),
        ({"whole": [1, 9]}, [1], r"whole must consist of values of classes, got \[1, 9\]"),
    ],
)
def test_regions_that_cannot_be_painted(regions: dict[str, list[int]], painted: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        declare_regions(regions, painted, ignored=9)


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.int32, np.float32, np.float64])
def test_values_become_indices_and_values_again(dtype: type[np.generic]) -> None:
    values = np.array([[0, 7, -3], [300, 300, 0]]).astype(dtype)
    indices = GAPPED.to_indices(values)
    assert indices.dtype == np.uint16
    assert indices.tolist() == [[0, 2, 1], [3, 3, 0]]
    assert np.array_equal(GAPPED.to_values(indices), values)


def test_three_hundred_classes() -> None:
    labels = declare_labels({0: "background"} | {3 * index: f"class {index}" for index in range(1, 300)})
    values = np.random.default_rng(0).permutation(300) * 3
    indices = labels.to_indices(values)
    assert np.array_equal(indices, values // 3)
    assert np.array_equal(labels.to_values(indices), values)
    assert labels.dtype == np.uint16


@pytest.mark.parametrize(
    ("values", "unknown"),
    [
        (np.array([0, 7, 8, 300, -4, 8]), (-4.0, 8.0)),
        (np.array([0, 6.5, 7]), (6.5,)),
        (np.array([[0, 7], [-3, 300]]), ()),
        (np.array([], dtype=np.int16), ()),
    ],
)
def test_undeclared_values_are_found(values: NDArray[np.generic], unknown: tuple[float, ...]) -> None:
    assert GAPPED.undeclared(values) == unknown


@pytest.mark.parametrize("value", [1, 301, -4, 6.5, np.nan])
def test_an_undeclared_value_has_no_index(value: float) -> None:
    with pytest.raises(ValueError, match="label values must be among"):
        GAPPED.to_indices(np.array([0, value]))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ((0, 1), np.uint8),
        ((0, 255), np.uint8),
        ((0, 256), np.uint16),
        ((0, 70_000), np.uint32),
        ((-1, 0, 1), np.int8),
        ((-1, 0, 200), np.int16),
        ((-1, 0, 40_000), np.int32),
    ],
)
def test_the_smallest_type_holds_every_value(values: tuple[int, ...], dtype: type[np.generic]) -> None:
    labels: Labels = declare_labels({value: f"class {value}" for value in values})
    assert labels.dtype == dtype
    indices = labels.to_indices(np.array(values))
    assert labels.to_values(indices).tolist() == list(values)
