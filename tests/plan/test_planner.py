import math
from pathlib import Path

import pytest

from autoseg.core.errors import PlanError
from autoseg.core.labels import declare_regions
from autoseg.plan.overrides import Overrides
from autoseg.plan.planner import make_plan
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import Plan
from tests.plan.published_case import Description, describe, fingerprint_of, published

RULEBOOK = load_rulebook()
DATASET = describe("test", ["MRI"], ["background", "organ", "tumour"])
SMALL = fingerprint_of([(1, 1, 1)] * 10, [(60, 64, 64)] * 10)
LARGE = fingerprint_of([(1, 1, 1)] * 10, [(500, 500, 500)] * 10)


def _plan(preset: str | None = None, **overrides: object) -> Plan:
    return make_plan(LARGE, DATASET, RULEBOOK, preset, Overrides.model_validate(overrides))


def test_a_small_volume_gets_two_configurations() -> None:
    plan = make_plan(SMALL, DATASET, RULEBOOK)
    assert list(plan.configurations) == ["2d", "3d_fullres"]
    assert not plan.configurations["3d_fullres"].batch_dice
    assert plan.configurations["2d"].batch_dice


def test_a_large_volume_gets_a_coarse_configuration_and_a_cascade() -> None:
    plan = make_plan(LARGE, DATASET, RULEBOOK)
    full, coarse = plan.configurations["3d_fullres"], plan.configurations["3d_lowres"]
    cascade = plan.configurations["3d_cascade_fullres"]
    assert full.batch_dice
    assert not coarse.batch_dice
    assert math.prod(full.patch_size) / math.prod(full.median_shape) < 0.25
    assert math.prod(coarse.patch_size) / math.prod(coarse.median_shape) > 0.24
    assert cascade.previous_stage == "3d_lowres"
    assert cascade.network.num_input_channels == 1 + 2
    assert cascade.patch_size == full.patch_size


def test_images_of_one_slice_get_2d_alone() -> None:
    plan = make_plan(fingerprint_of([(1, 1, 1)] * 4, [(1, 256, 300)] * 4), DATASET, RULEBOOK)
    assert list(plan.configurations) == ["2d"]
    assert plan.configurations["2d"].patch_size == (256, 320)


@pytest.mark.parametrize(
    ("spacing", "shape", "first"),
    [
        pytest.param((1, 1.5, 1.5), (1, 256, 300), 0, id="pixels above 1 mm"),
        pytest.param((1.5, 1, 1.5), (256, 1, 300), 1, id="a slice across y"),
        pytest.param((1.5, 1.5, 1), (256, 300, 1), 2, id="a slice across x"),
    ],
)
def test_one_slice_is_planned_in_its_plane_whatever_its_pixels(
    spacing: tuple[float, ...], shape: tuple[int, ...], first: int
) -> None:
    plan = make_plan(fingerprint_of([spacing] * 4, [shape] * 4), DATASET, RULEBOOK)
    assert plan.transpose[0] == first
    assert list(plan.configurations) == ["2d"]
    found = plan.configurations["2d"]
    assert (found.spacing, found.median_shape, found.patch_size) == ((1.5, 1.5), (256, 300), (256, 320))
    (decided,) = [made for made in plan.decisions if made.name == "transpose"]
    assert decided.reason.startswith(f"The median case has one voxel along axis {'zyx'[first]}: it comes first")


def test_slices_of_several_thicknesses_get_2d_alone() -> None:
    """The thinnest decides the target spacing, at which the others would be resampled to several slices."""
    spacings = [(1.5, 1, 1), (1.5, 1, 1), *[(6, 1, 1)] * 8]
    plan = make_plan(fingerprint_of(spacings, [(1, 256, 300)] * 10), DATASET, RULEBOOK)
    assert plan.decisions[0].value == [1.5, 1, 1]
    assert list(plan.configurations) == ["2d"]
    set_by_user = Overrides(spacing=(0.5, 0.5, 0.5))
    plan = make_plan(fingerprint_of(spacings, [(1, 256, 300)] * 10), DATASET, RULEBOOK, None, set_by_user)
    assert (list(plan.configurations), plan.configurations["2d"].median_shape) == (["2d"], (512, 600))


@pytest.mark.parametrize(
    ("num_single", "names", "transpose"),
    [(6, ["2d"], (0, 1, 2)), (4, ["2d", "3d_fullres"], (1, 0, 2))],
)
def test_the_median_case_decides_where_some_cases_have_one_slice(
    num_single: int, names: list[str], transpose: tuple[int, ...]
) -> None:
    shapes = [(1, 64, 80)] * num_single + [(40, 64, 80)] * (10 - num_single)
    plan = make_plan(fingerprint_of([(1, 1.5, 1.5)] * 10, shapes), DATASET, RULEBOOK)
    assert (list(plan.configurations), plan.transpose) == (names, transpose)
    assert plan.configurations["2d"].median_shape == ((64, 80) if names == ["2d"] else (40, 80))


