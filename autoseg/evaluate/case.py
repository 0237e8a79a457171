"""All scores of one case."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.core.geometry import Shape, Spacing
from autoseg.core.labels import Labels
from autoseg.evaluate.lesions import detect_lesions
from autoseg.evaluate.metrics import Overlap, blank_ignored, overlaps, region_mask, volume_ml
from autoseg.evaluate.scores import ClassScores
from autoseg.evaluate.surface import surface_distances
from autoseg.plan.rules import EvaluationRules

Slices = tuple[slice, ...]


def score_case(
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    spacing_mm: Spacing,
    labels: Labels,
    rules: EvaluationRules,
    num_threads: int = 1,
) -> dict[str, ClassScores]:
    """Return the scores of one case by the name of every foreground class or region; only annotated voxels count.

    Args:
        prediction: Class indices, (Z, Y, X).
        reference: Class indices of the same shape, `labels.num_classes` where nothing is annotated.
        spacing_mm: (z, y, x), in mm.
        labels: Classes to score.
        rules: Tolerance of the surface Dice, overlap of matching lesions.
        num_threads: That score classes side by side.

    Raises:
        ValueError: If the shapes differ or an index is no class.
    """
    prediction, reference = blank_ignored(prediction, reference, labels.num_classes)
    found = overlaps(prediction, reference, labels.num_classes, labels.members)
    boxes = class_boxes((prediction, reference), labels)

    def score(members: Sequence[int], box: Slices, overlap: Overlap) -> ClassScores:
        masks = region_mask(prediction[box], members), region_mask(reference[box], members)
        return score_masks(*masks, spacing_mm, overlap, rules)

    with ThreadPoolExecutor(num_threads) as pool:
        scores = pool.map(score, labels.members, boxes, found)
        return {label.name: scored for label, scored in zip(labels.foreground, scores, strict=True)}


def score_masks(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing_mm: Spacing,
    overlap: Overlap,
    rules: EvaluationRules,
) -> ClassScores:
    """Return the scores of a class.

    Args:
        prediction: Mask, (Z, Y, X); background around both masks may be cut off.
        reference: Mask of the same shape.
        spacing_mm: (z, y, x), in mm.
        overlap: Of the two masks.
        rules: Tolerance of the surface Dice, overlap of matching lesions.
    """
    surfaces = surface_distances(prediction, reference, spacing_mm)
    lesions = detect_lesions(prediction, reference, rules.min_lesion_iou)
    predicted_ml = volume_ml(overlap.prediction_voxels, spacing_mm)
    reference_ml = volume_ml(overlap.reference_voxels, spacing_mm)
    return ClassScores(
        dice=overlap.dice,
        iou=overlap.iou,
        true_positives=overlap.true_positives,
        false_positives=overlap.false_positives,
        false_negatives=overlap.false_negatives,
        prediction_ml=predicted_ml,
        reference_ml=reference_ml,
        volume_error_ml=predicted_ml - reference_ml,
        relative_volume_error=(predicted_ml - reference_ml) / reference_ml if reference_ml else None,
        hd95_mm=surfaces.hd95_mm,
        average_surface_distance_mm=surfaces.average_mm,
        surface_dice=surfaces.surface_dice(rules.tolerance_mm),
        predicted_lesions=lesions.predicted,
        reference_lesions=lesions.reference,
        matched_lesions=lesions.matched,
        lesion_precision=lesions.precision,
        lesion_recall=lesions.recall,
        lesion_f1=lesions.f1,
    )


def class_boxes(maps: Sequence[NDArray[np.integer]], labels: Labels) -> list[Slices]:
    """Return, for every foreground class or region, a box that holds its voxels in all of the maps.

    It is the smallest but for a margin of one voxel, so that a class of one slice is seen to lie in a volume. A class
    without voxels has an empty box.

    Args:
        maps: Class indices, all of one shape.
        labels: Classes.
    """
    found = [ndimage.find_objects(indices, labels.num_classes - 1) for indices in maps]
    shape = maps[0].shape
    boxes = []
    for members in labels.members:
        parts = [box for by_class in found for index in members if index and (box := by_class[index - 1]) is not None]
        boxes.append(_joined(parts, shape) if parts else (slice(0, 0),) * len(shape))
    return boxes


def _joined(boxes: Sequence[Slices], shape: Shape) -> Slices:
    """Return the box around boxes, and a voxel around that where there is one."""
    return tuple(
        slice(max(min(part.start for part in axis) - 1, 0), min(max(part.stop for part in axis) + 1, size))
        for axis, size in zip(zip(*boxes, strict=True), shape, strict=True)
    )
