import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from autoseg.core.geometry import Geometry, Shape
from autoseg.core.labels import declare_labels
from autoseg.data.image import Image, LabelImage
from autoseg.data.store import CaseProperties
from autoseg.infer import export, merging
from autoseg.infer.export import decide_classes, output_orders, restore_label
from autoseg.infer.merging import Part, Shelter
from autoseg.infer.tiles import Computing, Tiling, predict_parts
from autoseg.network.unet import UNet
from autoseg.preprocess.case import prepare_case
from tests.infer.logits import predict_logits
from tests.preprocess.plans import RESAMPLING, configuration, network, plan

LINEAR = (1, 1, 1)


def _logits(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _parts(logits: Tensor, thickness: int = 100, width: int = 100, rows_at_once: int = 100) -> list[Part]:
    """Cut logits as a front does: layer after layer, in each strip after strip, in each some rows after others."""
    _, num_rows, num_columns, _ = logits.shape
    places = [
        (slice(first, min(first + rows_at_once, layer + thickness, num_rows)), slice(left, left + width))
        for layer in range(0, num_rows, thickness)
        for left in range(0, num_columns, width)
        for first in range(layer, min(layer + thickness, num_rows), rows_at_once)
    ]
    return [
        Part(rows, slice(columns.start, min(columns.stop, num_columns)), logits[:, rows, columns])
        for rows, columns in places
    ]


def _properties(cropped_spacing: tuple[float, float, float]) -> CaseProperties:
    return CaseProperties(
        name="la",
        geometry=Geometry(spacing=cropped_spacing),
        original_shape=(4, 4, 4),
        transpose=(0, 1, 2),
        crop_box=((0, 4), (0, 4), (0, 4)),
        cropped_shape=(4, 4, 4),
        cropped_spacing=cropped_spacing,
        stored_shape=(4, 4, 4),
    )


@pytest.mark.parametrize(
    ("spacing", "original", "expected"),
    [
        ((1.0, 1, 1), (3, 1, 1), (1, 1, 1)),
        ((1.0, 1, 1), (4, 1, 1), (0, 1, 1)),
        ((4.0, 1, 1), (1, 1, 1), (0, 1, 1)),
        ((1.0, 1), (7, 2, 2), (0, 1, 1)),
        ((1.0, 1), (2, 2, 2), (1, 1, 1)),
    ],
)
def test_a_coarse_axis_takes_the_nearest_slice(
    spacing: tuple[float, ...], original: tuple[float, float, float], expected: tuple[int, ...]
) -> None:
    assert output_orders(_properties(original), spacing, RESAMPLING) == expected


@pytest.mark.parametrize("block_voxels", [128, 2**15])
@pytest.mark.parametrize(("thickness", "width", "rows_at_once"), [(1, 9, 1), (4, 2, 3), (6, 1, 6), (12, 4, 5)])
@pytest.mark.parametrize("shape", [(12, 9, 14), (30, 20, 25), (5, 4, 3), (12, 20, 7), (1, 1, 1)])
def test_part_by_part_equals_the_plain_way(
    monkeypatch: pytest.MonkeyPatch, shape: Shape, thickness: int, width: int, rows_at_once: int, block_voxels: int
) -> None:
    monkeypatch.setattr(export, "BLOCK_VOXELS", block_voxels)
    logits = _logits(5, 12, 9, 14)
    plain = functional.interpolate(logits[None], size=shape, mode="trilinear", align_corners=False)[0]
    classes = decide_classes(_parts(logits, thickness, width, rows_at_once), (12, 9, 14), shape, LINEAR)
    assert classes.shape == shape
    best = plain.topk(2, dim=0).values
    is_clear = (best[0] - best[1] > 1e-5).numpy()
    assert is_clear.mean() > 0.99
    assert np.array_equal(classes[is_clear], plain.argmax(dim=0).numpy()[is_clear])


def test_a_coarse_axis_repeats_its_slices() -> None:
    logits = _logits(3, 4, 5, 6)
    classes = decide_classes(_parts(logits), (4, 5, 6), (8, 5, 6), (0, 1, 1))
    assert np.array_equal(classes, np.repeat(logits.argmax(dim=0).numpy(), 2, axis=0))


def test_cubic_outputs_need_rows_of_several_parts() -> None:
    logits = _logits(3, 40, 5, 6)
    whole = decide_classes(_parts(logits), (40, 5, 6), (50, 5, 6), (3, 1, 1))
    assert np.array_equal(decide_classes(_parts(logits, 1), (40, 5, 6), (50, 5, 6), (3, 1, 1)), whole)


def test_the_lower_class_wins_a_tie() -> None:
    assert (decide_classes(_parts(torch.zeros(3, 2, 2, 2)), (2, 2, 2), (4, 4, 4), LINEAR) == 0).all()


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    decide_classes(_parts(_logits(2, 2, 2, 2)), (2, 2, 2), (4, 4, 4), LINEAR)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("orders", [LINEAR, (3, 3, 3)])
@pytest.mark.parametrize("painted", [(), (1, 3, 2)])
@pytest.mark.parametrize("shape", [(8, 8, 8), (4, 4, 4)])
def test_logits_must_be_finite_numbers(
    value: float, orders: tuple[int, ...], painted: tuple[int, ...], shape: Shape
) -> None:
    """One of another class than that which wins; half precision gives infinity where it overflows."""
    logits = _logits(3, 4, 4, 4)
    logits[0] += 100
    logits[1, 2, 2, 2] = value
    with pytest.raises(FloatingPointError, match="logits must be finite numbers, got infinity or NaN"):
        decide_classes(_parts(logits), (4, 4, 4), shape, orders, painted)


def test_more_than_256_classes_fit() -> None:
    logits = torch.zeros(300, 1, 1, 2)
    logits[299, 0, 0, 1] = 1
    assert decide_classes(_parts(logits), (1, 1, 2), (1, 1, 2), LINEAR).tolist() == [[[0, 299]]]


def _phantom(shape: Shape, spacing: tuple[float, float, float]) -> tuple[Image, LabelImage]:
    """A ball (value 1) with a core (value -3) in an image that is zero around it."""
    grids = np.meshgrid(*(np.arange(size) - size / 2 for size in shape), indexing="ij")
    radius = np.sqrt(sum((grid * step) ** 2 for grid, step in zip(grids, spacing, strict=True)))
    extent = min(size * step for size, step in zip(shape, spacing, strict=True))
    values = np.select([radius < 0.2 * extent, radius < 0.35 * extent], [-3, 1], 0).astype(np.int16)
    image = np.where(radius < 0.45 * extent, 100 + values, 0).astype(np.float32)
    geometry = Geometry(spacing=spacing, origin=(1, 2, 3))
    return Image(image[None], geometry), LabelImage(values, geometry)


def _one_hot(indices: np.ndarray, num_classes: int) -> Tensor:
    return functional.one_hot(torch.from_numpy(np.maximum(indices, 0).astype(np.int64)), num_classes).movedim(-1, 0)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
def test_preparing_and_restoring_gives_the_label_back(transpose: tuple[int, int, int]) -> None:
    labels = declare_labels({0: "background", 1: "rim", -3: "core"})
    image, label = _phantom((20, 24, 28), (1, 1, 1))
    the_plan = plan(transpose, labels)
    prepared, indices = prepare_case(image, label, the_plan, configuration(), "la")
    properties = prepared.properties
    assert properties.cropped_shape != properties.original_shape
    orders = output_orders(properties, (1.0, 1, 1), RESAMPLING)
    parts = _parts(_one_hot(indices, 3).float(), 3)
    classes = decide_classes(parts, properties.stored_shape, properties.cropped_shape, orders)
    restored = restore_label(classes, properties, labels)
    assert restored.dtype == np.int8
    assert np.array_equal(restored, label.array)


@pytest.mark.parametrize(
    ("spacing", "target", "threshold"),
    [
        ((1.0, 1.0, 1.0), (1.5, 1.4, 1.3), 0.9),
        ((1.0, 1.0, 1.0), (0.7, 0.6, 0.8), 0.97),
        ((4.0, 1.0, 1.0), (4.0, 1.3, 1.3), 0.94),
        ((4.0, 1.0, 1.0), (2.0, 0.8, 0.8), 0.97),
        ((2.0, 1.0, 1.0), (1.3, 1.3), 0.94),
    ],
)
def test_resampling_there_and_back_keeps_the_shapes(
    spacing: tuple[float, float, float], target: tuple[float, ...], threshold: float
) -> None:
    labels = declare_labels({0: "background", 1: "rim", -3: "core"})
    image, label = _phantom((24, 48, 48), spacing)
    settings = configuration(target, (8,) * len(target))
    prepared, indices = prepare_case(image, label, plan(labels=labels), settings, "la")
    properties = prepared.properties
    orders = output_orders(properties, target, RESAMPLING)
    classes = decide_classes(
        _parts(_one_hot(indices, 3).float()), properties.stored_shape, properties.cropped_shape, orders
    )
    restored = restore_label(classes, properties, labels)
    assert restored.shape == label.array.shape
    for value in (1, -3):
        found, expected = restored == value, label.array == value
        assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > threshold


def test_regions_paint_over_each_other_in_order() -> None:
    """Voxel by voxel: nothing, the first alone, the second alone, both (the second covers), a tie at zero."""
    logits = torch.tensor([[-1.0, 2, -1, 5, 0], [-1.0, -1, 1, 1, 0]]).view(2, 1, 1, 5)
    classes = decide_classes(_parts(logits), (1, 1, 5), (1, 1, 5), LINEAR, painted=(3, 1))
    assert classes.ravel().tolist() == [0, 3, 1, 1, 0]


@pytest.mark.parametrize("thickness", [1, 5, 12])
def test_regions_are_painted_after_resampling(thickness: int) -> None:
    logits = _logits(2, 12, 9, 14)
    resampled = functional.interpolate(logits[None], (20, 15, 11), mode="trilinear", align_corners=False)[0]
    expected = np.where(resampled[1] > 0, 2, np.where(resampled[0] > 0, 1, 0))
    classes = decide_classes(_parts(logits, thickness), (12, 9, 14), (20, 15, 11), LINEAR, painted=(1, 2))
    assert (classes != expected).mean() < 1e-3


def test_regions_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(FloatingPointError, match="must be finite numbers"):
        decide_classes(_parts(torch.full((2, 2, 2, 2), torch.nan)), (2, 2, 2), (4, 4, 4), LINEAR, painted=(1, 2))


@pytest.mark.parametrize("part_bytes", [1, 20_000, 2**25])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_tiles_to_classes_equals_the_plain_way(
    monkeypatch: pytest.MonkeyPatch, part_bytes: int, order: tuple[int, int, int]
) -> None:
    """Merge all tiles in one array, resample it, take the best class; and part by part. Only ties may differ."""
    monkeypatch.setattr(merging, "PART_BYTES", part_bytes)
    torch.manual_seed(0)
    networks = [UNet(network(num_outputs=5)).eval()]
    image, shape = torch.randn(1, 30, 37, 21, generator=torch.Generator().manual_seed(0)), (41, 30, 55)
    tiling = Tiling(patch_size=(16, 8, 8), step=0.5, gaussian_sigma=0.125, mirror_axes=(0, 2), batch_size=3)
    cpu = torch.device("cpu")
    computing = Computing(cpu, "float32", Shelter(cpu))
    logits = predict_logits(networks, image, tiling, computing)
    plain = functional.interpolate(logits[None], size=shape, mode="trilinear", align_corners=False)[0]
    swept = [tuple(sizes[axis] for axis in order) for sizes in (image.shape[1:], shape)]
    parts = predict_parts(networks, image, tiling, computing, order)
    classes = decide_classes(parts, swept[0], swept[1], LINEAR).transpose(np.argsort(order))
    best = plain.topk(2, dim=0).values
    is_clear = (best[0] - best[1] > 1e-5).numpy()
    assert is_clear.mean() > 0.999
    assert np.array_equal(classes[is_clear], plain.argmax(dim=0).numpy()[is_clear])
