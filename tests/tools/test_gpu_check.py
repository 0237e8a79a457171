"""The script that checks a GPU, tried without one."""

import sys
from pathlib import Path

import pytest
import torch

from tools import gpu_check
from tools.gpu_checks import run_checks
from tools.gpu_times import PUBLISHED_H100_S, VARIANTS, Timing


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    assert gpu_check.main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "gpu_check: --device cuda: must be a device of this machine, got: no CUDA device. Use --device auto, or cpu."
        " To see whether this script works: --device cpu --tiny.\n"
    )


def test_a_processor_is_not_timed_in_earnest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--device", "cpu"])
    assert gpu_check.main() == 2
    assert "must be a CUDA device, got cpu. Add --tiny" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
def test_every_check_and_every_variant_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "gpu.md"
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--device", "cpu", "--tiny", "--page", str(page)])
    assert gpu_check.main() == 0
    text = page.read_text()
    assert text.count("| yes |") >= 9
    for variant in VARIANTS:
        assert text.count(f"| hippocampus | {variant} |") == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")
def test_every_check_passes_on_a_gpu() -> None:
    assert [finding for finding in run_checks(torch.device("cuda"), is_tiny=False) if not finding.passed] == []


def _timing(variant: str, share: float, waiting_share: float = 0.0) -> Timing:
    """Return a timing of the heart that takes a share of the published time."""
    return Timing("heart", variant, 1.0, share * PUBLISHED_H100_S["heart"], 0.1, waiting_share, 0)


@pytest.mark.parametrize(
    ("timings", "holds"),
    [
        ([_timing("as it is", 0.4, 0.04), _timing("compiled", 0.6)], [True, True]),
        ([_timing("as it is", 0.6, 0.06), _timing("compiled", 0.5)], [False, True]),
        ([_timing("as it is", 0.6), _timing("compiled", 0.51)], [True, False]),
    ],
)
def test_times_are_held_against_the_aims(timings: list[Timing], holds: list[bool]) -> None:
    """The default must not wait for patches; the fastest variant must take half of the published time."""
    findings = gpu_check._findings_of_times(timings)
    assert [finding.passed for finding in findings] == holds
