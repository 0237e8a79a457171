"""A scan that is stored another way is segmented the same way: 48 orientations, oblique directions, uneven spacings."""

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.core.geometry import Geometry
from autoseg.core.orientation import orientation_of
from autoseg.data.image import Image, read_image, write_image, write_label
from autoseg.infer.case import Model, Settings
from autoseg.infer.predictor import Predictor
from autoseg.network.unet import UNet
from autoseg.plan.schema import ConfigurationPlan
from tests.preprocess.plans import channel, configuration, network, plan

SETTINGS = Settings(device=torch.device("cpu"), precision="float32", mirror=False, batch_size=1)
SHAPE, SPACING = (11, 14, 9), (2.5, 0.8, 1.1)
OBLIQUE = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [-0.25, 1.0, 0.15], [0.1, -0.1, 1.0]]))[0]
OBLIQUE *= np.sign(np.diag(OBLIQUE))
ORIENTATIONS = list(product(permutations(range(3)), product((False, True), repeat=3)))


def _scan(direction: np.ndarray) -> Image:
    """Return noise with blobs, so that an untrained network finds no symmetry in it."""
    rng = np.random.default_rng(0)
    array = rng.normal(0, 1, SHAPE).astype(np.float32)
    array[3:8, 2:7, 4:8] += 3
    array[:2] = 0
    return Image(
        array[None], Geometry(spacing=SPACING, origin=(5, -7, 30), direction=tuple(direction.ravel().tolist()))
    )


def _stored_anew(image: Image, axes: tuple[int, ...], flips: tuple[bool, ...]) -> Image:
    """Return the same scan in space with its array axes, (z, y, x), in another order and some of them backwards."""
    volume = sitk.GetImageFromArray(image.array[0])
    volume.SetSpacing(image.geometry.spacing[::-1])
    volume.SetOrigin(image.geometry.origin)
    volume.SetDirection(image.geometry.direction)
    order = [2 - axis for axis in axes[::-1]]
    turned = sitk.Flip(sitk.PermuteAxes(volume, order), flips[::-1])
    geometry = Geometry(
        spacing=turned.GetSpacing()[::-1], origin=turned.GetOrigin(), direction=tuple(turned.GetDirection())
    )
    return Image(sitk.GetArrayFromImage(turned)[None], geometry)


def _predictor(settings: ConfigurationPlan, orientation: str | None) -> Predictor:
    torch.manual_seed(0)
    unet = UNet(network(len(settings.patch_size))).eval()
    the_plan = plan((1, 0, 2)).model_copy(update={"orientation": orientation})
    return Predictor(Model(the_plan, settings, (unet,)), SETTINGS)


@pytest.mark.parametrize("direction", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize(("spacing", "patch"), [((1.0, 2.0, 1.0), (8, 8, 8)), ((2.0, 1.0), (8, 8))], ids=["3d", "2d"])
def test_a_scan_in_each_of_48_orientations_gives_the_same_mask_in_space(
    direction: np.ndarray, spacing: tuple[float, ...], patch: tuple[int, ...]
) -> None:
    image = _scan(direction)
    predictor = _predictor(configuration(spacing, patch, (channel("zscore"),)), orientation_of(image.geometry))
    expected = predictor.predict(image).array
    assert len(np.unique(expected)) == 3
    seen = set()
    for axes, flips in ORIENTATIONS:
        anew = _stored_anew(image, axes, flips)
        label = predictor.predict(anew)
        seen.add(orientation_of(anew.geometry))
        assert label.geometry == anew.geometry
        turned = np.flip(expected.transpose(axes), tuple(axis for axis, flip in enumerate(flips) if flip))
        assert np.array_equal(label.array, turned)
    assert len(seen) == 48


def test_without_an_orientation_scans_are_taken_as_stored() -> None:
    image = _scan(np.eye(3))
    predictor = _predictor(configuration(patch_size=(8, 8, 8), channels=(channel("zscore"),)), None)
    mirrored = predictor.predict(_stored_anew(image, (0, 1, 2), (False, False, True))).array
    assert not np.array_equal(mirrored[:, :, ::-1], predictor.predict(image).array)
    bare = Image(image.array[:, :, :, ::-1].copy(), image.geometry)
    assert np.array_equal(predictor.predict(bare).array, mirrored)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(("axes", "flips"), [((0, 1, 2), (False,) * 3), ((2, 0, 1), (True, False, True))])
def test_files_overlay_their_scan(tmp_path: Path, suffix: str, axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    """SimpleITK and nibabel read the same grid from scan and mask, and find the same mask at every place."""
    image = _scan(OBLIQUE)
    predictor = _predictor(configuration((1.0, 2.0, 1.0), (8, 8, 8), (channel("zscore"),)), "SPL")
    expected = predictor.predict(image)
    scan, mask = tmp_path / f"scan{suffix}", tmp_path / f"mask{suffix}"
    write_image(scan, _stored_anew(image, axes, flips))
    write_label(mask, predictor.predict(read_image([scan])))
    first, second = sitk.ReadImage(str(scan)), sitk.ReadImage(str(mask))
    assert first.GetSize() == second.GetSize()
    assert first.GetSpacing() == second.GetSpacing()
    assert first.GetOrigin() == second.GetOrigin()
    assert first.GetDirection() == second.GetDirection()
    reference = sitk.GetImageFromArray(expected.array)
    reference.SetSpacing(SPACING[::-1])
    reference.SetOrigin(expected.geometry.origin)
    reference.SetDirection(expected.geometry.direction)
    at_same_places = sitk.Resample(second, reference, sitk.Transform(), sitk.sitkNearestNeighbor)
    assert np.array_equal(sitk.GetArrayFromImage(at_same_places), expected.array)
    if suffix == ".nii.gz":
        images = nibabel.load(scan), nibabel.load(mask)
        assert np.array_equal(images[0].affine, images[1].affine)
        assert images[0].shape == images[1].shape


def test_nibabel_finds_the_mask_of_all_48_orientations_in_the_same_place(tmp_path: Path) -> None:
    """Turned to RAS, the closest standard order, the masks of an oblique scan are one and the same array."""
    image = _scan(OBLIQUE)
    predictor = _predictor(
        configuration((1.0, 2.0, 1.0), (8, 8, 8), (channel("zscore"),)), orientation_of(image.geometry)
    )
    masks = []
    for axes, flips in ORIENTATIONS:
        scan, mask = tmp_path / "scan.nii", tmp_path / "mask.nii"
        write_image(scan, _stored_anew(image, axes, flips))
        write_label(mask, predictor.predict(read_image([scan])))
        assert np.array_equal(nibabel.load(scan).affine, nibabel.load(mask).affine)
        assert nibabel.load(scan).shape == nibabel.load(mask).shape
        turned = nibabel.as_closest_canonical(nibabel.load(mask))
        masks.append((turned.affine, np.asarray(turned.dataobj)))
    assert len(np.unique(masks[0][1])) == 3
    for affine, array in masks[1:]:
        assert np.allclose(affine, masks[0][0], atol=1e-4)
        assert np.array_equal(array, masks[0][1])
