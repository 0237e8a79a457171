"""What lies in OUT is told apart by its record: batches that were broken off, and label maps of other networks."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.core.errors import PredictionError
from autoseg.core.progress import Silent
from autoseg.data.image import LabelImage, read_label
from autoseg.infer.case import Model, Settings, segment
from autoseg.infer.maps import Extras
from autoseg.infer.outcome import Predictions
from autoseg.pipeline import Request, predict
from autoseg.preprocess.case import Prepared
from tests.pipeline.models import untrained
from tests.pipeline.prediction.making import CHOICE, OTHER, write_scan


def test_what_is_there_is_kept_if_the_same_networks_made_it(tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    for number in range(3):
        write_scan(scans / f"{number}.nii.gz", number)
    workspace = untrained(tmp_path / "work")
    first = predict(workspace, CHOICE, Request(scans, out), Silent())
    (out / "0.nii.gz").unlink()
    (out / "1.nii.gz").write_bytes((out / "1.nii.gz").read_bytes()[:30])
    kept_at = (out / "2.nii.gz").stat().st_mtime_ns
    again = predict(workspace, CHOICE, Request(scans, out, skip_existing=True), Silent())
    assert {case.image.name: case.is_kept for case in again.cases} == {
        "0.nii.gz": False,
        "1.nii.gz": False,
        "2.nii.gz": True,
    }
    assert (out / "2.nii.gz").stat().st_mtime_ns == kept_at
    assert again.cases[0].volumes_ml == first.cases[2].volumes_ml
    with_entropy = Request(scans, out, skip_existing=True, extras=Extras(uncertainty=("entropy",)))
    assert not any(case.is_kept for case in predict(workspace, CHOICE, with_entropy, Silent()).cases)
    assert all(case.is_kept for case in predict(workspace, CHOICE, with_entropy, Silent()).cases)
    with pytest.raises(PredictionError, match="must come from the same networks, device and settings, got others"):
        predict(workspace, OTHER, with_entropy, Silent())


def test_what_other_settings_left_is_not_kept_after_a_broken_off_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call ends after its first scan; what the third then keeps is that one alone."""
    scans, out, workspace = tmp_path / "scans", tmp_path / "out", untrained(tmp_path / "work")
    for number in range(3):
        write_scan(scans / f"{number}.nii.gz", number)
    predict(workspace, CHOICE, Request(scans, out), Silent())
    predict(workspace, OTHER, Request(scans, tmp_path / "expected"), Silent())
    done = itertools.count()

    def breaking(prepared: Prepared, model: Model, settings: Settings, *others: Any) -> LabelImage:  # noqa: ANN401
        if next(done):
            raise KeyboardInterrupt
        return segment(prepared, model, settings, *others)

    with monkeypatch.context() as patch:
        patch.setattr("autoseg.infer.predictor.segment", breaking)
        with pytest.raises(KeyboardInterrupt):
            predict(workspace, OTHER, Request(scans, out), Silent())
    broken = Predictions.load(out / "predictions.json")
    assert (set(broken.written), set(broken.unwritten)) == ({"0.nii.gz"}, {"1.nii.gz", "2.nii.gz"})
    assert len(list(out.glob("*.nii.gz"))) == 3  # nothing is taken away before there is something better
    last = predict(workspace, OTHER, Request(scans, out, skip_existing=True), Silent())
    assert {case.image.name: case.is_kept for case in last.cases} == {
        "0.nii.gz": True,
        "1.nii.gz": False,
        "2.nii.gz": False,
    }
    for path in out.glob("*.nii.gz"):
        np.testing.assert_array_equal(read_label(path).array, read_label(tmp_path / "expected" / path.name).array)