def test_slices_stored_along_another_axis_are_turned() -> None:
    plan = make_plan(fingerprint_of([(0.5, 0.5, 6)] * 4, [(256, 256, 12)] * 4), DATASET, RULEBOOK)
    assert plan.transpose == (2, 0, 1)
    assert plan.configurations["3d_fullres"].spacing == (6, 0.5, 0.5)
    assert plan.configurations["2d"].median_shape == (256, 256)


def test_left_and_right_classes_are_not_mirrored_into_each_other(caplog: pytest.LogCaptureFixture) -> None:
    kidneys = describe("abdomen", ["MRI"], ["background", "left kidney", "right kidney"])
    with caplog.at_level("INFO", logger="autoseg"):
        plan = make_plan(LARGE, kidneys, RULEBOOK)
    assert {name: chosen.mirror_axes for name, chosen in plan.configurations.items()} == {
        "2d": (0,),
        "3d_fullres": (0, 1),
        "3d_lowres": (0, 1),
        "3d_cascade_fullres": (0, 1),
    }
    reason = "classes left kidney and right kidney are told apart by side alone; the left-right axis is not mirrored"
    assert reason in caplog.text
    decided = [entry for entry in plan.decisions if entry.name == "mirror_axes"]
    assert [entry.configuration for entry in decided] == list(plan.configurations)
    assert all(reason in entry.reason[0].lower() + entry.reason[1:] for entry in decided)


def test_regions_have_one_output_each() -> None:
    labels = declare_regions({"whole": [1, 2, 3], "core": [2, 3]}, painted=[1, 2], ignored=4)
    plan = make_plan(LARGE, Description("tumour", ("MRI",), labels), RULEBOOK)
    for name, chosen in plan.configurations.items():
        assert chosen.regions == ((1, 2, 3), (2, 3))
        assert chosen.has_ignored
        assert chosen.network.num_outputs == 2
        assert chosen.network.num_input_channels == (1 + 3 if name == "3d_cascade_fullres" else 1)


def test_other_classes_are_mirrored_along_all_axes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="autoseg"):
        plan = make_plan(SMALL, DATASET, RULEBOOK)
    assert plan.configurations["2d"].mirror_axes == (0, 1)
    assert plan.configurations["3d_fullres"].mirror_axes == (0, 1, 2)
    assert "side alone" not in caplog.text


def test_the_recipe_comes_from_the_blueprint_and_the_preset() -> None:
    default, cpu = make_plan(SMALL, DATASET, RULEBOOK), make_plan(SMALL, DATASET, RULEBOOK, "cpu")
    assert (default.training.optimizer, cpu.training.optimizer) == ("sgd", "adamw")
    assert default.training.augmentation == cpu.training.augmentation == RULEBOOK.blueprint.augmentation
    assert default.inference.tile_step == RULEBOOK.blueprint.inference.tile_step
    assert (
        cpu.configurations["3d_fullres"].network.features[0] < default.configurations["3d_fullres"].network.features[0]
    )


def test_the_default_limits_the_batch_to_a_share_of_the_dataset() -> None:
    fingerprint, dataset, _ = published("hippocampus")
    default = make_plan(fingerprint, dataset, RULEBOOK).configurations["3d_fullres"]
    uncapped = make_plan(fingerprint, dataset, RULEBOOK, "residual-m").configurations["3d_fullres"]
    assert (default.batch_size, uncapped.batch_size) == (9, 58)
    assert default.network == uncapped.network


def test_presets_with_more_memory_get_more() -> None:
    costs = [math.prod(_plan(name).configurations["3d_fullres"].patch_size)
             for name in ("residual-m", "residual-l", "residual-xl")]  # fmt: skip
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_a_spacing_that_is_set_changes_the_rest() -> None:
    plan = _plan(spacing=(2.5, 2.5, 2.5))
    assert plan.configurations["3d_fullres"].spacing == (2.5, 2.5, 2.5)
    assert plan.configurations["3d_fullres"].median_shape == (200, 200, 200)
    assert "3d_lowres" not in plan.configurations


def test_a_patch_that_is_set_changes_the_configurations_of_its_axes() -> None:
    plan, usual = _plan(patch_size=(64, 64, 64)), _plan()
    assert plan.configurations["3d_fullres"].patch_size == (64, 64, 64)
    assert plan.configurations["3d_fullres"].batch_size > usual.configurations["3d_fullres"].batch_size
    assert plan.configurations["2d"] == usual.configurations["2d"]
    assert _plan(patch_size=(128, 128)).configurations["2d"].patch_size == (128, 128)


