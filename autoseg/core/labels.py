"""Label maps: any integer values in files, consecutive class indices for the network."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.core.artefact import Record

IGNORE = "ignore"
"""Name of the value of voxels that are not annotated."""


class LabelClass(Record):
    """A class: its name and its value in label files."""

    name: str
    value: int


class Region(Record):
    """Classes that are learnt and scored as one: its name, their values, and which of these a prediction is given."""

    name: str
    values: tuple[int, ...]
    painted: int


class Labels(Record):
    """The classes of a dataset; index 0 is the background, the rest follows in ascending value.

    Class indices, 0 to `num_classes` - 1, are what networks, losses and metrics see. Values are what files hold. Voxels
    without annotation are no class; in arrays of class indices they hold `num_classes`.

    Attributes:
        classes: Background first.
        ignored: Value of voxels that are not annotated; None where all are.
        regions: What is learnt instead of the classes, in the order in which predictions are painted; they may overlap,
            and each class but the background is in one at least. Empty where the classes are learnt.
    """

    classes: tuple[LabelClass, ...]
    ignored: int | None = None
    regions: tuple[Region, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.classes)

    @property
    def foreground(self) -> tuple[LabelClass | Region, ...]:
        """What is learnt and scored: the regions, or else all classes but the background, by index."""
        return self.regions or self.classes[1:]

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """Class indices of each entry of `foreground`."""
        if not self.regions:
            return tuple((index,) for index in range(1, self.num_classes))
        return tuple(tuple(sorted(self.values.index(value) for value in region.values)) for region in self.regions)

    @property
    def painted(self) -> tuple[int, ...]:
        """Class index that each region is given in a prediction; empty where the classes are learnt."""
        return tuple(self.values.index(region.painted) for region in self.regions)

    @property
    def num_outputs(self) -> int:
        """Outputs of a network: one per region, or else one per class, background included."""
        return len(self.regions) or self.num_classes

    @property
    def values(self) -> tuple[int, ...]:
        """Value of each class index."""
        return tuple(label.value for label in self.classes)

    @property
    def declared_values(self) -> tuple[int, ...]:
        """What label files may hold: the value of each class index and, after them, of voxels without annotation."""
        return self.values if self.ignored is None else (*self.values, self.ignored)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Smallest integer type that holds the value of every class."""
        lowest, highest = min(self.values), max(self.values)
        return np.min_scalar_type(highest if lowest >= 0 else min(lowest, -highest - 1))

    @property
    def summary(self) -> str:
        """Every value with what it stands for, for people."""
        named = [f"{label.value} {label.name}" for label in (self.classes[:1] if self.regions else self.classes)]
        named += [f"{' + '.join(map(str, region.values))} {region.name}" for region in self.regions]
        return ", ".join(named if self.ignored is None else [*named, f"{self.ignored} {IGNORE}"])

    def undeclared(self, values: NDArray[np.generic]) -> tuple[float, ...]:
        """Return the distinct entries of an array that are not declared, in ascending order."""
        present = np.unique(values)
        return tuple(float(value) for value in present[~np.isin(present, self.declared_values)])

    def to_indices(self, values: NDArray[np.generic]) -> NDArray[np.uint16]:
        """Return the class index of every voxel, `num_classes` where it is not annotated.

        Args:
            values: Label values as in files, any shape, any numeric type.

        Raises:
            ValueError: If a value is not declared.
        """
        order = np.argsort(self.declared_values)
        ordered = np.asarray(self.declared_values)[order]
        place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
        if (ordered[place] != values).any():
            raise ValueError(f"label values must be among {self.declared_values}, got {self.undeclared(values)}")
        return order.astype(np.uint16)[place]

    def to_values(self, indices: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return the file value of every class index, in the smallest type that holds all values."""
        table: NDArray[np.integer] = np.asarray(self.values).astype(self.dtype)
        values: NDArray[np.integer] = table[indices]
        return values


def declare_labels(names: dict[int, str]) -> Labels:
    """Return the labels for names by value; the class named background, or else value 0, becomes index 0.

    A background that is not declared is added with value 0. The name ignore stands for voxels without annotation.

    Raises:
        ValueError: If two classes share a name, or nothing is left for the background.
    """
    named = dict(names)
    ignored = next((value for value, name in names.items() if name.lower() == IGNORE), None)
    if ignored is not None:
        del named[ignored]
    background = next((value for value, name in named.items() if name.lower() == "background"), 0)
    background_name = named.pop(background, "background")
    if background == ignored:
        raise ValueError(f"{IGNORE} must have another value than the background, got {ignored} for both")
    if len(set(names.values())) != len(names):
        raise ValueError(f"class names must differ, got {sorted(names.values())}")
    foreground = tuple(LabelClass(name=named[value], value=value) for value in sorted(named))
    return Labels(classes=(LabelClass(name=background_name, value=background), *foreground), ignored=ignored)


def declare_regions(
    regions: Mapping[str, Sequence[int]], painted: Sequence[int], background: int = 0, ignored: int | None = None
) -> Labels:
    """Return the labels for regions, by name the values that they consist of.

    Args:
        regions: At least one, in the order in which predictions are painted: later ones cover earlier ones.
        painted: For each region, which of its values a prediction is given.
        background: Value of voxels in no region.
        ignored: Value of voxels that are not annotated.

    Raises:
        ValueError: If a region is empty, is painted with a value that it does not have, or has that of the background
            or of voxels without annotation.
    """
    if not regions:
        raise ValueError("a region besides the background must be declared, got none")
    if len(painted) != len(regions):
        raise ValueError(f"each of the {len(regions)} regions must be painted with a value, got {list(painted)}")
    for (name, values), value in zip(regions.items(), painted, strict=True):
        if value not in values:
            raise ValueError(f"{name} must be painted with one of its values {list(values)}, got {value}")
        if background in values or ignored in values:
            raise ValueError(f"{name} must consist of values of classes, got {list(values)}")
    present = sorted({value for values in regions.values() for value in values})
    classes = (LabelClass(name=f"label {value}", value=value) for value in present)
    return Labels(
        classes=(LabelClass(name="background", value=background), *classes),
        ignored=ignored,
        regions=tuple(
            Region(name=name, values=tuple(values), painted=value)
            for (name, values), value in zip(regions.items(), painted, strict=True)
        ),
    )
