"""The embedded dataset: scans made from a seed, hard enough that a mistake anywhere in the pipeline lowers the Dice.

Each scan shows an organ with a lesion in or at it, in a body with decoys: blobs as bright as the organ but smaller, and
spots as bright as the lesion but away from the organ, so that no threshold separates the classes. Spacing is
anisotropic and differs per scan, sizes are odd and even, a third of the scans lie oblique in space, a sixth have no
lesion, intensities have an arbitrary scale, a bias field and noise, and the label values are not consecutive.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from autoseg.core.artefact import replacing
from autoseg.core.geometry import Geometry
from autoseg.core.seeding import generator
from autoseg.data.image import Image, LabelImage, write_image, write_label

ORGAN = 1
LESION = 4

NUM_TEST_CASES = 4
LESION_MISSING_EVERY = 6
OBLIQUE_EVERY = 3

COARSE_SPACING_MM = (2.6, 3.5)
FINE_SPACING_MM = (1.05, 1.35)
NUM_SLICES = (16, 24)
NUM_ROWS = (44, 70)

BODY, TISSUE_STD, ORGAN_BRIGHTNESS, LESION_BRIGHTNESS = 0.40, 0.03, 0.60, 0.86
NOISE_STD = 0.05
BIAS_STD = 0.10
SCALE = (300.0, 1200.0)

Volume = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Grid:
    """Voxel grid of a scan and the position of its voxels.

    Attributes:
        shape: (z, y, x), in voxels.
        spacing: (z, y, x), in mm.
        position_mm: (3, Z, Y, X), distance from the centre of the grid along each axis.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    position_mm: Volume


def make_phantom(folder: Path, seed: int, num_cases: int = 24) -> Path:
    """Write the phantom as a dataset in the Decathlon layout and return its folder.

    Scans for testing lie in `imagesTs`, their labels in `labelsTs`. The same arguments give the same files; a folder
    that holds them already is left alone.

    Args:
        folder: Where to write; made if it is missing.
        seed: Seed of everything random; a scan depends on it and on its own number alone.
        num_cases: Number of training cases, at least 1.

    Raises:
        ValueError: If `num_cases` is below 1.
    """
    if num_cases < 1:
        raise ValueError(f"num_cases must be at least 1, got {num_cases}")
    document = json.dumps(_description(seed, num_cases), indent=1) + "\n"
    index = folder / "dataset.json"
    parts = ["Tr"] * num_cases + ["Ts"] * NUM_TEST_CASES
    files = [
        (folder / f"images{part}" / _file_name(number), folder / f"labels{part}" / _file_name(number))
        for number, part in enumerate(parts)
    ]
    is_known = index.exists() and index.read_text(encoding="utf-8") == document
    if is_known and all(path.exists() for pair in files for path in pair):
        return folder
    for number, (image_path, label_path) in enumerate(files):
        image, label = phantom_case(seed, number)
        write_image(image_path, image)
        write_label(label_path, label)
    with replacing(index) as temporary:
        temporary.write_text(document, encoding="utf-8")
    return folder


def phantom_case(seed: int, number: int) -> tuple[Image, LabelImage]:
    """Return scan `number` of the phantom and its label map.

    Returns:
        Image, (1, Z, Y, X) with whole numbers, and label map, (Z, Y, X) with values 0, `ORGAN` and `LESION`.
    """
    rng = generator(seed, "phantom", number)
    grid = _draw_grid(rng)
    centre, radii = _draw_organ_place(rng)
    organ = _blob(grid, centre, radii, roughness=0.12, rng=rng)
    lesion = _draw_lesion(grid, centre, radii, rng)
    if number % LESION_MISSING_EVERY == LESION_MISSING_EVERY - 2:
        lesion[:] = False
    decoys, spots = _draw_decoys(grid, organ | lesion, rng)

    clean = BODY + TISSUE_STD * _smooth_field(grid, 6.0, rng)
    clean[organ | decoys] = ORGAN_BRIGHTNESS
    clean[organ] += TISSUE_STD * _smooth_field(grid, 2.5, rng)[organ]
    clean[lesion | spots] = LESION_BRIGHTNESS
    label = np.where(lesion, LESION, np.where(organ, ORGAN, 0)).astype(np.uint8)

    scan = _acquire(clean, grid, rng)
    geometry = _draw_geometry(grid, oblique=number % OBLIQUE_EVERY == 1, rng=rng)
    return Image(array=scan[None].astype(np.float32), geometry=geometry), LabelImage(array=label, geometry=geometry)


def _draw_grid(rng: np.random.Generator) -> _Grid:
    fine = float(rng.uniform(*FINE_SPACING_MM))
    spacing = (float(rng.uniform(*COARSE_SPACING_MM)), fine, fine)
    shape = (
        int(rng.integers(*NUM_SLICES, endpoint=True)),
        int(rng.integers(*NUM_ROWS, endpoint=True)),
        int(rng.integers(*NUM_ROWS, endpoint=True)),
    )
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, spacing, strict=True)]
    return _Grid(shape=shape, spacing=spacing, position_mm=np.stack(np.meshgrid(*axes, indexing="ij")))


