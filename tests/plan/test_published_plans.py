"""The plans that nnU-Net 2 made of the ten Decathlon tasks with three planners, reproduced to the figure."""

import json
import time
from typing import Any

import pytest

from autoseg.plan.planner import make_plan
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationPlan
from tests.plan.published_case import FOLDER, describe, fingerprint_of, published

TASKS = sorted(path.stem for path in FOLDER.glob("*.json"))
SCHEMES = {"ct": "CTNormalization", "zscore": "ZScoreNormalization"}
RULEBOOK = load_rulebook()


def _figures(configuration: ConfigurationPlan) -> dict[str, Any]:
    network, resampling = configuration.network, configuration.resampling
    figures = {
        "spacing": configuration.spacing,
        "median_shape": configuration.median_shape,
        "patch_size": configuration.patch_size,
        "batch_size": configuration.batch_size,
        "batch_dice": configuration.batch_dice,
        "normalization": [SCHEMES[entry.scheme] for entry in configuration.normalization],
        "within_mask": [entry.within_mask for entry in configuration.normalization],
        "resampling_orders": [
            resampling.image_order,
            resampling.label_order,
            resampling.output_order,
            resampling.coarse_axis_order,
        ],
        "residual": network.kind == "residual",
        "strides": network.strides,
        "kernels": network.kernels,
        "features": network.features,
        "encoder_blocks": network.encoder_blocks,
        "decoder_convs": network.decoder_convs,
    }
    as_json: dict[str, Any] = json.loads(json.dumps(figures))
    return as_json


def test_all_ten_tasks_are_here() -> None:
    assert len(TASKS) == 10


@pytest.mark.parametrize("preset", ["plain", "residual-m", "residual-l"])
@pytest.mark.parametrize("task", TASKS)
def test_the_published_plan_is_reproduced(task: str, preset: str) -> None:
    fingerprint, dataset, plans = published(task)
    expected = plans[preset]
    plan = make_plan(fingerprint, dataset, RULEBOOK, preset)
    assert list(plan.transpose) == expected["transpose"]
    assert set(plan.configurations) == set(expected["configurations"])
    for name, configuration in plan.configurations.items():
        figures = expected["configurations"][name]
        if name == "3d_cascade_fullres":
            assert figures == {"inherits_from": "3d_fullres", "previous_stage": configuration.previous_stage}
            figures = expected["configurations"]["3d_fullres"]
        assert _figures(configuration) == figures, name
    statistics = plan.configurations["2d"].normalization[0]
    measured = fingerprint.intensities[0]
    is_used = statistics.scheme == "ct"
    assert statistics.mean == (measured.mean if is_used else 0.0)
    assert statistics.upper == (measured.percentile_99_5 if is_used else 0.0)


def test_a_thousand_cases_are_planned_within_a_second() -> None:
    spacings = [(2.5 + case / 1000, 0.8, 0.8) for case in range(1000)]
    shapes = [(100 + case % 50, 512, 512) for case in range(1000)]
    fingerprint = fingerprint_of(spacings, shapes, ["CT"])
    dataset = describe("thousand", ["CT"], ["background", "liver"])
    start = time.perf_counter()
    plan = make_plan(fingerprint, dataset, RULEBOOK)
    assert time.perf_counter() - start < 1
    assert set(plan.configurations) == {"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"}
