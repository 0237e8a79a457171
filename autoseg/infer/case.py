"""One prepared scan becomes a label map."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoseg.core.errors import PredictionError
from autoseg.core.geometry import Shape, Spacing
from autoseg.core.memory import available_memory_bytes
from autoseg.core.stopwatch import Stopwatch
from autoseg.data.image import Image, LabelImage
from autoseg.infer.export import Observe, Place, decide_classes, output_orders, restore_label
from autoseg.infer.merging import Shelter
from autoseg.infer.shortage import copies_on_cpu
from autoseg.infer.tiles import Computing, Tiling, predict_parts, sweep_order
from autoseg.network.cascade import ReadsEarlierStage
from autoseg.network.device import Precision, best_precision
from autoseg.network.shortage import is_shortage, is_shortage_of_device
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationPlan, Plan
from autoseg.preprocess.case import Prepared, prepare_image

_logger = logging.getLogger(__name__)

_CPU = torch.device("cpu")


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


Pace: TypeAlias = Literal["fast", "standard", "accurate"]
"""How carefully scans are predicted."""


@dataclass(frozen=True)
class Settings:
    """Where and how carefully a model is run.

    Attributes:
        device: Where networks run and tiles are merged; the networks are there.
        precision: In which the networks compute.
        mirror: Whether the mean over the mirror images that the configuration allows is taken.
        batch_size: Tiles that a network sees at once.
        tile_step: Largest distance of neighbouring tiles, as a share of the patch; None for the plan's.
        merges_on_cpu: Whether tiles are merged on the CPU, wherever networks run.
        merging_share: Of the free memory, what tiles that wait for their neighbours may take; on a CPU what goes beyond
            waits on disk. None for no limit.
        scratch: Folder for what waits on disk; None for the system's folder of temporary files.
    """

    device: torch.device
    precision: Precision
    mirror: bool
    batch_size: int
    tile_step: float | None = None
    merges_on_cpu: bool = False
    merging_share: float | None = None
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


def default_settings(device: torch.device, configuration: ConfigurationPlan, pace: Pace = "standard") -> Settings:
    """Return how a configuration is run on a device: on a GPU with the batch that fits it in training.

    Args:
        device: That computes.
        configuration: Of the model.
        pace: `standard` is the plan's tiling, mirrored, in the fastest precision of the device; for the others see
            `rules/blueprint.toml` [fast] and [accurate].
    """
    rules = load_rulebook().blueprint
    settings = Settings(
        device=device,
        precision=best_precision(device),
        mirror=True,
        batch_size=configuration.batch_size if device.type == "cuda" else 1,
        merging_share=rules.merging.memory_share,
    )
    if pace == "standard":
        return settings
    chosen = rules.fast if pace == "fast" else rules.accurate
    precision = "float32" if chosen.exact else settings.precision
    return replace(settings, mirror=chosen.mirror, tile_step=chosen.tile_step, precision=precision)


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
        PredictionError: If the networks' output is no number, or memory does not suffice in the smallest steps.
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
    """Return the class indices that the networks find in what is prepared, on the grid before resampling.

    Where memory is short it is tried again in smaller steps, each said in the log.
    """
    name, done = prepared.properties.name, 0.0

    def count(share: float) -> None:
        nonlocal done
        done += share
        report(share)

    while True:
        try:
            return _classes_in_one_go(prepared, model, settings, count, onlooker)
        except (RuntimeError, MemoryError, OSError) as error:
            if not is_shortage(error):
                raise
            before = settings
            settings, how = leaner_settings(settings, error, name)
            _logger.warning("%s: memory must suffice, got: %s. Continues %s.", name, _first_line(error), how)
        # Outside of the handler, whose error would keep the arrays of the attempt alive.
        report(-done)
        done = 0.0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if settings.device != before.device:
            model = replace(model, networks=copies_on_cpu(model.networks))


def leaner_settings(settings: Settings, error: BaseException, name: str) -> tuple[Settings, str]:
    """Return settings that give the same with less memory, and in words what they change.

    Args:
        settings: With which memory was short.
        error: That said so; which memory, the GPU's or the machine's, decides what helps.
        name: Of the case.

    Raises:
        PredictionError: If there are none.
    """
    if settings.batch_size > 1:
        fewer = settings.batch_size // 2
        return replace(settings, batch_size=fewer), f"with {fewer} tiles at once"
    is_device = settings.device.type != "cpu" and is_shortage_of_device(error)
    if is_device and not settings.merges_on_cpu:
        return replace(settings, merges_on_cpu=True), "with tiles merged in the machine's memory"
    if is_device:
        precision = best_precision(_CPU) if settings.precision != "float32" else settings.precision
        how = f"on the CPU in {precision}, which takes longer and may round differently"
        return replace(settings, device=_CPU, precision=precision), how
    if settings.merging_share != 0:
        return replace(settings, merging_share=0.0), "with waiting tiles on disk"
    raise PredictionError(
        f"{name}: memory must suffice for one tile and for the scan, got: {_first_line(error)}. "
        "End other programs, or use a computer with more memory."
    ) from error


def _classes_in_one_go(
    prepared: Prepared, model: Model, settings: Settings, report: Callable[[float], None], onlooker: Onlooker
) -> NDArray[np.uint8 | np.uint16]:
    configuration, properties = model.configuration, prepared.properties
    inference = model.plan.inference
    tiling = Tiling(
        patch_size=configuration.patch_size,
        step=settings.tile_step or inference.tile_step,
        gaussian_sigma=inference.gaussian_sigma,
        gaussian_centre=inference.gaussian_centre,
        mirror_axes=configuration.mirror_axes if settings.mirror else (),
        batch_size=settings.batch_size,
    )
    stored = properties.stored_shape
    shelter = _shelter(settings)
    order = sweep_order(stored, tiling, configuration.network.num_outputs, shelter.max_bytes)
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


def _shelter(settings: Settings) -> Shelter:
    """Return where tiles are merged, and in how much of the memory that is free now."""
    device = _CPU if settings.merges_on_cpu else settings.device
    if settings.merging_share is None:
        return Shelter(device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory_bytes()
    return Shelter(device, int(settings.merging_share * free), settings.scratch)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _observe_swept(observe: Observe, order: Sequence[int], place: Place, logits: Tensor) -> None:
    """Show a part of a sweep with its axes in the order of the scan's."""
    first, second, third = (place[axis] for axis in np.argsort(order))
    observe((first, second, third), logits.permute(0, *(1 + int(axis) for axis in np.argsort(order))))


def _report_part(report: Callable[[float], None], part: float, share: float) -> None:
    report(part * share)
