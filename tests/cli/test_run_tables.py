"""What a run prints: which scores these are, and what has failed."""

from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.benchmark.run import BenchmarkResult, Comparison
from autoseg.cli import running
from autoseg.cli.run_tables import require_all, show_benchmark, show_pictures, show_run, show_time
from autoseg.core.errors import TrainingError
from autoseg.evaluate.scores import Evaluation
from autoseg.pipeline import RunResult
from autoseg.pipeline.budget.schedule import Allocation
from autoseg.select.choose import Together, rank
from tests.cli.commands import run_command
from tests.select.test_choose import EVEN, RULES, STAGES, evaluation_of, selection_of


def _result(*names: Together) -> RunResult:
    """Return a run that has selected among candidates; without any, one of some of the folds."""
    evaluations: dict[Together, Evaluation] = {
        name: evaluation_of(0.8 - 0.1 * number, 0.6) for number, name in enumerate(names)
    }
    selection = None
    if names:
        selection = selection_of(rank(evaluations, "dice", EVEN, RULES, stages=STAGES, tie_margin=0.0001), 0.0)
    return RunResult(
        dataset="Task",
        trained=("3d_fullres",),
        folds=(0, 1),
        reached=("3d_fullres",),
        evaluation=evaluation_of(0.8, 0.6),
        selection=selection,
        allocation=Allocation(shares=(), mirror=True, budget_s=90.0),
        seconds={"train": 60.0},
    )


def _benchmark(run: RunResult) -> BenchmarkResult:
    row = Comparison(name="mean of classes", ours=70.0, published={"nnU-Net": 80.0})
    return BenchmarkResult(run=run, source="a paper", comparison=(row,))


def test_scores_before_postprocessing_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    show_run(_result(("3d_fullres",)))
    out = capsys.readouterr().out
    assert out.startswith("Task, 3d_fullres, held-out cases of folds 0, 1, before postprocessing")
    show_run(_result())
    assert "postprocessing" not in capsys.readouterr().out


def test_the_time_of_pictures_counts(capsys: pytest.CaptureFixture[str]) -> None:
    show_time(_result(), 1.0)
    rows = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in capsys.readouterr().out.splitlines()}
    assert (rows["total"], rows["budget"]) == ("1 min 01 s", "1 min 30 s")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_scores_are_printed_before_pictures_are_drawn(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before: list[str] = []

    def draw_run(*_: object) -> list[Path]:
        before.append(capsys.readouterr().out)
        return []

    monkeypatch.setattr(pipeline, "run", lambda *_: _result())
    monkeypatch.setattr(running, "draw_run", draw_run)
    code, after, _ = run_command(monkeypatch, capsys, "run", tmp_path, "-w", tmp_path / "work", *options)
    assert code == 0
    assert ("mean_foreground_dice" if options else "mean of classes") in before[0]
    assert after == "" if options else "draw pictures" in after
    assert "Pictures:" not in after


def test_what_was_chosen_by_the_same_cases_is_said_beside_the_published_scores(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_benchmark(_benchmark(_result(("3d_fullres",), ("2d",))))
    out = capsys.readouterr().out
    assert "Dice of the same folds, in percent" in out
    assert "Ours is before postprocessing, and was chosen" in out
    header = next(line for line in out.splitlines() if "nnU-Net" in line)
    assert "autoseg, 3d_fullres" in header
    assert "chosen among 2 candidates by these very cases" in out
    show_benchmark(_benchmark(_result()))
    out = capsys.readouterr().out
    assert "chosen" not in out
    assert "postprocessing" not in out


def test_pictures_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    show_pictures([Path("report/a.png"), Path("report/b.png")])
    assert capsys.readouterr().out.split() == ["Pictures:", "report/a.png", "report/b.png"]


def test_what_has_failed_ends_the_command_with_the_way_out() -> None:
    result = _result()
    require_all(result)
    failed = result.model_copy(update={"failed": {"2d fold 1": "loss: must be finite, got nan."}})
    with pytest.raises(TrainingError, match=r"2d fold 1: loss: must be finite(.|\n)*of the others, 3d_fullres\. Mend"):
        require_all(failed)
