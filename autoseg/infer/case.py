"""One prepared scan becomes a label map."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg.core.errors import PredictionError
from autoseg.data.image import LabelImage
from autoseg.infer.export import decide_classes, output_orders, restore_label
from autoseg.infer.tiles import Tiling, predict_slabs
from autoseg.network.device import Precision, best_precision
from autoseg.plan.schema import ConfigurationPlan, Plan
from autoseg.preprocess.case import Prepared


@dataclass(frozen=True)
class Model:
    """Trained networks and what they need to know.

    Attributes:
        plan: Labels, order of axes, tiling.
        configuration: The one that the networks belong to.
        networks: One per fold, evaluating; the mean of their logits counts.
    """

    plan: Plan
    configuration: ConfigurationPlan
    networks: tuple[nn.Module, ...]


@dataclass(frozen=True)
class Settings:
    """Where and how carefully a model is run.

    Attributes:
        device: Where networks run and tiles are merged; the networks are there.
        precision: In which the networks compute.
        mirror: Whether the mean over the mirror images that the configuration allows is taken.
        batch_size: Tiles that a network sees at once.
    """

    device: torch.device
    precision: Precision
    mirror: bool
    batch_size: int


def default_settings(device: torch.device, configuration: ConfigurationPlan) -> Settings:
    """Return mirroring, the fastest precision of the device, and on a GPU the batch that fits it in training."""
    batch_size = configuration.batch_size if device.type == "cuda" else 1
    return Settings(device=device, precision=best_precision(device), mirror=True, batch_size=batch_size)


def segment(
    prepared: Prepared, model: Model, settings: Settings, report: Callable[[float], None] = lambda _: None
) -> LabelImage:
    """Return the label map of a prepared scan on its original grid.

    Args:
        prepared: As the model's configuration sees it.
        model: Networks and plan.
        settings: Device, precision, mirroring, batch.
        report: Called with every further share of the work that is done; the shares sum to 1.

    Raises:
        PredictionError: If the networks' output is no number.
    """
    configuration, properties = model.configuration, prepared.properties
    inference = model.plan.inference
    tiling = Tiling(
        patch_size=configuration.patch_size,
        step=inference.tile_step,
        gaussian_sigma=inference.gaussian_sigma,
        mirror_axes=configuration.mirror_axes if settings.mirror else (),
        batch_size=settings.batch_size,
    )
    slabs = predict_slabs(model.networks, torch.from_numpy(prepared.array), tiling, settings.device, settings.precision)
    stored = properties.stored_shape
    orders = output_orders(properties, configuration.spacing, configuration.resampling)
    reported = _reported(slabs, stored[0], report)
    try:
        indices = decide_classes(reported, stored, properties.cropped_shape, orders, model.plan.labels.painted)
    except FloatingPointError as error:
        raise PredictionError(
            f"{properties.name}: {error}, in {settings.precision}. Predict in float32, or train the network again."
        ) from None
    return LabelImage(restore_label(indices, properties, model.plan.labels), properties.geometry)


def _reported(slabs: Iterable[Tensor], num_rows: int, report: Callable[[float], None]) -> Iterator[Tensor]:
    for slab in slabs:
        report(slab.shape[1] / num_rows)
        yield slab
