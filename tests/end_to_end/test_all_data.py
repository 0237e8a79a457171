"""A training on every case: it holds none out, claims no score, and predicts on its own."""

from pathlib import Path

import pytest

from autoseg import pipeline
from autoseg.core.errors import PredictionError
from autoseg.core.progress import Silent
from autoseg.core.workspace import ALL_DATA, FoldName, Workspace
from autoseg.data.splits import Splits
from autoseg.pipeline.planning.folds import load_split
from autoseg.pipeline.prediction.models import load_model
from autoseg.train.loop import TrainingRequest
from tests.end_to_end.blobs import write_blobs, write_tiny_rules


def _choice(*folds: FoldName) -> pipeline.ModelChoice:
    return pipeline.ModelChoice("3d_fullres", folds or None, "cpu", mirror=False)


@pytest.mark.slow
def test_a_training_on_all_data_stands_beside_the_folds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workspace = Workspace(tmp_path / "work")
    data = pipeline.DataOptions(group_by=None, num_folds=3, num_workers=1)
    rules = pipeline.PlanOptions(preset="cpu", rules=write_tiny_rules(tmp_path / "rules"))
    pipeline.plan(write_blobs(tmp_path / "data"), workspace, data, rules, Silent())
    request = TrainingRequest(
        configuration="3d_fullres",
        fold=ALL_DATA,
        num_epochs=1,
        budget_s=None,
        device="cpu",
        seed=1,
        num_workers=0,
        restart=False,
    )
    with caplog.at_level("INFO", logger="autoseg"):
        record = pipeline.train(workspace, request, 1, Silent())
    assert "not of held-out ones" in caplog.text
    assert record.fold == ALL_DATA
    split = load_split(workspace, ALL_DATA)
    assert split.train == split.validation
    assert len(split.train) == 6
    assert set(split.train) == {name for fold in Splits.load(workspace.splits).folds for name in fold.validation}

    assert workspace.folds("3d_fullres") == {}
    assert list(workspace.trainings("3d_fullres")) == [ALL_DATA]
    for choice in (_choice(), _choice(ALL_DATA)):
        assert len(load_model(workspace, choice).model.networks) == 1
    with pytest.raises(PredictionError, match="got folds all-data"):
        load_model(workspace, _choice(0))
    with pytest.raises(PredictionError, match="on its own, got both"):
        load_model(workspace, _choice(0, ALL_DATA))
    with pytest.raises(PredictionError, match="must be held out to be scored"):
        pipeline.score_held_out(workspace, _choice(ALL_DATA), 1, Silent())
