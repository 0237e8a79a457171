"""All scores of a case, against plain implementations that know no trick."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import hausdorff_distance

from autoseg.core.labels import declare_labels, declare_regions
from autoseg.evaluate.case import class_boxes, score_case
from autoseg.evaluate.run import evaluation_rules
from autoseg.evaluate.scores import SCORES, ClassScores

RULES = evaluation_rules(1.4)
LABELS = declare_labels({1: "organ", 4: "lesion", 5: "absent"})


def _noise(seed: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return blobs of two classes of three."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), (0.7, 1.5, 1.5))
    classes: NDArray[np.uint8] = np.digitize(smooth, [0.08, 0.2]).astype(np.uint8)
    return classes


def _ball(shape: tuple[int, int, int], centre: tuple[int, int, int], radius: float) -> NDArray[np.uint8]:
    distance = np.linalg.norm(np.indices(shape) - np.reshape(centre, (3, 1, 1, 1)), axis=0)
    return np.where(distance <= radius, np.uint8(2), np.uint8(0))


def _only(row: int) -> NDArray[np.uint8]:
    return np.where(np.arange(9) == row, np.uint8(1), np.uint8(0))[:, None, None]


CASES = {
    "noise": (_noise(1, (9, 21, 17)), _noise(2, (9, 21, 17))),
    "noise like its reference": (_noise(1, (9, 21, 17)), np.roll(_noise(1, (9, 21, 17)), 1, axis=2)),
    "balls": (_ball((20, 24, 22), (9, 12, 10), 7), _ball((20, 24, 22), (11, 10, 12), 6)),
    "ball at the edge": (_ball((12, 24, 22), (0, 12, 10), 7), _ball((12, 24, 22), (2, 0, 12), 6)),
    "a slice in a volume": (_ball((9, 12, 12), (3, 6, 6), 5) * _only(4), _ball((9, 12, 12), (4, 6, 5), 5) * _only(4)),
    "slice": (_noise(3, (1, 30, 31)), _noise(4, (1, 30, 31))),
    "only the prediction": (_noise(1, (5, 9, 8)), np.zeros((5, 9, 8), dtype=np.uint8)),
    "only the reference": (np.zeros((5, 9, 8), dtype=np.uint8), _noise(1, (5, 9, 8))),
}
SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.9), (0.4, 3.1, 1.7)]


def _plain_surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    flat = mask.squeeze()
    return (flat & ~ndimage.binary_erosion(flat)).reshape(mask.shape)


def _plain_scores(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> dict[str, float | None]:
    """Return scores by distance transforms of the whole arrays and counts of whole masks."""
    voxel_ml = float(np.prod(spacing)) / 1000
    both = int((prediction & reference).sum())
    volumes = int(prediction.sum()), int(reference.sum())
    scores: dict[str, float | None] = {
        "dice": 2 * both / sum(volumes) if any(volumes) else None,
        "iou": both / (sum(volumes) - both) if any(volumes) else None,
        "volume_error_ml": (volumes[0] - volumes[1]) * voxel_ml,
        "relative_volume_error": volumes[0] / volumes[1] - 1 if volumes[1] else None,
        "hd95_mm": None,
        "average_surface_distance_mm": None,
        "surface_dice": 0.0 if any(volumes) else None,
    }
    if all(volumes):
        surfaces = [_plain_surface(mask) for mask in (prediction, reference)]
        far = [ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
        directed = [far[1][surfaces[0]], far[0][surfaces[1]]]
        every = np.concatenate(directed)
        scores["hd95_mm"] = max(np.percentile(distances, 95) for distances in directed)
        scores["average_surface_distance_mm"] = every.mean()
        scores["surface_dice"] = (every <= RULES.tolerance_mm).mean()
    return scores


def _is_close(found: ClassScores, expected: dict[str, float | None]) -> bool:
    values = {name: getattr(found, name) for name in expected}
    return all(
        values[name] is None if wanted is None else values[name] == pytest.approx(wanted, abs=1e-6)
        for name, wanted in expected.items()
    )


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_plain_implementations(name: str, spacing: tuple[float, float, float]) -> None:
    prediction, reference = CASES[name]
    scores = score_case(prediction, reference, spacing, LABELS, RULES)

    assert list(scores) == ["organ", "lesion", "absent"]
    for index, found in enumerate(scores.values(), start=1):
        assert _is_close(found, _plain_scores(prediction == index, reference == index, spacing))


@pytest.mark.parametrize("name", ["noise", "balls", "ball at the edge"])
def test_the_largest_distance_is_that_of_scikit_image(name: str) -> None:
    """Which gives the whole Hausdorff distance of voxels of one size; the 100th percentile of ours must be it."""
    from autoseg.evaluate.surface import surface_distances

    masks = [array == 2 for array in CASES[name]]
    distances = surface_distances(masks[0], masks[1], (1.0, 1.0, 1.0))
    surfaces = [_plain_surface(mask) for mask in masks]

    largest = max(distances.from_prediction_mm.max(), distances.from_reference_mm.max())
    assert largest == pytest.approx(hausdorff_distance(*surfaces), abs=1e-6)


def test_threads_give_the_same() -> None:
    prediction, reference = CASES["noise"]

    assert score_case(prediction, reference, SPACINGS[1], LABELS, RULES, 3) == score_case(
        prediction, reference, SPACINGS[1], LABELS, RULES
    )


def test_regions_are_scored_as_one_mask() -> None:
    labels = declare_regions({"whole": [1, 4], "core": [4]}, painted=[1, 4])
    prediction, reference = CASES["noise"]
    whole, core = score_case(prediction, reference, SPACINGS[1], labels, RULES).values()

    assert _is_close(whole, _plain_scores(prediction > 0, reference > 0, SPACINGS[1]))
    assert _is_close(core, _plain_scores(prediction == 2, reference == 2, SPACINGS[1]))


def test_only_annotated_voxels_count() -> None:
    prediction, reference = CASES["noise"]
    sparse = np.where(np.indices(reference.shape)[1] < 11, reference, LABELS.num_classes)
    scores = score_case(prediction, sparse, SPACINGS[1], LABELS, RULES)
    kept = np.where(sparse == LABELS.num_classes, 0, prediction), np.where(sparse == LABELS.num_classes, 0, reference)

    assert scores == score_case(*kept, SPACINGS[1], LABELS, RULES)
    assert scores != score_case(prediction, reference, SPACINGS[1], LABELS, RULES)


def test_what_empty_maps_give() -> None:
    """The table of docs/metrics.md."""
    empty = np.zeros((4, 5, 6), dtype=np.uint8)
    full = np.ones_like(empty)
    labels = declare_labels({1: "organ"})
    neither, missed, invented = (
        score_case(*maps, (2.0, 1.0, 1.0), labels, RULES)["organ"]
        for maps in ((empty, empty), (empty, full), (full, empty))
    )

    assert {name: getattr(neither, name) for name in SCORES} == dict.fromkeys(SCORES) | {"volume_error_ml": 0.0}
    zero = {"dice": 0.0, "iou": 0.0, "surface_dice": 0.0, "lesion_f1": 0.0}
    assert {name: getattr(missed, name) for name in SCORES} == dict.fromkeys(SCORES) | zero | {
        "volume_error_ml": -0.24,
        "relative_volume_error": -1.0,
        "lesion_recall": 0.0,
    }
    assert {name: getattr(invented, name) for name in SCORES} == dict.fromkeys(SCORES) | zero | {
        "volume_error_ml": 0.24,
        "lesion_precision": 0.0,
    }


def test_boxes_hold_a_class_in_every_map() -> None:
    maps = [np.zeros((4, 5, 6), dtype=np.uint8) for _ in range(2)]
    maps[0][1, 2, 3] = maps[1][3, 0, 3] = 1

    boxes = class_boxes(maps, LABELS)

    assert boxes[0] == (slice(0, 4), slice(0, 4), slice(2, 5))
    assert boxes[1] == (slice(0, 0),) * 3
