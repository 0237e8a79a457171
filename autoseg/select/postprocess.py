"""What may be done to label maps after prediction: keep largest components, remove small ones, fill holes.

Components are connected through faces, edges or corners; a hole is background that is enclosed by a class, seen through
faces alone. An axis of one voxel is no axis: a hole of a slice is enclosed in it.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from autoseg.core.artefact import Record
from autoseg.core.geometry import Spacing, num_voxels
from autoseg.core.labels import Labels
from autoseg.evaluate.case import class_boxes
from autoseg.evaluate.lesions import components
from autoseg.evaluate.metrics import region_mask


class Treatment(Record):
    """What is done to a class or region, in this order.

    Attributes:
        keeps_largest: Whether all but its largest component is removed.
        min_volume_mm3: Components smaller than this are removed, in mm3; 0 removes none.
        fills_holes: Whether background that it encloses is added to it.
    """

    keeps_largest: bool = False
    min_volume_mm3: float = 0.0
    fills_holes: bool = False

    @property
    def summary(self) -> str:
        """What is done, for people."""
        done = [
            *(["keep the largest component"] if self.keeps_largest else []),
            *([f"remove components below {self.min_volume_mm3:g} mm3"] if self.min_volume_mm3 else []),
            *(["fill holes"] if self.fills_holes else []),
        ]
        return ", ".join(done) or "nothing"


UNTREATED = Treatment()


class Postprocessing(Record):
    """What is done to a label map.

    Attributes:
        keeps_largest_foreground: Whether everything outside the largest component of all classes together is removed.
        classes: Treatment by name of the class or region, after that; others are left as they are.
    """

    keeps_largest_foreground: bool = False
    classes: dict[str, Treatment] = Field(default_factory=dict)

    @property
    def summary(self) -> tuple[str, ...]:
        """What is done, one sentence each; empty if nothing is."""
        whole = ("whole foreground: keep the largest component",) if self.keeps_largest_foreground else ()
        return whole + tuple(f"{name}: {treatment.summary}" for name, treatment in self.classes.items())


def treatments(min_volumes_mm3: tuple[float, ...]) -> tuple[Treatment, ...]:
    """Return what can be done to a class, the simplest first: fewer steps, then smaller volumes."""
    every = [
        Treatment(keeps_largest=largest, min_volume_mm3=volume, fills_holes=fills)
        for largest, volume, fills in product((False, True), (0.0, *sorted(min_volumes_mm3)), (False, True))
    ]
    return tuple(sorted(every, key=lambda one: one.keeps_largest + one.fills_holes + (one.min_volume_mm3 > 0)))


def postprocess(
    indices: NDArray[np.integer], spacing_mm: Spacing, labels: Labels, postprocessing: Postprocessing
) -> NDArray[np.integer]:
    """Return a label map after postprocessing.

    What is removed from a class becomes background; what is removed from a region becomes what the smallest region that
    strictly holds it paints, or else background. Holes of a region are painted as the region is.

    Args:
        indices: Class indices, (Z, Y, X).
        spacing_mm: (z, y, x), in mm.
        labels: Classes.
        postprocessing: What to do.
    """
    result = indices.copy()
    if postprocessing.keeps_largest_foreground:
        result[~largest_component(result > 0)] = 0
    painted = labels.painted or tuple(range(1, labels.num_classes))
    for label, members, paint in zip(labels.foreground, labels.members, painted, strict=True):
        treatment = postprocessing.classes.get(label.name, UNTREATED)
        if treatment == UNTREATED:
            continue
        part = result[dict(zip(labels.members, class_boxes([result], labels), strict=True))[members]]
        mask = region_mask(part, members)
        treated = treat(mask, part == 0, spacing_mm, treatment)
        part[mask & ~treated] = _left_behind(labels, members)
        part[treated & ~mask] = paint
    return result


def treat(
    mask: NDArray[np.bool_], background: NDArray[np.bool_], spacing_mm: Spacing, treatment: Treatment
) -> NDArray[np.bool_]:
    """Return a mask after its treatment.

    Args:
        mask: Of a class, (Z, Y, X), with a margin around it unless it ends with the scan.
        background: Where holes may be filled.
        spacing_mm: (z, y, x), in mm.
        treatment: What to do.
    """
    return Components(mask, background, spacing_mm).treated(treatment)


class Components:
    """The components of a mask, found once for any number of treatments.

    Args:
        mask: Of a class, (Z, Y, X), with a margin around it unless it ends with the scan.
        background: Where holes may be filled.
        spacing_mm: (z, y, x), in mm.
    """

    def __init__(self, mask: NDArray[np.bool_], background: NDArray[np.bool_], spacing_mm: Spacing) -> None:
        self._numbers, _ = components(mask)
        self._background = background
        self._sizes = np.bincount(self._numbers[mask], minlength=1)
        self._volumes_mm3 = self._sizes * num_voxels(spacing_mm)
        self._known: dict[tuple[bytes, bool], NDArray[np.bool_]] = {}

    def treated(self, treatment: Treatment) -> NDArray[np.bool_]:
        """Return the mask after a treatment; equal results are the same array."""
        kept = self._sizes > 0
        if treatment.keeps_largest and kept.any():
            kept = np.arange(len(kept)) == np.argmax(self._sizes)
        kept &= self._volumes_mm3 >= treatment.min_volume_mm3
        key = (kept.tobytes(), treatment.fills_holes)
        if key not in self._known:
            mask = kept[self._numbers]
            self._known[key] = mask | (holes(mask) & self._background) if treatment.fills_holes else mask
        return self._known[key]


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest component of a mask, (Z, Y, X), the first of several; nothing if the mask is empty.

    Voxels are connected through faces, edges or corners.
    """
    numbers, count = components(mask)
    largest: NDArray[np.bool_] = numbers == np.bincount(numbers[mask]).argmax() if count else mask
    return largest


def holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what a mask, (Z, Y, X), encloses: no way through faces leads out. An axis of one voxel is no axis."""
    flat = mask.reshape([size for size in mask.shape if size > 1] or [-1])
    outside, _ = ndimage.label(np.pad(~flat, 1, constant_values=True))
    enclosed: NDArray[np.bool_] = (outside != outside[(0,) * flat.ndim]) & (outside > 0)
    return enclosed[(slice(1, -1),) * flat.ndim].reshape(mask.shape)


def _left_behind(labels: Labels, members: tuple[int, ...]) -> int:
    """Return the class of what is removed from a region."""
    if not labels.regions:
        return 0
    around = [
        (len(other), paint)
        for other, paint in zip(labels.members, labels.painted, strict=True)
        if set(members) < set(other) and paint not in members
    ]
    return min(around)[1] if around else 0
