"""Time: operations times speeds, by hand."""

import pytest

from autoseg.plan import accumulation
from autoseg.plan.cost import multiply_adds
from autoseg.plan.duration import (
    PROBED_MULTIPLY_ADDS,
    DeviceSpeed,
    Layer,
    LayerSpeed,
    largest_map,
    layers_to_probe,
    prediction_s,
    training_step_s,
    validation_step_s,
)
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationPlan
from autoseg.plan.tiling import Scan
from tests.train.plans import cube_configuration

RULES = load_rulebook().inferred.cost


def _speed(configuration: ConfigurationPlan, rate: float, norm_s: float = 0.0) -> DeviceSpeed:
    """Return a device that takes `rate` seconds per multiply-add forward, and as many again twice going back."""
    layers = layers_to_probe(configuration, is_cpu=True)
    return DeviceSpeed(
        device="test",
        is_cpu=True,
        precision="float32",
        number_bytes=4,
        layers=tuple(
            LayerSpeed(layer=layer, training_s=3 * rate * layer.multiply_adds, prediction_s=rate * layer.multiply_adds)
            for layer in layers
        ),
        norm_training_s=norm_s,
        norm_prediction_s=norm_s,
    )


def test_a_step_takes_three_forward_passes() -> None:
    configuration = cube_configuration((16, 16, 16))
    operations = configuration.batch_size * multiply_adds(configuration.network, (16, 16, 16))
    assert training_step_s(configuration, _speed(configuration, 1e-9), RULES) == pytest.approx(3e-9 * operations)
    # The network of this plan has a single output, so that validation sees what training sees.
    assert validation_step_s(configuration, _speed(configuration, 1e-9), RULES) == pytest.approx(1e-9 * operations)


def test_everything_but_convolutions_goes_by_the_speed_of_normalisation() -> None:
    configuration = cube_configuration((16, 16, 16))
    slow, fast = (training_step_s(configuration, _speed(configuration, 0.0, norm), RULES) for norm in (2e-9, 1e-9))
    assert slow == pytest.approx(2 * fast)
    assert fast > 1e-9 * configuration.batch_size * 16**3 * RULES.augmentation_norms


def test_a_scan_takes_its_tiles_times_their_mirror_images() -> None:
    configuration = cube_configuration((16, 16, 16))
    speed = _speed(configuration, 1e-9)
    one = Scan(shape=(16, 16, 16), num_networks=1, mirror=False, tiles_at_once=1, tile_step=0.5)
    many = Scan(shape=(16, 24, 33), num_networks=2, mirror=True, tiles_at_once=1, tile_step=0.5)
    once = prediction_s(configuration, one, speed, RULES)
    assert once == pytest.approx(RULES.scan_factor * 1e-9 * multiply_adds(configuration.network, (16, 16, 16)))
    assert prediction_s(configuration, many, speed, RULES) == pytest.approx(1 * 2 * 4 * 2 * 8 * once)


def test_probed_layers_are_those_of_the_stages_but_quick() -> None:
    configuration = cube_configuration((96, 160, 128))
    layers = layers_to_probe(configuration, is_cpu=False)
    assert [layer.channels for layer in layers] == list(configuration.network.features)
    assert [layer.kernel for layer in layers] == list(configuration.network.kernels)
    assert all(layer.multiply_adds <= PROBED_MULTIPLY_ADDS for layer in layers)
    small = cube_configuration((16, 16, 16))
    assert layers_to_probe(small, is_cpu=False)[0] == Layer(
        channels=4, kernel=(3, 3, 3), shape=(small.batch_size, 16, 16, 16)
    )


def test_a_cpu_is_probed_on_the_samples_that_pass_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = cube_configuration((16, 16, 16)).model_copy(update={"batch_size": 4})
    elements = configuration.network.features[0] * 16**3
    monkeypatch.setattr(accumulation, "CACHED_ELEMENTS", 2 * elements)
    for is_cpu, expected in ((True, 2), (False, 4)):
        assert layers_to_probe(configuration, is_cpu=is_cpu)[0].shape == (expected, 16, 16, 16)
        assert largest_map([configuration], is_cpu=is_cpu) == expected * elements
