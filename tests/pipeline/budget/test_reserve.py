"""What a run sets aside for what it does after its trainings."""

from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.pipeline.budget.reserve import ScoringPace, after_prediction_s, measure_scoring
from autoseg.pipeline.budget.schedule import Contents, contents_of
from autoseg.plan.rulebook import load_rulebook
from tests.end_to_end.blobs import write_blobs, write_tiny_rules

RULES = load_rulebook().empirical.run.model_copy(
    update={"scoring_margin": 2.0, "starting_workers_s": 5.0, "num_pictures": 4, "picture_s": 1.0}
)
PACE = ScoringPace(scores_s=100.0, outcomes_s=40.0)


@pytest.mark.parametrize(
    ("contents", "num_workers", "seconds"),
    [
        (Contents(("2d",), frozenset(), (0,), (0, 1)), 0, 2 * 100 + 5),
        (Contents(("2d",), frozenset(), (0, 1), (0, 1)), 0, 2 * (100 + 40) + 5),
        (Contents(("2d", "3d_fullres"), frozenset(), (0, 1), (0, 1)), 0, 2 * (300 + 40) + 6),
        (Contents(("2d", "3d_fullres"), frozenset(), (0,), (0, 1)), 0, 2 * 200 + 6),
        (Contents(("2d", "3d_fullres"), frozenset(), (0, 1), (0, 1)), 2, 300 + 40 + 6 + 5),
    ],
)
def test_every_candidate_is_scored_and_the_winner_postprocessed(
    contents: Contents, num_workers: int, seconds: float
) -> None:
    assert after_prediction_s(contents, PACE, num_workers, RULES) == seconds


def test_a_busy_machine_draws_longer() -> None:
    contents = Contents(("2d",), frozenset(), (0,), (0, 1))
    assert after_prediction_s(contents, ScoringPace(0.0, 0.0, slowdown=3.0), 0, RULES) == 15.0


def test_a_case_is_measured_for_all(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    options = pipeline.PlanOptions("cpu", write_tiny_rules(tmp_path / "rules"))
    data = pipeline.DataOptions(None, 3, 0)
    plan = pipeline.plan(write_blobs(tmp_path / "data"), workspace, data, options, Silent())
    before = sorted(workspace.root.rglob("*"))
    pace = measure_scoring(workspace, contents_of(workspace, plan, None, None), load_rulebook().empirical)
    assert 0 < pace.scores_s < 60
    assert 0 < pace.outcomes_s < 60
    assert pace.slowdown >= 1
    assert sorted(workspace.root.rglob("*")) == before
