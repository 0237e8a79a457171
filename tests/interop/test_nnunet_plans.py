import json
from pathlib import Path
from typing import Any

import pytest

from autoseg.core.errors import PlanError
from autoseg.interop.nnunet_plans import export_nnunet_plans, nnunet_plans
from autoseg.plan.planner import make_plan
from autoseg.plan.rulebook import load_rulebook
from tests.plan.published_case import fingerprint_of, published

RULEBOOK = load_rulebook()


@pytest.mark.parametrize(("preset", "blocks"), [("plain", "n_conv_per_stage"), ("residual-m", "n_blocks_per_stage")])
def test_an_exported_plan_holds_the_published_figures(tmp_path: Path, preset: str, blocks: str) -> None:
    fingerprint, dataset, plans = published("liver")
    plan = make_plan(fingerprint, dataset, RULEBOOK, preset)
    export_nnunet_plans(plan, fingerprint, "Dataset003_Liver", tmp_path / "nnUNetPlans.json")
    document: dict[str, Any] = json.loads((tmp_path / "nnUNetPlans.json").read_text())
    assert document["original_median_spacing_after_transp"] == [1.0, 0.767578125, 0.767578125]
    assert document["original_median_shape_after_transp"] == [432, 512, 512]
    assert document["plans_name"] == "nnUNetPlans"
    for name, expected in plans[preset]["configurations"].items():
        configuration = document["configurations"][name]
        if name == "3d_cascade_fullres":
            assert configuration == expected
            continue
        assert configuration["data_identifier"] == f"nnUNetPlans_{name}"
        assert configuration["median_image_size_in_voxels"] == expected["median_shape"]
        assert configuration["normalization_schemes"] == expected["normalization"]
        assert configuration["use_mask_for_norm"] == expected["within_mask"]
        for key in ("spacing", "patch_size", "batch_size", "batch_dice"):
            assert configuration[key] == expected[key]
        network = configuration["architecture"]["arch_kwargs"]
        assert network[blocks] == expected["encoder_blocks"]
        assert network["strides"] == expected["strides"]
        assert network["kernel_sizes"] == expected["kernels"]
        assert network["features_per_stage"] == expected["features"]
    assert document["configurations"]["3d_lowres"]["next_stage"] == "3d_cascade_fullres"
    assert "next_stage" not in document["configurations"]["3d_fullres"]


def test_the_order_of_the_axes_is_given_both_ways() -> None:
    _, dataset, _ = published("liver")
    fingerprint = fingerprint_of([(1, 1, 5)], [(200, 201, 20)], ["CT"])
    document = nnunet_plans(make_plan(fingerprint, dataset, RULEBOOK), fingerprint, "Dataset001_Turned")
    assert document["transpose_forward"] == [2, 0, 1]
    assert document["transpose_backward"] == [1, 2, 0]
    assert document["original_median_shape_after_transp"] == [20, 200, 201]


def test_pictures_are_read_as_pictures() -> None:
    _, dataset, _ = published("heart")
    flat, deep = fingerprint_of([(1, 1, 1)], [(1, 200, 200)]), fingerprint_of([(1, 1, 1)], [(50, 200, 200)])
    readers = [
        nnunet_plans(make_plan(found, dataset, RULEBOOK), found, "Dataset001_Any")["image_reader_writer"]
        for found in (flat, deep)
    ]
    assert readers == ["NaturalImage2DIO", "SimpleITKIO"]


@pytest.mark.parametrize(
    ("depth", "suffix", "reader"),
    [
        (1, ".nii.gz", "SimpleITKIO"),
        (1, ".png", "NaturalImage2DIO"),
        (1, ".tif", "NaturalImage2DIO"),
        (50, ".tiff", "Tiff3DIO"),
        (50, ".mha", "SimpleITKIO"),
    ],
)
def test_files_have_the_reader_that_knows_them(depth: int, suffix: str, reader: str) -> None:
    _, dataset, _ = published("heart")
    found = fingerprint_of([(1, 1, 1)], [(depth, 200, 200)])
    document = nnunet_plans(make_plan(found, dataset, RULEBOOK), found, "Dataset001_Any", suffix=suffix)
    assert document["image_reader_writer"] == reader


def test_what_nnunet_cannot_express_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blueprint.toml").write_text("[network.negative_slope]\nvalue = 0.2\n")
    fingerprint, dataset, _ = published("heart")
    plan = make_plan(fingerprint, dataset, load_rulebook(tmp_path))
    with pytest.raises(PlanError, match=r"network.negative_slope: must be 0.01 for nnU-Net, got 0.2"):
        nnunet_plans(plan, fingerprint, "Dataset002_Heart")
