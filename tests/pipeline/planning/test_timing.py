"""Plans for a budget of time, on a device that is never the same twice."""

import json
import os
from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.core.errors import PlanError
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.data.image import Image, LabelImage, read_image, read_label, write_image, write_label
from autoseg.fingerprint import Fingerprint
from autoseg.pipeline.planning import speed
from autoseg.plan.overrides import Overrides
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import Plan
from tests.end_to_end.blobs import LARGE, write_blobs
from tests.pipeline.devices import FakeDevice

DATA = pipeline.DataOptions(group_by=None, num_folds=3, num_workers=1)

RULES = """
[budget.widths]
value = { 4 = 50, 8 = 1000 }
"""


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    fake = FakeDevice()
    monkeypatch.setattr(speed, "probe_device", fake.probe)
    return fake


def _plan(folder: Path, seconds: float | None, configuration: str | None = None) -> Plan:
    """Plan small scans for a training of some seconds."""
    rules = folder / "rules"
    rules.mkdir(exist_ok=True)
    (rules / "inferred.toml").write_text(RULES)
    time = None
    if seconds is not None:
        time = pipeline.AskedTime(seconds=seconds, covers="a training", configuration=configuration)
    data = folder / "data" if (folder / "data").exists() else write_blobs(folder / "data", num_cases=3)
    return pipeline.plan(
        data, Workspace(folder / "work"), DATA, pipeline.PlanOptions("cpu", rules, Overrides(), time), Silent()
    )


def test_the_same_budget_gives_the_same_plan_however_the_device_is_timed(tmp_path: Path, device: FakeDevice) -> None:
    first = _plan(tmp_path, 60)
    num_layers = device.num_layers
    assert num_layers > 0
    assert _plan(tmp_path, 60) == first
    assert device.num_layers == num_layers
    _plan(tmp_path, 61)
    assert device.num_layers > num_layers


def test_more_time_buys_wider_networks_and_longer_trainings(tmp_path: Path, device: FakeDevice) -> None:
    short, long = _plan(tmp_path, 40), _plan(tmp_path, 4000)
    assert short.configurations["3d_fullres"].network.features[0] == 4
    assert long.configurations["3d_fullres"].network.features[0] == 8
    steps = [plan.training.num_epochs * plan.training.steps_per_epoch for plan in (short, long)]
    assert steps[0] < steps[1]


def test_without_a_budget_nothing_is_timed(tmp_path: Path, device: FakeDevice) -> None:
    usual = _plan(tmp_path, None)
    assert device.num_layers == 0
    _plan(tmp_path, 60)
    assert _plan(tmp_path, None) == usual


def test_what_clocks_do_not_see_is_not_timed_anew(tmp_path: Path, device: FakeDevice) -> None:
    """A file that was touched, a label that was mended: the plan for the time stays. Another grid is timed."""
    first = _plan(tmp_path, 60)
    num_layers = device.num_layers
    path = min((tmp_path / "data" / "labels").iterdir())
    os.utime(path)
    assert _plan(tmp_path, 60).training == first.training
    label = read_label(path)
    label.array[:2] = LARGE
    write_label(path, label)
    mended = _plan(tmp_path, 60)
    assert mended.training == first.training
    assert mended.made_from != first.made_from
    assert device.num_layers == num_layers
    image = read_image([tmp_path / "data" / "images" / path.name])
    write_image(tmp_path / "data" / "images" / path.name, Image(image.array[:, :, 3:], image.geometry))
    write_label(path, LabelImage(label.array[:, 3:], label.geometry))
    _plan(tmp_path, 60)
    assert device.num_layers > num_layers


def test_other_rules_are_timed_anew(tmp_path: Path, device: FakeDevice) -> None:
    _plan(tmp_path, 60)
    planning = Workspace(tmp_path / "work").planning
    document = json.loads(planning.read_text())
    document["timing"]["rules"] = "others"
    planning.write_text(json.dumps(document))
    num_layers = device.num_layers
    _plan(tmp_path, 60)
    assert device.num_layers > num_layers


def test_the_budget_is_for_the_configuration_that_is_trained(tmp_path: Path, device: FakeDevice) -> None:
    plan = _plan(tmp_path, 60, configuration="2d")
    (decision,) = [found for found in plan.decisions if found.name == "base_features"]
    assert "60 s of 2d on" in decision.reason


def test_a_budget_too_small_for_any_plan_is_refused(tmp_path: Path, device: FakeDevice) -> None:
    with pytest.raises(PlanError, match=r"must buy 50 training steps, got time for 0 of .* s. Give at least 10s"):
        _plan(tmp_path, 0.001)
    assert not Workspace(tmp_path / "work").plan.exists()


def test_costs_use_what_was_timed_for_the_plan(tmp_path: Path, device: FakeDevice) -> None:
    plan = _plan(tmp_path, 60)
    workspace = Workspace(tmp_path / "work")
    costs = pipeline.costs_here(
        workspace, plan, Fingerprint.load(workspace.fingerprint), load_rulebook(tmp_path / "rules")
    )
    assert costs.configurations["3d_fullres"].training_s == pytest.approx(60, rel=0.1)
