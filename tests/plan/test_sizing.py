import pytest

from autoseg.core.errors import PlanError
from autoseg.plan.cost import convolution_elements
from autoseg.plan.overrides import Overrides, apply_overrides
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.rules import BatchSizeRules
from autoseg.plan.sizing import Budget, batch_limits, batch_size, budget, fit_network, fixed_network, network_for
from autoseg.plan.topology import topology

RULEBOOK = load_rulebook()
PLAIN = RULEBOOK.for_preset("plain")
RESIDUAL = RULEBOOK.for_preset("residual-m")
BATCH = BatchSizeRules(min=2, max_2d=100, max_3d=50, max_dataset_share=0.05)
CUBE = (1.0, 1.0, 1.0)


def test_the_budget_grows_with_the_memory() -> None:
    eight = budget(3, PLAIN.inferred.sizing, BATCH)
    eleven = budget(3, PLAIN.inferred.sizing.model_copy(update={"gpu_memory_gb": 11.0}), BATCH)
    assert eight == Budget(elements=560e6, reference_batch=2, guarded_batch=2, max_batch=50)
    assert eleven.elements == 560e6 * 11 / 8
    assert budget(2, PLAIN.inferred.sizing, BATCH).max_batch == 100


def test_features_double_up_to_a_limit() -> None:
    rules = PLAIN.inferred.topology
    volume = network_for(topology(CUBE, (128, 128, 128), rules), 1, 2, PLAIN.blueprint.network)
    plane = network_for(topology((1.0, 1.0), (512, 512), rules), 1, 2, PLAIN.blueprint.network)
    assert volume.features == (32, 64, 128, 256, 320, 320)
    assert plane.features == (32, 64, 128, 256, 512, 512, 512, 512)
    assert volume.encoder_blocks == (2,) * 6
    assert volume.decoder_convs == (2,) * 5


def test_the_last_number_of_blocks_serves_deeper_stages() -> None:
    stages = topology(CUBE, (128, 128, 128), RESIDUAL.inferred.topology)
    assert network_for(stages, 1, 2, RESIDUAL.blueprint.network).encoder_blocks == (1, 3, 4, 6, 6, 6)


def test_a_small_image_fits_at_once() -> None:
    fitted = fit_network(CUBE, (36, 50, 35), 1, 3, PLAIN)
    assert fitted.patch_size == (40, 56, 40)
    assert [step.axis for step in fitted.steps] == [None]


def test_a_large_image_is_shrunk_until_the_guarded_batch_fits() -> None:
    fitted = fit_network(CUBE, (400, 400, 400), 1, 3, PLAIN)
    allowed = budget(3, PLAIN.inferred.sizing, PLAIN.inferred.batch_size)
    assert fitted.steps[0].patch_size == (256, 256, 256)
    assert [step.elements for step in fitted.steps] == sorted((step.elements for step in fitted.steps), reverse=True)
    assert fitted.elements <= allowed.elements < fitted.steps[-2].elements
    assert fitted.elements == convolution_elements(fitted.network, fitted.patch_size)


def test_more_memory_never_gives_a_smaller_patch() -> None:
    sizes = []
    for memory in (4, 8, 11, 24, 80):
        rules = apply_overrides(PLAIN, Overrides(gpu_memory_gb=memory))
        sizes.append(fit_network((3.0, 0.8, 0.8), (120, 500, 500), 1, 3, rules).elements)
    assert sizes == sorted(sizes)


def test_a_budget_too_small_for_any_plan_is_named() -> None:
    rules = apply_overrides(PLAIN, Overrides(gpu_memory_gb=1e-4))
    with pytest.raises(PlanError, match=r"memory of 0.0001 GB: must hold 2 patches of 8x8x7 voxels, .* room for 0\."):
        fit_network(CUBE, (100, 100, 100), 1, 3, rules)


@pytest.mark.parametrize(
    ("elements", "dataset_voxels", "expected"),
    [
        pytest.param(50, 1e6, 4, id="memory decides: 100 / 50 x 2"),
        pytest.param(80, 1e6, 2, id="2.5 rounds to the even 2"),
        pytest.param(57, 1e6, 4, id="3.51 rounds to 4"),
        pytest.param(10, 1000 * 5, 5, id="dataset decides: 5 % of 5000 voxels are 5 patches of 50"),
        pytest.param(10, 1000 * 1, 2, id="one patch, but at least two"),
        pytest.param(500, 1e6, 2, id="memory for less than one, but at least two"),
        pytest.param(1, 1e6, 50, id="preset decides"),
    ],
)
def test_the_batch_is_the_least_of_its_limits(elements: int, dataset_voxels: float, expected: int) -> None:
    allowed = Budget(elements=100, reference_batch=2, guarded_batch=2, max_batch=50)
    assert batch_size(elements, (5, 10), dataset_voxels, allowed, BATCH) == expected


def test_each_limit_of_the_batch_is_known() -> None:
    allowed = Budget(elements=100, reference_batch=2, guarded_batch=2, max_batch=50)
    assert batch_limits(10, (5, 10), 5000, allowed, BATCH) == {"memory": 20, "dataset": 5, "preset": 50}


def test_a_patch_of_the_user_is_taken_whatever_it_costs() -> None:
    fitted = fixed_network(CUBE, (256, 256, 256), 1, 3, PLAIN)
    assert fitted.patch_size == (256, 256, 256)
    assert fitted.elements > 560e6


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ((100, 96, 96), "--patch-size: must be a multiple of 16x16x16, got 100x96x96. Use 112x96x96."),
        ((3, 7, 7), "--patch-size: must be long enough to be pooled, got 3x7x7. Use 8x8x8 or more."),
    ],
)
def test_a_patch_that_the_network_cannot_take_is_refused(patch: tuple[int, ...], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        fixed_network(CUBE, patch, 1, 3, PLAIN)
    assert str(caught.value) == message
