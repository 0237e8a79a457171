import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autoseg.core.errors import ArtefactError
from autoseg.core.geometry import Box, Geometry
from autoseg.data import store
from autoseg.data.store import (
    OUTSIDE,
    CaseProperties,
    EarlierPrediction,
    annotated_voxels,
    foreground_voxels,
    open_case,
    read_earlier,
    read_patch,
    stored_earlier,
    stored_properties,
    write_case,
    write_earlier,
)
from tests.data.whole import whole


def _properties(label: NDArray[np.integer], num_classes: int = 3, name: str = "la.003") -> CaseProperties:
    counts = tuple(int((label == index).sum()) for index in range(num_classes))
    shape = (label.shape[0], label.shape[1], label.shape[2])
    return CaseProperties(
        name=name,
        geometry=Geometry(spacing=(3, 1, 1)),
        original_shape=shape,
        transpose=(0, 1, 2),
        crop_box=((0, shape[0]), (0, shape[1]), (0, shape[2])),
        cropped_shape=shape,
        cropped_spacing=(3, 1, 1),
        stored_shape=shape,
        num_voxels_per_class=counts,
    )


def _arrays(shape: tuple[int, int, int], channels: int = 2) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(channels, *shape)).astype(np.float32)
    return image, rng.integers(-1, 3, shape).astype(np.int16)


@pytest.mark.parametrize("shape", [(5, 7, 9), (40, 90, 100), (1, 700, 600)])
def test_a_stored_case_is_read_back_whole(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    image, label = _arrays(shape)
    properties = _properties(label)
    write_case(tmp_path, image, label, properties, (32, 32, 32))
    case = open_case(tmp_path, "la.003")
    assert np.array_equal(whole(case.image), image)
    assert np.array_equal(whole(case.label), label)
    assert case.properties == properties
    assert stored_properties(tmp_path, "la.003") == properties


@pytest.mark.parametrize(
    "box",
    [
        ((3, 11), (20, 52), (60, 92)),
        ((-4, 4), (-10, 100), (80, 120)),
        ((35, 60), (0, 90), (-8, 8)),
        ((50, 60), (0, 8), (0, 8)),
        ((-9, 0), (0, 8), (0, 8)),
    ],
)
def test_a_patch_equals_the_padded_array(tmp_path: Path, box: Box) -> None:
    image, label = _arrays((40, 90, 100))
    write_case(tmp_path, image, label, _properties(label), (16, 32, 32))
    case = open_case(tmp_path, "la.003")
    margin = 64
    inside = tuple(slice(first + margin, last + margin) for first, last in box)
    expected_image = np.pad(image, ((0, 0), *((margin, margin),) * 3))[(slice(None), *inside)]
    expected_label = np.pad(label, margin, constant_values=OUTSIDE)[inside]
    patch, patch_label = read_patch(case, box)
    assert np.array_equal(patch, expected_image)
    assert np.array_equal(patch_label, expected_label)


def test_many_classes_need_a_wider_type(tmp_path: Path) -> None:
    label = np.full((2, 2, 2), 199, dtype=np.int16)
    write_case(tmp_path, np.zeros((1, 2, 2, 2), np.float32), label, _properties(label, 200), (2, 2, 2))
    assert np.array_equal(whole(open_case(tmp_path, "la.003").label), label)


def test_few_voxels_of_a_class_are_all_kept(tmp_path: Path) -> None:
    image, label = _arrays((6, 7, 8))
    write_case(tmp_path, image, label, _properties(label), (4, 4, 4))
    for index in (1, 2):
        assert np.array_equal(foreground_voxels(tmp_path, "la.003", index), np.argwhere(label == index))


def test_absent_classes_have_no_voxels(tmp_path: Path) -> None:
    label = np.zeros((3, 3, 3), np.int16)
    write_case(tmp_path, np.zeros((1, 3, 3, 3), np.float32), label, _properties(label), (4, 4, 4))
    assert foreground_voxels(tmp_path, "la.003", 1).shape == (0, 3)


@pytest.mark.parametrize(("minimum", "share", "expected"), [(10, 0.01, 10), (10, 0.5, 500), (2000, 0.01, 1000)])
def test_positions_are_capped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minimum: int, share: float, expected: int
) -> None:
    monkeypatch.setattr(store, "MIN_VOXELS_KEPT", minimum)
    monkeypatch.setattr(store, "SHARE_KEPT", share)
    label = np.ones((10, 10, 10), np.int16)
    write_case(tmp_path, np.zeros((1, 10, 10, 10), np.float32), label, _properties(label), (4, 4, 4))
    positions = foreground_voxels(tmp_path, "la.003", 1)
    assert len(np.unique(positions, axis=0)) == expected
    write_case(tmp_path, np.zeros((1, 10, 10, 10), np.float32), label, _properties(label), (4, 4, 4))
    assert np.array_equal(foreground_voxels(tmp_path, "la.003", 1), positions)


def test_positions_of_annotated_voxels_are_kept_where_some_are_not(tmp_path: Path) -> None:
    image, label = _arrays((5, 7, 9))
    label[:, :, 2:] = 3
    properties = _properties(label).model_copy(update={"num_ignored_voxels": int((label == 3).sum())})
    write_case(tmp_path, image, label, properties, (4, 4, 4))
    assert np.array_equal(annotated_voxels(tmp_path, "la.003"), np.argwhere((label >= 0) & (label < 3)))
    assert len(foreground_voxels(tmp_path, "la.003", 3)) == 0


