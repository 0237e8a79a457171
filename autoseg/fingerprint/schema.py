"""Figures of a dataset and of its cases."""

from autoseg.core.artefact import Artefact, Record
from autoseg.core.orientation import Orientation


class IntensityStatistics(Record):
    """Intensities of one channel over the foreground of a dataset; every case weighs the same, whatever its size."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


class ClassFingerprint(Record):
    """One class in one case.

    Attributes:
        name: Of the class.
        num_voxels: Voxels of the class.
        num_components: Connected parts; voxels that share a face, an edge or a corner are connected.
        volume_mm3: Volume of the class.
        mean: Mean intensity per channel; empty if the class is absent.
        std: Standard deviation of the intensity per channel; empty if the class is absent.
    """

    name: str
    num_voxels: int
    num_components: int
    volume_mm3: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class CaseFingerprint(Record):
    """One case.

    Attributes:
        name: Of the case.
        shape: As stored, (z, y, x), in voxels.
        cropped_shape: Of the box around all voxels that are non-zero in any channel, (z, y, x), in voxels.
        spacing: (z, y, x), in mm.
        left_right_axis: Axis of the array along which the patient's left and right lie, 0 to 2; None if not known.
        foreground_extent_mm: Size of the box around all foreground, (z, y, x); zeros if there is none.
        orientation: Sides of the patient to which the axes (z, y, x) run, such as `SPL`; None if not known.
        classes: Foreground classes, in the order of their indices.
    """

    name: str
    shape: tuple[int, int, int]
    cropped_shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    left_right_axis: int | None
    foreground_extent_mm: tuple[float, float, float]
    orientation: Orientation | None = None
    classes: tuple[ClassFingerprint, ...]


class ClassFrequency(Record):
    """One class over the dataset.

    Attributes:
        name: Of the class.
        case_share: Share of the cases that contain it.
        voxel_share: Share of the cropped cases' voxels that belong to it.
        median_volume_mm3: Among the cases that contain it; 0 if none does.
        median_components: Among the cases that contain it; 0 if none does.
    """

    name: str
    case_share: float
    voxel_share: float
    median_volume_mm3: float
    median_components: float


class Fingerprint(Artefact):
    """What a dataset is.

    Attributes:
        dataset: Its name.
        channels: Names of the channels.
        cases: In the order of the dataset.
        intensities: Foreground statistics, one entry per channel.
        median_relative_size_after_cropping: Median over cases of cropped voxels / stored voxels.
        frequencies: Foreground classes over the dataset.
    """

    dataset: str
    channels: tuple[str, ...]
    cases: tuple[CaseFingerprint, ...]
    intensities: tuple[IntensityStatistics, ...]
    median_relative_size_after_cropping: float
    frequencies: tuple[ClassFrequency, ...]
