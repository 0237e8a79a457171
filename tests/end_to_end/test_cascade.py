"""A cascade: what a class is can be seen from afar alone, where it ends from near alone."""

import numpy as np
import pytest

from autoseg import pipeline
from autoseg.core.errors import PredictionError, TrainingError
from autoseg.core.geometry import Geometry
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.data.image import Image
from autoseg.data.splits import Splits
from autoseg.evaluate.scores import Evaluation
from autoseg.infer.predictor import Predictor
from autoseg.pipeline.planning.timing import Timing
from autoseg.pipeline.prediction.models import load_model
from autoseg.pipeline.training import cascade
from autoseg.plan.budget import TimeBudget, TimedChoice
from autoseg.plan.duration import DeviceSpeed
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan, NetworkPlan, Plan
from autoseg.train.loop import TrainingRequest
from tests.end_to_end.blobs import write_tiny_rules
from tests.end_to_end.runs import ImageAndLabel, write_cases

LEFT, RIGHT = 7, 3
SHAPE = (16, 16, 56)
DESCRIPTION: dict[str, object] = {"labels": {"background": 0, "left blob": LEFT, "right blob": RIGHT}}
CASCADE: ConfigurationName = "3d_cascade_fullres"


def _two_blobs(rng: np.random.Generator) -> ImageAndLabel:
    """A bright wall on the left and two equal balls, so far apart that a patch of 16 voxels shows one of the three."""
    label = np.zeros(SHAPE, dtype=np.uint8)
    position = np.indices(SHAPE)
    for value, first in ((LEFT, 19), (RIGHT, 46)):
        centre = [int(rng.integers(5, 11)), int(rng.integers(5, 11)), first + int(rng.integers(0, 4))]
        label[((position - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(axis=0) <= 4.2**2] = value
    image = rng.normal(0.0, 0.3, SHAPE) + 2.0 * (label > 0) + 10
    image[:, :, :3] += 4
    return image, label


def _with_small_patches(planned: Plan) -> Plan:
    """Return a plan of a first stage that sees a scan whole, at twice the spacing, and of a second that sees little."""
    full = planned.configurations["3d_fullres"]

    def network(num_channels: int, num_stages: int) -> NetworkPlan:
        ones, twos, along = (1, 1, 1), (2, 2, 2), (1, 1, 2)
        changes: dict[str, object] = {
            "num_input_channels": num_channels,
            "features": (6, 12, 16)[:num_stages],
            "strides": (ones, twos, along)[:num_stages],
            "kernels": ((3, 3, 3),) * num_stages,
            "encoder_blocks": (2,) * num_stages if full.network.kind == "plain" else (1,) * num_stages,
            "decoder_convs": (1,) * (num_stages - 1),
        }
        return NetworkPlan.model_validate({**full.network.model_dump(), **changes})

    def changed(**changes: object) -> ConfigurationPlan:
        return ConfigurationPlan.model_validate({**full.model_dump(), "batch_size": 2, **changes})

    fine = {"patch_size": (16, 16, 16)}
    configurations: dict[ConfigurationName, ConfigurationPlan] = {
        "3d_fullres": changed(**fine, network=network(1, 2)),
        "3d_lowres": changed(spacing=(2.0, 2.0, 2.0), patch_size=(8, 8, 28), network=network(1, 3)),
        CASCADE: changed(**fine, network=network(3, 2), previous_stage="3d_lowres"),
    }
    fast = planned.training.model_copy(update={"learning_rate": 0.01, "weight_average_decay": 0.9})
    return planned.model_copy(update={"configurations": configurations, "training": fast})


def _train(
    workspace: Workspace, configuration: ConfigurationName, fold: int, num_epochs: int, **changes: object
) -> None:
    settings: dict[str, object] = {"seed": 3, "restart": False, **changes}
    request = TrainingRequest(
        configuration=configuration,
        fold=fold,
        num_epochs=num_epochs,
        budget_s=None,
        device="cpu",
        num_workers=0,
        **settings,  # type: ignore[arg-type]
    )
    pipeline.train(workspace, request, 1, Silent())


def _held_out(workspace: Workspace, configuration: ConfigurationName) -> Evaluation:
    return pipeline.score_held_out(workspace, pipeline.ModelChoice(configuration, (0,), "cpu", False), 1, Silent())


def _dice(evaluation: Evaluation) -> list[float]:
    return [-1.0 if summary.dice.mean is None else summary.dice.mean for summary in evaluation.per_class.values()]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two folds of the first stage, one of the second, and one of a training that lacks the first."""
    folder = tmp_path_factory.mktemp("cascade")
    workspace = Workspace(folder / "work")
    source = write_cases(folder / "data", _two_blobs, DESCRIPTION, Geometry(spacing=(1.0, 1.0, 1.0)))
    data = pipeline.DataOptions(group_by=None, num_folds=2, num_workers=1)
    rules = pipeline.PlanOptions(preset="cpu", rules=write_tiny_rules(folder / "rules"))
    planned = _with_small_patches(pipeline.plan(source, workspace, data, rules, Silent()))
    planned.save(workspace.plan)
    with pytest.raises(TrainingError, match=r"all its folds must be trained first; missing: 0, 1\. Run"):
        _train(workspace, CASCADE, 0, 1)
    _train(workspace, "3d_lowres", 0, 10)
    with pytest.raises(TrainingError, match=r"missing: 1\. Run `autoseg train --configuration 3d_lowres --fold 1`"):
        _train(workspace, CASCADE, 0, 1)
    _train(workspace, "3d_lowres", 1, 10)
    _train(workspace, CASCADE, 0, 14, seed=4)
    return workspace


@pytest.mark.slow
def test_the_second_stage_learns_to_use_the_first(workspace: Workspace) -> None:
    """Alone it cannot tell one ball from the other; the first stage can, but sees every second voxel."""
    _train(workspace, "3d_fullres", 0, 8)
    lowres, alone, cascade = (_dice(_held_out(workspace, name)) for name in ("3d_lowres", "3d_fullres", CASCADE))
    assert min(cascade) > 0.9
    assert np.mean(alone) < 0.7
    assert np.mean(cascade) > np.mean(lowres)


@pytest.mark.slow
def test_a_new_scan_passes_through_both_stages(workspace: Workspace) -> None:
    image, label = _two_blobs(np.random.default_rng(99))
    scan = Image(image[None].astype(np.float32), Geometry(spacing=(1.0, 1.0, 1.0)))
    predictor = load_model(workspace, pipeline.ModelChoice(CASCADE, None, "cpu", mirror=True))
    assert predictor.model.earlier is not None
    assert [len(stage.networks) for stage in (predictor.model, predictor.model.earlier)] == [1, 2]
    found = predictor.predict(scan).array
    for value in (LEFT, RIGHT):
        overlap = ((found == value) & (label == value)).sum()
        assert 2 * overlap / ((found == value).sum() + (label == value).sum()) > 0.85


@pytest.mark.slow
def test_the_second_stage_learns_from_scans_mirrored_as_they_will_be_predicted(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def noting(place: Workspace, choice: pipeline.ModelChoice) -> Predictor:
        asked.append(choice.mirror)
        return load_model(place, choice)

    monkeypatch.setattr(cascade, "load_model", noting)
    planning = pipeline.Planning.load(workspace.planning)
    for timing, expected in ((_unmirrored(), [False, False]), (None, [True, True])):
        planning.model_copy(update={"timing": timing}).save(workspace.planning)
        cascade.predict_earlier_stage(workspace, CASCADE, "cpu", 0, Silent())
        assert asked == expected
        asked.clear()
        cascade.predict_earlier_stage(workspace, CASCADE, "cpu", 0, Silent())
        assert not asked


def _unmirrored() -> Timing:
    """Return what a budget has led to that is too short for mirror images."""
    choice = TimedChoice(
        configuration="3d_lowres",
        base_features=6,
        batch_size=2,
        steps_per_epoch=1,
        validation_steps=1,
        num_epochs=1,
        training_s=1.0,
        step_s=0.1,
        mirror=False,
    )
    speed = DeviceSpeed(
        device="cpu",
        is_cpu=True,
        precision="float32",
        number_bytes=4,
        layers=(),
        norm_training_s=0.0,
        norm_prediction_s=0.0,
    )
    return Timing(rules="", budget=TimeBudget(configuration="3d_lowres", seconds=1.0), speed=speed, choice=choice)


@pytest.mark.slow
def test_a_first_stage_that_was_trained_again_is_noticed(workspace: Workspace) -> None:
    """Only what its networks predict is predicted again; the second stage must be trained again too."""
    folder = workspace.preprocessed(Plan.load(workspace.plan).configurations[CASCADE].data_key)
    held_out = Splits.load(workspace.splits).folds[1].validation
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*.3d_lowres.b2nd")}
    assert len(written) == 6
    _train(workspace, "3d_lowres", 1, 1, restart=True)
    with pytest.raises(PredictionError, match=r"with the networks of 3d_lowres that it was trained.*--restart"):
        _held_out(workspace, CASCADE)
    with pytest.raises(TrainingError, match=r"got others.*--restart"):
        _train(workspace, CASCADE, 0, 14, seed=4)
    changed = {path.name.partition(".")[0] for path, when in written.items() if path.stat().st_mtime_ns != when}
    assert changed == set(held_out)
    _train(workspace, CASCADE, 0, 1, restart=True)
    _held_out(workspace, CASCADE)