def test_a_batch_size_that_is_set_shrinks_the_patch() -> None:
    plan, usual = _plan(batch_size=8), _plan()
    assert {entry.batch_size for entry in plan.configurations.values()} == {8}
    assert math.prod(plan.configurations["3d_fullres"].patch_size) < math.prod(
        usual.configurations["3d_fullres"].patch_size
    )
    assert _plan(batch_size=1).configurations["3d_fullres"].batch_size == 1


def test_memory_that_is_set_scales_a_preset() -> None:
    assert math.prod(_plan(gpu_memory_gb=24).configurations["3d_fullres"].patch_size) > math.prod(
        _plan().configurations["3d_fullres"].patch_size
    )


@pytest.mark.parametrize(
    ("override", "option"),
    [(Overrides(spacing=(1, 0, 1)), "--spacing"), (Overrides(batch_size=0), "--batch-size"),
     (Overrides(gpu_memory_gb=-1), "--gpu-memory"), (Overrides(patch_size=(0, 8)), "--patch-size")],
)  # fmt: skip
def test_an_override_must_be_above_zero(override: Overrides, option: str) -> None:
    with pytest.raises(PlanError, match=f"{option}: must be above zero"):
        make_plan(LARGE, DATASET, RULEBOOK, None, override)


def test_the_numbers_of_channels_must_agree() -> None:
    with pytest.raises(PlanError, match="the 2 channels of the dataset, got 1"):
        make_plan(SMALL, describe("test", ["T1", "T2"], ["background", "organ"]), RULEBOOK)


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, -1, 1)])
def test_a_spacing_of_zero_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(PlanError, match="case_0: spacing and shape must be above zero"):
        make_plan(fingerprint_of([spacing], [(8, 8, 8)]), DATASET, RULEBOOK)


def test_a_dataset_without_cases_is_refused() -> None:
    with pytest.raises(PlanError, match="at least one case"):
        make_plan(fingerprint_of([], []), DATASET, RULEBOOK)


@pytest.mark.parametrize(
    ("shapes", "channels", "num_classes"),
    [
        pytest.param([(40, 40, 40)], 1, 2, id="one case"),
        pytest.param([(2, 3, 4)], 1, 2, id="a few voxels"),
        pytest.param([(1, 1, 1)], 1, 2, id="one voxel"),
        pytest.param([(2, 6000, 6000)], 1, 2, id="two huge slices"),
        pytest.param([(64, 64, 64)], 100, 2, id="100 channels"),
        pytest.param([(64, 64, 64)], 1, 500, id="500 classes"),
    ],
)
def test_unusual_datasets_get_a_plan_that_can_be_built(
    shapes: list[tuple[int, ...]], channels: int, num_classes: int
) -> None:
    names = [f"channel {index}" for index in range(channels)]
    dataset = describe("odd", names, ["background", *(f"class {index}" for index in range(1, num_classes))])
    plan = make_plan(fingerprint_of([(1, 1, 1)] * len(shapes), shapes, names), dataset, RULEBOOK)
    for configuration in plan.configurations.values():
        assert len(configuration.network.strides) >= 2
        for axis, size in enumerate(configuration.patch_size):
            assert size % math.prod(stride[axis] for stride in configuration.network.strides) == 0


def test_equal_inputs_give_equal_plans_on_disk(tmp_path: Path) -> None:
    plan = make_plan(LARGE, DATASET, RULEBOOK)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan == make_plan(LARGE, DATASET, RULEBOOK)


def test_the_digest_leaves_out_the_reasons() -> None:
    plan = make_plan(SMALL, DATASET, RULEBOOK)
    assert plan.decisions
    assert plan.model_copy(update={"decisions": ()}).digest() == plan.digest()
    assert plan.model_copy(update={"preset": "other"}).digest() != plan.digest()


@pytest.mark.parametrize(
    ("asked", "axes_3d", "axes_2d"),
    [((), (), ()), (("x",), (2,), (1,)), (("z",), (0,), ()), (("z", "y", "x"), (0, 1, 2), (0, 1))],
)
def test_the_user_says_along_which_axes_is_mirrored(
    asked: tuple[str, ...], axes_3d: tuple[int, ...], axes_2d: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    kidneys = describe("abdomen", ["MRI"], ["background", "left kidney", "right kidney"])
    with caplog.at_level("INFO", logger="autoseg"):
        plan = make_plan(LARGE, kidneys, RULEBOOK, None, Overrides.model_validate({"mirror_axes": asked}))
    assert "mirrored" not in caplog.text
    for name, configuration in plan.configurations.items():
        assert configuration.mirror_axes == (axes_2d if name == "2d" else axes_3d)
        (found,) = [made for made in plan.decisions if (made.configuration, made.name) == (name, "mirror_axes")]
        assert found.value == list(configuration.mirror_axes)
        assert found.reason.startswith("Set by the user with --mirror-axes.")
        assert "left kidney and right kidney are told apart by side alone" in found.reason
