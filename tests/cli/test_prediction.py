"""`autoseg predict` with networks that nobody trained."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli import main, tables, terminal
from autoseg.core.geometry import Geometry
from autoseg.data.image import Image, write_image
from autoseg.infer import case
from autoseg.infer.outcome import Outcome, Predictions
from tests.data.dicom_making import write_series
from tests.pipeline.models import SHAPE, SPACING, untrained


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two scans, a series and a broken file, beside a workspace."""
    monkeypatch.chdir(tmp_path)
    untrained(tmp_path / "autoseg_work", num_folds=1)
    folder = tmp_path / "scans"
    geometry = Geometry(spacing=SPACING)
    for number in range(2):
        array = np.random.default_rng(number).normal(1, 1, (1, *SHAPE)).astype(np.float32)
        write_image(folder / f"{number}.nii.gz", Image(array, geometry))
    write_series(folder / "series", np.ones((4, 8, 8), np.int16), geometry)
    (folder / "broken.mha").write_bytes(b"nothing")
    return folder


def _run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["autoseg", "predict", *map(str, arguments), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    printed = capsys.readouterr()
    return ended.value.code, printed.out if ended.value.code < 2 else printed.err


def test_a_batch_from_start_to_end(
    scans: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out = _run(capsys, monkeypatch, scans, "out", "--uncertainty", "entropy")
    assert code == 1
    assert "wrote   out/0.nii.gz" in out
    assert "broken.mha: must be readable" in out
    assert "3 of 4 scans segmented. Details: out/predictions.json" in out
    assert {path.name for path in Path("out").iterdir()} == {
        *("0.nii.gz", "0.entropy.nii.gz", "1.nii.gz", "1.entropy.nii.gz", "series.dcm", "series.entropy.nii.gz"),
        "predictions.json",
    }
    (scans / "broken.mha").unlink()
    code, out = _run(capsys, monkeypatch, scans, "out", "--skip-existing", "--json")
    assert code == 0
    assert [case["is_kept"] for case in json.loads(out)["cases"]] == [True, True, True]


def test_a_format_for_all(scans: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert _run(capsys, monkeypatch, scans / "series", "mask.nrrd")[0] == 0
    assert Path("mask.predictions.json").exists()
    (scans / "broken.mha").unlink()
    assert _run(capsys, monkeypatch, scans, "out", "--format", "MHA")[0] == 0
    assert {path.name for path in Path("out").glob("*.mha")} == {"0.mha", "1.mha", "series.mha"}
    code, out = _run(capsys, monkeypatch, scans / "0.nii.gz", "out", "--format", "dicom-seg")
    assert code == 1
    assert "must belong to a DICOM series" in out


def test_paces_tile_mirror_and_round_as_they_say(
    scans: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case, "best_precision", lambda device: "bfloat16")
    precisions = {}
    for pace, mirrors in (("--fast", False), ("--accurate", True), ("--exact", True), ("--mirror", True)):
        code, out = _run(capsys, monkeypatch, scans / "0.nii.gz", f"out{pace}", pace, "--json")
        assert code == 0
        assert json.loads(out)["mirror"] is mirrors
        precisions[pace] = json.loads(out)["precision"]
    assert precisions == {
        "--fast": "bfloat16",
        "--accurate": "float32",
        "--exact": "float32",
        "--mirror": "bfloat16",
    }
    code, out = _run(capsys, monkeypatch, scans / "0.nii.gz", "out--fast", "--skip-existing")
    assert code == 1  # the standard pace must not go on with what the fast one wrote


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--fast", "--accurate"), "one of them must be chosen, got both"),
        (("--format", "jpeg"), "--format: must be one of nifti, nrrd"),
        (("--uncertainty", "entropy,doubt"), "--uncertainty: must be entropy or disagreement, got 'doubt'"),
    ],
)
def test_wrong_usage(
    option: tuple[str, str],
    words: str,
    scans: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, err = _run(capsys, monkeypatch, scans, "out", *option)
    assert code == 2
    assert words in err


def _predictions(*cases: Outcome) -> Predictions:
    return Predictions(
        dataset="d", configuration="2d", folds=(0,), device="cpu", precision="float32", mirror=True, cases=cases
    )


def test_a_terminal_shows_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    case = Outcome(
        image=Path("a.nii.gz"),
        output=Path("out/a.nii.gz"),
        seconds={"read": 0.5, "network": 61.0, "export": 2.0},
        peak_memory_bytes=1_500_000_000,
        volumes_ml={"liver": 1502.3},
        warnings={"spacing": "spacing is odd"},
    )
    predictions = _predictions(case, Outcome(image=Path("b.nii.gz"), error="b.nii.gz: broken. Mend it."))
    monkeypatch.setattr(terminal.out, "_force_terminal", True)
    tables.show_predictions(predictions, Path("out/predictions.json"))
    shown = capsys.readouterr().out
    for words in ("liver (ml)", "1502", "1 min 04 s", "1.5 GB", "look at out/a.nii.gz: spacing is odd.", "failed"):
        assert words in shown
    assert "1 of 2 scans segmented." in shown


def test_what_many_scans_have_in_common_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    cases = [Outcome(image=Path(f"{number}.mha"), output=Path(f"out/{number}.mha")) for number in range(6)]
    for number in range(1, 5):
        cases[number].warnings["spacing"] = f"spacing is {number} mm"
    for number in (0, 1, 4):
        cases[number].warnings["volume of liver"] = "volume of liver is 9 ml"
    tables.show_predictions(_predictions(*cases), Path("out/predictions.json"))
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("look at")]
    assert shown == [
        "look at out/0.mha: volume of liver is 9 ml.",
        "look at out/1.mha: volume of liver is 9 ml.",
        "look at out/4.mha: volume of liver is 9 ml.",
        "look at 4 of 6 scans: spacing; such as out/1.mha: spacing is 1 mm.",
    ]
