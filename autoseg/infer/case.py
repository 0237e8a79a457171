"""One prepared scan becomes a label map."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoseg.core.errors import PredictionError
from autoseg.core.geometry import Shape, Spacing
from autoseg.core.stopwatch import Stopwatch
from autoseg.data.image import Image, LabelImage
from autoseg.infer.export import Observe, Place, decide_classes, output_orders, restore_label
from autoseg.infer.merging import Shelter
from autoseg.infer.tiles import Computing, Tiling, predict_parts, sweep_order
from autoseg.network.cascade import ReadsEarlierStage
from autoseg.network.device import Precision, best_precision
from autoseg.plan.schema import ConfigurationPlan, Plan
from autoseg.preprocess.case import Prepared, prepare_image


@dataclass(frozen=True)
class Model:
    """Trained networks and what they need to know.

    Attributes:
        plan: Labels, order of axes, tiling.
        configuration: The one that the networks belong to.
        networks: One per fold, evaluating; the mean of their logits counts.
        earlier: The stage before it in a cascade, whose prediction these networks refine; None for none.
    """

    plan: Plan
    configuration: ConfigurationPlan
    networks: tuple[nn.Module, ...]
    earlier: "Model | None" = None


@dataclass(frozen=True)
class Settings:
    """Where and how carefully a model is run.

    Attributes:
        device: Where networks run and tiles are merged; the networks are there.
        precision: In which the networks compute.
        mirror: Whether the mean over the mirror images that the configuration allows is taken.
        batch_size: Tiles that a network sees at once.
        merges_on_cpu: Whether tiles are merged on the CPU, wherever networks run.
        merging_bytes: Largest memory for merging; what goes beyond waits on disk. None for no limit.
        scratch: Folder for what waits on disk; None for the system's folder of temporary files.
    """

    device: torch.device
    precision: Precision
    mirror: bool
    batch_size: int
    merges_on_cpu: bool = False
    merging_bytes: int | None = None
    scratch: Path | None = None


@dataclass(frozen=True)
class Onlooker:
    """Who sees what comes about while a scan is segmented.

    Attributes:
        observe: Is shown the logits of every part of the cropped box, on the grid before resampling.
        stopwatch: Is told what the networks take (`network`), and in a cascade the stages before (`earlier stage`).
    """

    observe: Observe | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)


def default_settings(device: torch.device, configuration: ConfigurationPlan) -> Settings:
    """Return mirroring, the fastest precision of the device, and on a GPU the batch that fits it in training."""
    batch_size = configuration.batch_size if device.type == "cuda" else 1
    return Settings(device=device, precision=best_precision(device), mirror=True, batch_size=batch_size)


def prepare_scan(image: Image, model: Model, name: str) -> Prepared:
    """Return a scan as the networks of a model, and of the stages before it, see it; for errors see `prepare_image`."""
    prepared = prepare_image(image, model.plan, model.configuration, name)
    return prepared if model.earlier is None else replace(prepared, earlier=prepare_scan(image, model.earlier, name))


def segment(
    prepared: Prepared,
    model: Model,
    settings: Settings,
    report: Callable[[float], None] = lambda _: None,
    onlooker: Onlooker | None = None,
) -> LabelImage:
    """Return the label map of a prepared scan on its original grid.

    Args:
        prepared: As the model's configuration, and those of the stages before it, see it.
        model: Networks and plan.
        settings: Device, precision, mirroring, batch.
        report: Called with every further share of the work that is done; the shares sum to 1.
        onlooker: Sees what comes about on the way.

    Raises:
        PredictionError: If the networks' output is no number.
    """
    properties = prepared.properties
    indices = predict_classes(prepared, model, settings, report, onlooker)
    return LabelImage(restore_label(indices, properties, model.plan.labels), properties.geometry)


def predict_classes(
    prepared: Prepared,
    model: Model,
    settings: Settings,
    report: Callable[[float], None] = lambda _: None,
    onlooker: Onlooker | None = None,
) -> NDArray[np.uint8 | np.uint16]:
    """Return the class index of every voxel of the box that was cropped from a scan, (Z, Y, X), transposed axes.

    The stages of a cascade follow each other: what the earlier one predicts is one more channel of the later one.

    Raises:
        PredictionError: If the networks' output is no number.
    """
    onlooker = onlooker or Onlooker()
    if model.earlier is None:
        return _classes_seen(prepared, model, settings, report, onlooker)
    assert prepared.earlier is not None
    voxels = math.prod(prepared.earlier.properties.stored_shape), math.prod(prepared.properties.stored_shape)
    earlier_part, own_part = (partial(_report_part, report, number / sum(voxels)) for number in voxels)
    grid = prepared.properties.stored_shape, model.configuration.spacing
    with onlooker.stopwatch.measure("earlier stage"):
        earlier = predict_classes_on(grid, prepared.earlier, model.earlier, settings, earlier_part)
    seen = np.concatenate([prepared.array, earlier[None].astype(np.float32)])
    num_foreground = model.plan.labels.num_classes - 1
    networks = tuple(ReadsEarlierStage(network, num_foreground).eval() for network in model.networks)
    own = replace(prepared, array=seen), replace(model, networks=networks)
    return _classes_seen(*own, settings, own_part, onlooker)


def predict_classes_on(
    grid: tuple[Shape, Spacing],
    prepared: Prepared,
    model: Model,
    settings: Settings,
    report: Callable[[float], None] = lambda _: None,
) -> NDArray[np.uint8 | np.uint16]:
    """Return the class indices of a prepared scan on another grid of the box that was cropped from it.

    Args:
        grid: Shape, in voxels, and spacing, in mm, transposed axes: those that the next stage of a cascade works on.
        prepared: As the model sees it.
        model: Networks and plan.
        settings: Device, precision, mirroring, batch.
        report: Called with every further share of the work that is done; the shares sum to 1.

    Raises:
        PredictionError: If the networks' output is no number.
    """
    shape, spacing = grid
    there = prepared.properties.model_copy(update={"cropped_shape": shape, "cropped_spacing": spacing})
    return predict_classes(replace(prepared, properties=there), model, settings, report)


def _classes_seen(
    prepared: Prepared, model: Model, settings: Settings, report: Callable[[float], None], onlooker: Onlooker
) -> NDArray[np.uint8 | np.uint16]:
    """Return the class indices that the networks find in what is prepared, on the grid before resampling."""
    configuration, properties = model.configuration, prepared.properties
    inference = model.plan.inference
    tiling = Tiling(
        patch_size=configuration.patch_size,
        step=inference.tile_step,
        gaussian_sigma=inference.gaussian_sigma,
        mirror_axes=configuration.mirror_axes if settings.mirror else (),
        batch_size=settings.batch_size,
    )
    stored = properties.stored_shape
    order = sweep_order(stored, tiling, configuration.network.num_outputs, settings.merging_bytes)
    merging_device = torch.device("cpu") if settings.merges_on_cpu else settings.device
    shelter = Shelter(merging_device, settings.merging_bytes, settings.scratch)
    computing = Computing(settings.device, settings.precision, shelter)
    parts = predict_parts(model.networks, torch.from_numpy(prepared.array), tiling, computing, order, report)
    orders = output_orders(properties, configuration.spacing, configuration.resampling)
    swept = [tuple(sizes[axis] for axis in order) for sizes in (stored, properties.cropped_shape, orders)]
    try:
        classes = decide_classes(
            onlooker.stopwatch.timed("network", parts),
            swept[0],
            swept[1],
            swept[2],
            model.plan.labels.painted,
            None if onlooker.observe is None else partial(_observe_swept, onlooker.observe, order),
        )
        return classes.transpose(np.argsort(order))
    except FloatingPointError as error:
        raise PredictionError(
            f"{properties.name}: {error}, in {settings.precision}. Predict in float32, or train the network again."
        ) from None


def _observe_swept(observe: Observe, order: Sequence[int], place: Place, logits: Tensor) -> None:
    """Show a part of a sweep with its axes in the order of the scan's."""
    first, second, third = (place[axis] for axis in np.argsort(order))
    observe((first, second, third), logits.permute(0, *(1 + int(axis) for axis in np.argsort(order))))


def _report_part(report: Callable[[float], None], part: float, share: float) -> None:
    report(part * share)