@pytest.mark.parametrize("suffix", [".json", ".image.b2nd", ".label.b2nd", ".voxels.npz"])
def test_a_case_without_one_of_its_files_does_not_count(tmp_path: Path, suffix: str) -> None:
    image, label = _arrays((4, 4, 4))
    write_case(tmp_path, image, label, _properties(label), (4, 4, 4))
    (tmp_path / f"la.003{suffix}").unlink()
    assert stored_properties(tmp_path, "la.003") is None


def test_a_broken_off_rewrite_leaves_no_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, label = _arrays((4, 4, 4))
    write_case(tmp_path, image, label, _properties(label), (4, 4, 4))

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_sample_voxels", fail)
    with pytest.raises(KeyboardInterrupt):
        write_case(tmp_path, 2 * image, label, _properties(label), (4, 4, 4))
    assert stored_properties(tmp_path, "la.003") is None
    assert not list(tmp_path.glob(".writing-*"))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    image, label = _arrays((4, 4, 4))
    write_case(tmp_path, image, label, _properties(label), (4, 4, 4))
    (tmp_path / "la.003.image.b2nd").write_bytes(b"not blosc")
    with pytest.raises(ArtefactError, match=r"la\.003\.image\.b2nd: must be"):
        open_case(tmp_path, "la.003")
    voxels = tmp_path / "la.003.voxels.npz"
    for damaged in (b"not npz", b"", voxels.read_bytes()[:-30]):
        voxels.write_bytes(damaged)
        with pytest.raises(ArtefactError, match=r"la\.003\.voxels\.npz: must be"):
            foreground_voxels(tmp_path, "la.003", 1)


@pytest.mark.parametrize("shape", [(1, 300, 200, 400), (2, 1, 900, 900), (500, 500, 500), (1, 40, 3000, 30)])
@pytest.mark.parametrize("patch", [(128, 128, 128), (1, 512, 512), (20, 320, 256)])
def test_blocks_fit_a_cache_and_lie_within_the_patch(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    chunks, blocks = store._chunks_and_blocks(shape, 4 * math.prod(shape), patch)
    assert chunks is not None
    assert blocks is not None
    assert math.prod(blocks) <= store.BLOCK_VOXELS
    for chunk, block, edge, size in zip(chunks[-3:], blocks[-3:], patch, shape[-3:], strict=True):
        assert block <= min(edge, size)
        assert block <= chunk <= min(2 * block, size)


@pytest.mark.parametrize("shape", [(5, 7, 9), (40, 90, 100)])
def test_the_prediction_of_an_earlier_stage_is_read_a_patch_at_a_time(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    image, label = _arrays(shape)
    properties = _properties(label)
    write_case(tmp_path, image, label, properties, (32, 32, 32))
    earlier = np.random.default_rng(1).integers(0, 3, shape).astype(np.uint8)
    write_earlier(tmp_path, properties, "3d_lowres", earlier, (32, 32, 32), {"weights": "abc"})
    case = open_case(tmp_path, "la.003", "3d_lowres")
    inside: Box = ((1, 4), (2, 6), (0, 9))
    assert np.array_equal(read_earlier(case, inside), earlier[1:4, 2:6, 0:9])
    beyond: Box = ((-2, 3), (0, 5), (4, 9))
    assert (read_earlier(case, beyond)[:2] == OUTSIDE).all()
    assert np.array_equal(read_earlier(case, beyond)[2:], earlier[:3, :5, 4:9])
    assert (read_earlier(case, ((-9, -4), (0, 5), (0, 5))) == OUTSIDE).all()
    assert stored_earlier(tmp_path, "la.003", "3d_lowres") == EarlierPrediction(made_from={"weights": "abc"})


def test_a_case_without_the_prediction_of_an_earlier_stage(tmp_path: Path) -> None:
    image, label = _arrays((5, 7, 9))
    write_case(tmp_path, image, label, _properties(label), (8, 8, 8))
    assert stored_earlier(tmp_path, "la.003", "3d_lowres") is None
    with pytest.raises(ArtefactError, match=r"la\.003\.3d_lowres\.b2nd"):
        open_case(tmp_path, "la.003", "3d_lowres")
    with pytest.raises(ValueError, match="must be opened with its earlier stage"):
        read_earlier(open_case(tmp_path, "la.003"), ((0, 1), (0, 1), (0, 1)))


@pytest.mark.parametrize("lost", ["la.003.3d_lowres.b2nd", "la.003.3d_lowres.json"])
def test_a_prediction_of_an_earlier_stage_that_is_not_whole_counts_as_missing(tmp_path: Path, lost: str) -> None:
    image, label = _arrays((5, 7, 9))
    properties = _properties(label)
    write_case(tmp_path, image, label, properties, (8, 8, 8))
    write_earlier(tmp_path, properties, "3d_lowres", np.zeros((5, 7, 9), np.uint8), (8, 8, 8), {"weights": "abc"})
    assert stored_earlier(tmp_path, "la.003", "3d_lowres") is not None
    (tmp_path / lost).unlink()
    assert stored_earlier(tmp_path, "la.003", "3d_lowres") is None
