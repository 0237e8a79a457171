"""Configurations that segment a scan together: the mean of their probabilities decides.

Where two label maps agree, the mean of what they come from agrees too; so only voxels where they differ are averaged.
The probabilities of one scan wait in temporary files, in half precision, where each class takes room in the parts of
the scan that it may be in; they are gone as soon as the scan is done.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.core.geometry import Shape
from autoseg.data.image import LabelImage
from autoseg.infer.case import Model, Onlooker, Settings, predict_classes
from autoseg.infer.export import Observe, Place, restore_label
from autoseg.preprocess.case import Prepared

SMALLEST_PROBABILITY = 2.0**-14
"""Of half precision's full accuracy; a class that has less in a whole part of a scan counts as 0 there."""

CHUNK_VOXELS = 2**16
"""Voxels that are decided together."""


@dataclass(frozen=True)
class Member:
    """A configuration of an ensemble, and a scan as it sees it.

    Attributes:
        prepared: The scan.
        model: Networks and plan.
        settings: Device, precision, mirroring, batch.
    """

    prepared: Prepared
    model: Model
    settings: Settings


def segment_together(
    members: Sequence[Member],
    wanted: Sequence[Sequence[int]],
    report: Callable[[float], None] = lambda _: None,
    onlooker: Onlooker | None = None,
) -> list[LabelImage]:
    """Return the label map of a scan by each of several ensembles, on the scan's grid; each member predicts once.

    Args:
        members: Configurations of one plan, each with the same scan.
        wanted: Of each ensemble, the numbers of its members; a member may also stand alone.
        report: Called with every further share of the work that is done; the shares sum to 1.
        onlooker: Is shown the logarithms of the mean probabilities of the first ensemble as logits.

    Raises:
        PredictionError: If a network's output is no number.
    """
    properties, labels = members[0].prepared.properties, members[0].model.plan.labels
    onlooker = onlooker or Onlooker()
    scratch = members[0].settings.scratch
    averaged = {number for together in wanted if len(together) > 1 for number in together}
    if onlooker.observe is not None:
        averaged |= set(wanted[0])
    with ExitStack() as stack:
        fields = {
            number: stack.enter_context(_Field(labels.num_outputs, properties.cropped_shape, labels.painted, scratch))
            for number in sorted(averaged)
        }
        classes = [
            predict_classes(
                member.prepared,
                member.model,
                member.settings,
                partial(_report_part, report, 1 / len(members)),
                Onlooker(fields[number].keep if number in fields else None, onlooker.stopwatch),
            )
            for number, member in enumerate(members)
        ]
        found = [
            _joined([classes[number] for number in together], [fields[number] for number in together], labels.painted)
            if len(together) > 1
            else classes[together[0]]
            for together in wanted
        ]
        if onlooker.observe is not None:
            _show([fields[number] for number in wanted[0]], onlooker.observe, labels.painted)
    return [LabelImage(restore_label(indices, properties, labels), properties.geometry) for indices in found]


class _Field:
    """The probabilities of one scan, (outputs, z, y, x), in a file that is gone with it.

    What is never written takes no room on file systems that know holes.
    """

    def __init__(self, num_outputs: int, shape: Shape, painted: Sequence[int], scratch: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed by __exit__
        self._painted = painted
        self.probabilities = np.memmap(self._file, np.float16, "w+", shape=(num_outputs, *shape))

    def __enter__(self) -> "_Field":
        return self

    def __exit__(self, *_: object) -> None:
        del self.probabilities
        self._file.close()

    def keep(self, place: Place, logits: Tensor) -> None:
        """Keep a part of the scan, (outputs, z, y, x)."""
        found = logits.sigmoid() if self._painted else logits.softmax(dim=0)
        highest = found.flatten(1).amax(dim=1)
        for number in (highest >= SMALLEST_PROBABILITY).nonzero().flatten().tolist():
            self.probabilities[number][place] = found[number].half().cpu().numpy()

    def at(self, voxels: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the probabilities of some voxels, (outputs, voxels)."""
        flat = self.probabilities.reshape(len(self.probabilities), -1)
        return np.stack([row[voxels] for row in flat]).astype(np.float32)


def _joined(
    classes: Sequence[NDArray[np.integer]], fields: Sequence[_Field], painted: Sequence[int]
) -> NDArray[np.integer]:
    """Return the class at every voxel by the mean of the probabilities, the lower one in a tie."""
    joined = np.ascontiguousarray(classes[0]).copy()
    differs = np.zeros(joined.shape, dtype=bool)
    for other in classes[1:]:
        differs |= other != classes[0]
    voxels = np.flatnonzero(differs)
    flat = joined.reshape(-1)
    for first in range(0, len(voxels), CHUNK_VOXELS):
        chosen = voxels[first : first + CHUNK_VOXELS]
        total = fields[0].at(chosen)
        for field in fields[1:]:
            total += field.at(chosen)
        total /= len(fields)
        flat[chosen] = _decided(total, painted)
    return joined


def _show(fields: Sequence[_Field], observe: Observe, painted: Sequence[int]) -> None:
    """Show the mean probabilities, slice by slice, as logits that give them back."""
    _, rows, columns, lines = fields[0].probabilities.shape
    for row in range(rows):
        place = slice(row, row + 1), slice(0, columns), slice(0, lines)
        parts = [torch.from_numpy(field.probabilities[(slice(None), *place)].astype(np.float32)) for field in fields]
        mean = torch.stack(parts).mean(dim=0)
        observe(place, mean.logit(SMALLEST_PROBABILITY**2) if painted else mean.clamp(SMALLEST_PROBABILITY**2).log())


def _decided(probabilities: NDArray[np.float32], painted: Sequence[int]) -> NDArray[np.integer]:
    """Return the class of each voxel: the most probable, or that of the last region more probable than not."""
    if not painted:
        most_probable: NDArray[np.integer] = probabilities.argmax(axis=0)
        return most_probable
    decided = np.zeros(probabilities.shape[1], dtype=np.int64)
    for region, paint in zip(probabilities, painted, strict=True):
        decided[region > 0.5] = paint
    return decided


def _report_part(report: Callable[[float], None], part: float, share: float) -> None:
    report(part * share)