def _draw_organ_place(rng: np.random.Generator) -> tuple[Volume, Volume]:
    """Return centre and radii of the organ, (z, y, x) in mm."""
    return rng.uniform(-7.0, 7.0, 3), rng.uniform(11.0, 16.0, 3)


def _draw_lesion(grid: _Grid, organ_centre: Volume, organ_radii: Volume, rng: np.random.Generator) -> Mask:
    """Return a lesion whose centre lies in the organ, at up to its border."""
    towards = rng.normal(size=3)
    towards *= rng.uniform(0.3, 0.95) / np.linalg.norm(towards)
    centre = organ_centre + towards * organ_radii
    return _blob(grid, centre, rng.uniform(4.5, 6.5, 3), roughness=0.08, rng=rng)


def _draw_decoys(grid: _Grid, taken: Mask, rng: np.random.Generator) -> tuple[Mask, Mask]:
    """Return blobs as bright as the organ and spots as bright as the lesion, clear of what is taken by 4 mm or more."""
    distance_mm = ndimage.distance_transform_edt(~taken, sampling=grid.spacing)
    free = np.asarray(distance_mm) > 4.0
    reach = np.array([(size - 1) / 2 * step for size, step in zip(grid.shape, grid.spacing, strict=True)])
    blobs, spots = np.zeros(grid.shape, dtype=bool), np.zeros(grid.shape, dtype=bool)
    for _ in range(int(rng.integers(3, 6))):
        blobs |= _blob(grid, rng.uniform(-reach, reach), rng.uniform(3.5, 6.5, 3), roughness=0.15, rng=rng)
    for _ in range(int(rng.integers(1, 4))):
        spots |= _blob(grid, rng.uniform(-reach, reach), rng.uniform(2.5, 4.0, 3), roughness=0.08, rng=rng)
    return blobs & free, spots & free


def _blob(grid: _Grid, centre_mm: Volume, radii_mm: Volume, roughness: float, rng: np.random.Generator) -> Mask:
    """Return an ellipsoid whose surface is displaced by a smooth field, by `roughness` of its radius in the mean."""
    relative = (grid.position_mm - centre_mm.reshape(3, 1, 1, 1)) / radii_mm.reshape(3, 1, 1, 1)
    displaced = 1.0 + roughness * _smooth_field(grid, 5.0, rng)
    inside: Mask = np.linalg.norm(relative, axis=0) < displaced
    return inside


def _smooth_field(grid: _Grid, smoothness_mm: float, rng: np.random.Generator) -> Volume:
    """Return Gaussian noise of mean 0 and standard deviation 1, smooth over a length in mm."""
    noise = rng.normal(size=grid.shape)
    field = np.asarray(ndimage.gaussian_filter(noise, [smoothness_mm / step for step in grid.spacing], mode="nearest"))
    result: Volume = (field - field.mean()) / field.std()
    return result


def _acquire(clean: Volume, grid: _Grid, rng: np.random.Generator) -> Volume:
    """Return what a scanner shows of a clean scan: bias field, Rician noise, an arbitrary scale, whole numbers."""
    biased = clean * np.exp(BIAS_STD * _smooth_field(grid, 15.0, rng))
    real, imaginary = rng.normal(scale=NOISE_STD, size=(2, *grid.shape))
    scan: Volume = np.round(np.hypot(biased + real, imaginary) * rng.uniform(*SCALE))
    return scan


def _draw_geometry(grid: _Grid, *, oblique: bool, rng: np.random.Generator) -> Geometry:
    """Return a place in space; an oblique one is turned by 10 to 25 degrees about a random axis."""
    axis = rng.normal(size=3)
    angle = np.radians(rng.uniform(10.0, 25.0)) if oblique else 0.0
    direction = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    return Geometry(
        spacing=grid.spacing,
        origin=tuple(rng.uniform(-100.0, 100.0, 3).round(3).tolist()),
        direction=tuple(direction.ravel().tolist()),
    )


def _description(seed: int, num_cases: int) -> dict[str, object]:
    training = [_file_name(number) for number in range(num_cases)]
    test = [_file_name(number) for number in range(num_cases, num_cases + NUM_TEST_CASES)]
    return {
        "name": "Phantom",
        "description": f"Made by autoseg from seed {seed}: an organ with a lesion among decoys.",
        "reference": "autoseg",
        "licence": "CC0-1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", str(ORGAN): "organ", str(LESION): "lesion"},
        "numTraining": len(training),
        "numTest": len(test),
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in training],
        "test": [f"./imagesTs/{name}" for name in test],
    }


def _file_name(number: int) -> str:
    return f"phantom_{number:03d}.nii.gz"
