"""How long training and prediction take: operations of the specification times the measured speed of a device."""

import math
from collections.abc import Iterable

from autoseg.core.artefact import Record
from autoseg.plan.accumulation import samples_at_once
from autoseg.plan.cost import Convolution, convolutions, num_parameters, stage_shapes
from autoseg.plan.memory import Arithmetic
from autoseg.plan.rules import CostRules
from autoseg.plan.schema import ConfigurationPlan
from autoseg.plan.tiling import Scan, num_passes, tiles_of

PROBED_MULTIPLY_ADDS = 2.5e8
"""Most multiply-adds of a probed layer: a hundredth of a second on a few cores, and far more than starting it costs."""

PROBED_ELEMENTS = 2**24
"""Most elements of the map on which normalisation and activation are probed: more than any processor's cache."""


class Layer(Record):
    """A convolution that stands for those of a stage.

    Attributes:
        channels: That it reads and puts out.
        kernel: Size per axis.
        shape: Of its output: batch, then voxels per axis.
    """

    channels: int
    kernel: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def multiply_adds(self) -> int:
        """Of its forward pass."""
        return math.prod(self.shape) * math.prod(self.kernel) * self.channels**2


class LayerSpeed(Record):
    """What a layer took.

    Attributes:
        layer: That was measured.
        training_s: Forward and backward.
        prediction_s: Forward alone.
    """

    layer: Layer
    training_s: float
    prediction_s: float


class DeviceSpeed(Record):
    """How fast a device is, measured in a moment.

    Attributes:
        device: Its name.
        is_cpu: Whether it is a processor.
        precision: In which networks compute.
        number_bytes: Of an activation in that precision.
        layers: Convolutions.
        norm_training_s: Normalisation and activation of one element, forward and backward.
        norm_prediction_s: The same, forward alone.
    """

    device: str
    is_cpu: bool
    precision: str
    number_bytes: int
    layers: tuple[LayerSpeed, ...]
    norm_training_s: float
    norm_prediction_s: float

    @property
    def arithmetic(self) -> Arithmetic:
        """How it computes."""
        return Arithmetic(is_cpu=self.is_cpu, number_bytes=self.number_bytes)


def layers_to_probe(configuration: ConfigurationPlan, *, is_cpu: bool) -> tuple[Layer, ...]:
    """Return a layer per stage: its kernel and width, on a grid that is cut down until it is quick to measure.

    Args:
        configuration: Network, patch and batch, of which as many samples are taken as pass at once in training.
        is_cpu: Whether a processor will compute.
    """
    network = configuration.network
    batch = samples_at_once(configuration, is_cpu=is_cpu)
    shapes = stage_shapes(network, configuration.patch_size)
    return tuple(
        _cut_down(Layer(channels=features, kernel=kernel, shape=(batch, *shape)))
        for features, kernel, shape in zip(network.features, network.kernels, shapes, strict=True)
    )


def largest_map(configurations: Iterable[ConfigurationPlan], *, is_cpu: bool) -> int:
    """Return the elements of the largest feature map that passes in training: whether it fits a cache decides much."""
    return max(
        samples_at_once(chosen, is_cpu=is_cpu) * chosen.network.features[0] * math.prod(chosen.patch_size)
        for chosen in configurations
    )


def _cut_down(layer: Layer) -> Layer:
    while layer.multiply_adds > PROBED_MULTIPLY_ADDS and max(layer.shape) > 1:
        longest = max(range(len(layer.shape)), key=lambda axis: layer.shape[axis])
        halved = [math.ceil(size / 2) if axis == longest else size for axis, size in enumerate(layer.shape)]
        layer = layer.model_copy(update={"shape": tuple(halved)})
    return layer


def training_step_s(configuration: ConfigurationPlan, speed: DeviceSpeed, rules: CostRules) -> float:
    """Return the seconds of a training step: network, loss, augmentation, optimiser.

    Args:
        configuration: Network, patch and batch.
        speed: Of the device.
        rules: Constants.

    Source:
        autoseg; rules/inferred.toml [cost], docs/costs.md.
    """
    network, batch = configuration.network, configuration.batch_size
    voxels = batch * math.prod(configuration.patch_size)
    learned = batch * _network_s(configuration, speed, is_training=True)
    lost = voxels * network.num_outputs * rules.loss_norms * speed.norm_training_s
    augmented = voxels * network.num_input_channels * rules.augmentation_norms * speed.norm_training_s
    stepped = num_parameters(network) * rules.optimizer_norms * speed.norm_training_s
    return learned + lost + augmented + stepped


def validation_step_s(configuration: ConfigurationPlan, speed: DeviceSpeed, rules: CostRules) -> float:
    """Return the seconds of a validation batch; arguments and source are those of `training_step_s`."""
    voxels = configuration.batch_size * math.prod(configuration.patch_size)
    seen = configuration.batch_size * _network_s(configuration, speed, is_training=False)
    return seen + voxels * configuration.network.num_outputs * rules.loss_norms * speed.norm_prediction_s


def prediction_s(configuration: ConfigurationPlan, scan: Scan, speed: DeviceSpeed, rules: CostRules) -> float:
    """Return the seconds of predicting a prepared scan: networks, merging, classes.

    Args:
        configuration: Network and patch.
        scan: As the network sees it.
        speed: Of the device.
        rules: Constants.

    Source:
        autoseg; rules/inferred.toml [cost], docs/costs.md.
    """
    # Layers were probed on samples of a training, which share out the work on the weights; fewer tiles share it less.
    unshared = 1 / scan.tiles_at_once - 1 / samples_at_once(configuration, is_cpu=speed.is_cpu)
    prepared = max(unshared, 0.0) * num_parameters(configuration.network) * rules.weight_norms * speed.norm_prediction_s
    passes = tiles_of(configuration, scan) * num_passes(configuration, scan)
    logits = configuration.network.num_outputs * math.prod(configuration.patch_size)
    merged = passes * logits * rules.merging_norms * speed.norm_prediction_s
    exported = math.prod(scan.shape) * configuration.network.num_outputs * rules.export_norms * speed.norm_prediction_s
    seen = rules.scan_factor * passes * (_network_s(configuration, speed, is_training=False) + prepared)
    return seen + merged + exported


def _network_s(configuration: ConfigurationPlan, speed: DeviceSpeed, *, is_training: bool) -> float:
    """Return the seconds of one patch's pass: forward and back, or forward alone."""
    network = configuration.network
    voxels = [math.prod(shape) for shape in stage_shapes(network, configuration.patch_size)]
    rates = _rates(configuration, speed, is_training=is_training)
    norm_s = speed.norm_training_s if is_training else speed.norm_prediction_s
    total = 0.0
    for conv in convolutions(network):
        if conv.kind == "output" and conv.stage > 0 and not is_training:
            continue
        total += voxels[conv.stage] * (_multiply_adds(conv) * rates[conv.stage] + conv.num_outputs * norm_s)
    return total


def _multiply_adds(conv: Convolution) -> int:
    """Return those of one output voxel; of a transposed convolution, each sees a single voxel of the kernel."""
    return conv.num_inputs * conv.num_outputs * (1 if conv.kind == "up" else conv.kernel_voxels)


def _rates(configuration: ConfigurationPlan, speed: DeviceSpeed, *, is_training: bool) -> list[float]:
    """Return the seconds per multiply-add of each stage."""
    known = {found.layer: found.training_s if is_training else found.prediction_s for found in speed.layers}
    return [known[layer] / layer.multiply_adds for layer in layers_to_probe(configuration, is_cpu=speed.is_cpu)]
