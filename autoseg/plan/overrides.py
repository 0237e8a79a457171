"""Values that a user sets; the rules decide the rest around them."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from autoseg.core.artefact import Record
from autoseg.core.errors import PlanError
from autoseg.plan.rules import Rules

OPTIONS = {
    "target_spacing": "--spacing",
    "patch": "--patch-size",
    "batch_size": "--batch-size",
    "sizing.gpu_memory_gb": "--gpu-memory",
    "mirror_axes": "--mirror-axes",
}
"""Command line option by the rule that it overrides."""

Axis: TypeAlias = Literal["z", "y", "x"]


class Overrides(Record):
    """What a user sets; None leaves it to the rules.

    Attributes:
        spacing: Full-resolution spacing, (z, y, x) as the images are stored, in mm.
        patch_size: In voxels, in the plan's order of axes; two entries set that of `2d`, three those of the others.
        batch_size: Of every configuration; the patch shrinks until such a batch fits.
        gpu_memory_gb: Memory of the device; the preset's reference scales in proportion.
        mirror_axes: Axes of the images as stored along which training and prediction mirror; empty for none.
    """

    spacing: tuple[float, float, float] | None = None
    patch_size: Annotated[tuple[int, ...], Field(min_length=2, max_length=3)] | None = None
    batch_size: int | None = None
    gpu_memory_gb: float | None = None
    mirror_axes: tuple[Axis, ...] | None = None

    def patch_for(self, num_axes: int) -> tuple[int, ...] | None:
        """Return the patch that is set for networks of so many axes."""
        return self.patch_size if self.patch_size is not None and len(self.patch_size) == num_axes else None


def apply_overrides(rules: Rules, overrides: Overrides) -> Rules:
    """Return the rules with memory and batch size as the user set them.

    Raises:
        PlanError: If a value is not above zero.
    """
    require_positive(overrides)
    inferred = rules.inferred
    sizing, batch = inferred.sizing, inferred.batch_size
    if (memory := overrides.gpu_memory_gb) is not None:
        sizing = sizing.model_copy(update={"gpu_memory_gb": memory})
    if (size := overrides.batch_size) is not None:
        sizing = sizing.model_copy(update={"guarded_batch_2d": size, "guarded_batch_3d": size})
        batch = batch.model_copy(update={"min": size, "max_2d": size, "max_3d": size})
    changed = inferred.model_copy(update={"sizing": sizing, "batch_size": batch})
    return rules.model_copy(update={"inferred": changed})


def require_positive(overrides: Overrides) -> None:
    """Refuse values of zero and below.

    Raises:
        PlanError: Naming the option.
    """
    for option, value in (
        ("--spacing", overrides.spacing),
        ("--patch-size", overrides.patch_size),
        ("--batch-size", overrides.batch_size),
        ("--gpu-memory", overrides.gpu_memory_gb),
    ):
        values = value if isinstance(value, tuple) else (value,)
        if any(entry is not None and not entry > 0 for entry in values):
            raise PlanError(f"{option}: must be above zero, got {value}. Correct it or leave it out.")
