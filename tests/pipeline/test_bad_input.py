"""What a user may hand over by mistake, or because the data are so: a clear message, or a plan that works."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli import main
from autoseg.core.workspace import Workspace
from autoseg.data.splits import Splits
from autoseg.network.unet import UNet
from autoseg.plan.schema import Plan
from tests.data.making import describe, patch_nifti, scan, write

CUBE = (10, 24, 20)
PIXDIM_Y = 84
"""Offset of the spacing along y in the header of a NIfTI file."""


def _dataset(
    folder: Path, num_cases: int, shape: tuple[int, ...] = CUBE, num_channels: int = 1, num_classes: int = 3
) -> Path:
    """Write a dataset in nnU-Net's layout whose cases hold all classes; return the folder."""
    for number in range(num_cases):
        for channel in range(num_channels):
            write(folder / f"imagesTr/c{number}_{channel:04d}.nii.gz", scan(100 * number + channel, shape))
        label = np.resize(np.arange(num_classes), shape).astype("uint16")
        write(folder / f"labelsTr/c{number}.nii.gz", label)
    labels = {"background": 0, **{f"class {index}": index for index in range(1, num_classes)}}
    names = {str(channel): f"channel {channel}" for channel in range(num_channels)}
    return describe(folder, modality=None, channel_names=names, labels=labels, file_ending=".nii.gz")


class Planned:
    """The command `autoseg plan` on a dataset, and what came of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.workspace = Workspace(folder / "work")
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.out = self.err = ""

    def __call__(self, source: Path, *options: str) -> int:
        command = ["autoseg", "plan", str(source), "--preset", "cpu", "--workspace", str(self.workspace.root)]
        self._monkeypatch.setattr(sys, "argv", [*command, "--workers", "1", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        self.out, err = self._capsys.readouterr()
        self.err = " ".join(err.split())
        assert "Traceback" not in self.err
        return int(str(ended.value.code))

    @property
    def plan(self) -> Plan:
        return Plan.load(self.workspace.plan)


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Planned:
    return Planned(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("inferred.toml", "[batch_size.mim]\nvalue = 4\n", r"inferred.toml:1 \[batch_size.mim\]: .* batch_size.min"),
        ("inferred.toml", "[batch_size.min]\nvalue = 'four'\n", r"inferred.toml:1 \[batch_size.min\]"),
        ("inferred.toml", "[budget.widths]\nvalue = 8\n", r"inferred.toml:1 \[budget.widths\]"),
        ("infered.toml", "[batch_size.min]\nvalue = 4\n", "must hold rule files named .*, got infered.toml"),
        ("inferred.toml", "[batch_size.min\nvalue = 4\n", "inferred.toml: must be readable TOML"),
    ],
)
def test_a_rule_file_with_a_typo(planned: Planned, tmp_path: Path, file: str, text: str, message: str) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / file).write_text(text)
    assert planned(_dataset(tmp_path / "data", 5), "--rules", str(rules)) == 1
    assert re.search(message, planned.err), planned.err


def test_a_budget_too_small_for_any_plan(planned: Planned, tmp_path: Path) -> None:
    source = _dataset(tmp_path / "data", 5)
    assert planned(source, "--budget", "0.001s") == 1
    assert re.search(
        r"--budget: must buy 50 training steps, got time for 0 of .* s. Give at least \d+s.", planned.err
    ), planned.err
    assert planned(source, "--budget", "soon") == 2
    assert "must be a length of time such as 90s" in planned.err


def test_one_case_cannot_be_held_out(planned: Planned, tmp_path: Path) -> None:
    assert planned(_dataset(tmp_path / "data", 1)) == 1
    assert "there must be two groups of labelled cases or more, got 1 with 1 cases" in planned.err


def test_two_cases_for_five_folds_get_two_and_a_warning(planned: Planned, tmp_path: Path) -> None:
    assert planned(_dataset(tmp_path / "data", 2)) == 0
    assert "2 groups of cases allow 2 folds, not 5" in planned.err
    assert [split.validation for split in Splits.load(planned.workspace.splits).folds] == [("c1",), ("c0",)]


def test_a_spacing_of_zero_names_the_file(planned: Planned, tmp_path: Path) -> None:
    source = _dataset(tmp_path / "data", 3)
    patch_nifti(source / "imagesTr/c1_0000.nii.gz", "<f", PIXDIM_Y, 0.0)
    assert planned(source) == 1
    assert re.search(r"c1_0000.nii.gz: spacing .* must be above zero", planned.err), planned.err


def test_images_of_one_slice_are_planned_in_two_dimensions(planned: Planned, tmp_path: Path) -> None:
    assert planned(_dataset(tmp_path / "data", 5, shape=(1, 48, 40))) == 0
    assert list(planned.plan.configurations) == ["2d"]


def test_a_hundred_channels(planned: Planned, tmp_path: Path) -> None:
    assert planned(_dataset(tmp_path / "data", 2, shape=(4, 24, 20), num_channels=100)) == 0
    assert {chosen.network.num_input_channels for chosen in planned.plan.configurations.values()} == {100}
    _require_built(planned.plan)


def test_five_hundred_classes(planned: Planned, tmp_path: Path) -> None:
    assert planned(_dataset(tmp_path / "data", 5, num_classes=500)) == 0
    assert {chosen.network.num_outputs for chosen in planned.plan.configurations.values()} == {500}
    _require_built(planned.plan)


def _require_built(plan: Plan) -> None:
    """Build every network of a plan."""
    for configuration in plan.configurations.values():
        UNet(configuration.network)