def test_what_was_made_of_another_scan_is_not_kept(tmp_path: Path) -> None:
    """A scan in the place of another; where files lie and when they were copied there says nothing."""
    scans, out, workspace = tmp_path / "scans", tmp_path / "out", untrained(tmp_path / "work")
    for number in range(2):
        write_scan(scans / f"{number}.nii.gz", number)
    predict(workspace, CHOICE, Request(scans, out), Silent())
    write_scan(tmp_path / "moved" / "0.nii.gz", 5)
    (tmp_path / "moved" / "1.nii.gz").write_bytes((scans / "1.nii.gz").read_bytes())
    again = predict(workspace, CHOICE, Request(tmp_path / "moved", out, skip_existing=True), Silent())
    assert {case.image.name: case.is_kept for case in again.cases} == {"0.nii.gz": False, "1.nii.gz": True}
    assert {case.image.parent for case in again.cases} == {tmp_path / "moved"}


def test_a_scan_that_fails_leaves_nothing_to_be_kept(tmp_path: Path) -> None:
    """The label map in its place is one of other networks."""
    scan, out, workspace = write_scan(tmp_path / "scans" / "a.nii.gz"), tmp_path / "out", untrained(tmp_path / "work")
    whole = scan.read_bytes()
    predict(workspace, CHOICE, Request(scan, out), Silent())
    scan.write_bytes(b"broken")
    for choice in (CHOICE, OTHER):
        predictions = predict(workspace, choice, Request(scan, out), Silent())
        assert predictions.cases[0].error is not None
        assert (predictions.written, predictions.unwritten) == ({}, ("a.nii.gz",))
    scan.write_bytes(whole)
    (case,) = predict(workspace, OTHER, Request(scan, out, skip_existing=True), Silent()).cases
    assert not case.is_kept


def test_an_output_outside_of_out_fails_alone(tmp_path: Path) -> None:
    scan, outside = write_scan(tmp_path / "a.nii.gz"), tmp_path / "elsewhere" / "x.nii.gz"
    table = tmp_path / "cases.csv"
    table.write_text(f"image,output\n{scan},{outside}\n{scan},good.nii.gz\n")
    for skip_existing in (False, True):
        request = Request(table, tmp_path / "out", skip_existing=skip_existing)
        cases = predict(untrained(tmp_path / "work"), CHOICE, request, Silent()).cases
        assert sorted(case.error is None for case in cases) == [False, True]
        assert (tmp_path / "out" / "good.nii.gz").exists()
        assert not outside.exists()


def test_a_single_fold_is_not_asked_for_disagreement(tmp_path: Path) -> None:
    workspace = untrained(tmp_path / "work")
    request = Request(write_scan(tmp_path / "a.nii.gz"), tmp_path / "out", extras=Extras(uncertainty=("disagreement",)))
    with pytest.raises(PredictionError, match="--uncertainty disagreement: at least two folds must predict, got one"):
        predict(workspace, OTHER, request, Silent())
    (case,) = predict(workspace, CHOICE, request, Silent()).cases
    assert "disagreement" in case.further


def test_calls_for_different_scans_share_a_folder(tmp_path: Path) -> None:
    """One scan per call, as in a loop of the shell: each is known, of the same settings alone."""
    scans, out, workspace = tmp_path / "scans", tmp_path / "out", untrained(tmp_path / "work")
    first, second = (write_scan(scans / f"{number}.nii.gz", number) for number in range(2))
    for scan in (first, second):
        predict(workspace, CHOICE, Request(scan, out, skip_existing=True), Silent())
    both = predict(workspace, CHOICE, Request(scans, out, skip_existing=True), Silent())
    assert [case.is_kept for case in both.cases] == [True, True]
    predict(workspace, OTHER, Request(second, out), Silent())
    with pytest.raises(PredictionError, match=r"must name the label maps that are kept, got 1 .* such as 0\.nii\.gz"):
        predict(workspace, OTHER, Request(scans, out, skip_existing=True), Silent())


def test_label_maps_of_unknown_origin_are_neither_kept_nor_replaced(tmp_path: Path) -> None:
    scan, out, workspace = write_scan(tmp_path / "a.nii.gz"), tmp_path / "out", untrained(tmp_path / "work")
    predict(workspace, CHOICE, Request(scan, out), Silent())
    (out / "predictions.json").unlink()
    before = (out / "a.nii.gz").stat()
    with pytest.raises(PredictionError, match="Leave out --skip-existing to replace them, or name another OUT"):
        predict(workspace, CHOICE, Request(scan, out, skip_existing=True), Silent())
    assert (out / "a.nii.gz").stat().st_mtime_ns == before.st_mtime_ns


def test_a_record_that_cannot_be_written_for_a_while_costs_no_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scans = tmp_path / "scans"
    for number in range(3):
        write_scan(scans / f"{number}.nii.gz", number)
    monkeypatch.setattr("autoseg.pipeline.prediction.record.SECONDS_BETWEEN_RECORDS", 0.0)
    save, calls = Predictions.save, itertools.count()

    def failing(self: Predictions, path: Path) -> None:
        if next(calls) in (1, 2):
            raise OSError("the network drive is away")
        save(self, path)

    monkeypatch.setattr(Predictions, "save", failing)
    predictions = predict(untrained(tmp_path / "work"), CHOICE, Request(scans, tmp_path / "out"), Silent())
    assert [case.error for case in predictions.cases] == [None] * 3
    assert caplog.text.count("got: the network drive is away") == 2
    assert Predictions.load(tmp_path / "out" / "predictions.json") == predictions


def test_an_out_that_is_a_file_is_named(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "a.nii.gz")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(PredictionError, match="OUT must be a folder that can be written to, got: "):
        predict(untrained(tmp_path / "work"), CHOICE, Request(scan, tmp_path / "out"), Silent())


PREDICT = """
import sys, time
from pathlib import Path
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.infer import predictor
from autoseg.pipeline import ModelChoice, Request, predict
from autoseg.pipeline.prediction import record

record.SECONDS_BETWEEN_RECORDS = 0.0
segment = predictor.segment

def slow(*arguments):
    time.sleep(0.3)
    return segment(*arguments)

predictor.segment = slow
root = Path(sys.argv[1])
choice = ModelChoice("3d_fullres", None, "cpu", mirror=False)
predict(Workspace(root / "work"), choice, Request(root / "scans", root / "out", skip_existing=True), Silent())
"""
"""Takes its time for each scan, so that it can be killed in the middle, and notes each at once."""


@pytest.mark.slow
def test_a_killed_batch_is_continued(tmp_path: Path) -> None:
    """SIGKILL at three moments: what lies in OUT is whole each time, and the end is that of an unbroken batch."""
    for number in range(8):
        write_scan(tmp_path / "scans" / f"{number}.nii.gz", number)
    workspace, out = untrained(tmp_path / "work"), tmp_path / "out"
    unbroken = predict(workspace, CHOICE, Request(tmp_path / "scans", tmp_path / "unbroken"), Silent())
    for num_wanted in (1, 3, 6):
        command = [sys.executable, "-c", PREDICT, str(tmp_path)]
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as child:
            deadline = time.monotonic() + 100
            while len(list(out.glob("[0-9].nii.gz"))) < num_wanted:
                assert child.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            child.send_signal(signal.SIGKILL)
        assert 0 < len(list(out.glob("[0-9].nii.gz"))) < 8
        for path in out.glob("[0-9].nii.gz"):
            read_label(path)
        Predictions.load(out / "predictions.json")
    finished = predict(workspace, CHOICE, Request(tmp_path / "scans", out, skip_existing=True), Silent())
    assert sum(case.is_kept for case in finished.cases) >= 5  # the last one may not have been noted yet
    assert len(finished.cases) == 8
    for case in unbroken.cases:
        name = case.image.name
        np.testing.assert_array_equal(
            read_label(out / name).array, read_label(tmp_path / "unbroken" / name).array, err_msg=name
        )
    assert not list(out.glob(".writing-*"))
    shutil.rmtree(out)
