"""Which networks predict where some are named and some are not."""

from pathlib import Path

import pytest

from autoseg.cli.running import naming
from autoseg.core.artefact import digest_of_file
from autoseg.core.errors import PredictionError
from autoseg.core.progress import Silent
from autoseg.core.workspace import ALL_DATA, Workspace
from autoseg.infer.outcome import Predictions
from autoseg.network.checkpoint import save_weights
from autoseg.network.unet import UNet
from autoseg.pipeline import Networks, PackRequest, Request, choose_networks, load_plan, open_model, pack, predict
from autoseg.select.choose import Selection
from autoseg.train.record import TrainingRecord
from tests.pipeline.packing.packable import TOGETHER, train, write_scan


def _select_2d(workspace: Workspace) -> Selection:
    selection = Selection.load(workspace.selection).model_copy(update={"configurations": ("2d",)})
    selection.save(workspace.selection)
    return selection


def test_folds_are_those_of_what_was_selected(workspace: Workspace) -> None:
    selection = _select_2d(workspace)
    assert choose_networks(workspace) == Networks("2d", (0, 1), selection)
    assert choose_networks(workspace, folds=(1,)) == Networks("2d", (1,), selection)
    assert choose_networks(workspace, "3d_fullres", (1,)) == Networks("3d_fullres", (1,))


def test_what_has_learnt_from_all_data_follows_the_selection(workspace: Workspace) -> None:
    selection = _select_2d(workspace)
    train(workspace, load_plan(workspace), "2d", ALL_DATA)
    assert choose_networks(workspace, folds=(ALL_DATA,)) == Networks("2d", (ALL_DATA,), selection)
    assert choose_networks(workspace) == Networks("2d", (0, 1), selection)


def test_of_a_pair_both_must_have_learnt_from_all_data(workspace: Workspace, tmp_path: Path) -> None:
    train(workspace, load_plan(workspace), "2d", ALL_DATA)
    with pytest.raises(PredictionError, match="autoseg train --fold all-data --configuration 3d_fullres"):
        choose_networks(workspace, folds=(ALL_DATA,))
    train(workspace, load_plan(workspace), "3d_fullres", ALL_DATA)
    networks = choose_networks(workspace, folds=(ALL_DATA,))
    assert networks == Networks("2d", (ALL_DATA,), Selection.load(workspace.selection))

    scan = write_scan(tmp_path / "scan.nii.gz")
    both = _predicted(workspace, networks, scan, tmp_path / "both")
    assert (both.configuration, both.folds) == ("2d + 3d_fullres", (ALL_DATA,))
    packed = pack(workspace, PackRequest(tmp_path / "model.zip", folds=(ALL_DATA,)))
    with open_model(packed) as place:
        assert choose_networks(place).folds == (ALL_DATA,)
        again = _predicted(place, choose_networks(place), scan, tmp_path / "again")
    assert again.made_from["weights"] == both.made_from["weights"]
    first, second = (tmp_path / name / scan.name for name in ("both", "again"))
    assert first.read_bytes() == second.read_bytes()


def _predicted(workspace: Workspace, networks: Networks, scan: Path, folder: Path) -> Predictions:
    request = Request(source=scan, target=folder / scan.name)
    return predict(workspace, networks.choice("cpu"), request, Silent(), networks.selection)


def test_other_weights_of_the_second_of_a_pair_are_other_predictions(workspace: Workspace, tmp_path: Path) -> None:
    scan, planned = write_scan(tmp_path / "scan.nii.gz"), load_plan(workspace)
    for name in TOGETHER:
        train(workspace, planned, name, ALL_DATA)
    networks = choose_networks(workspace, folds=(ALL_DATA,))
    before = _predicted(workspace, networks, scan, tmp_path / "before")
    network = UNet(planned.configurations["3d_fullres"].network)
    folder = workspace.fold("3d_fullres", ALL_DATA)
    save_weights(network.state_dict(), folder.weights)
    record = TrainingRecord.load(folder.record)
    made_from = {**record.made_from, "weights": digest_of_file(folder.weights)}
    record.model_copy(update={"made_from": made_from}).save(folder.record)
    after = _predicted(workspace, networks, scan, tmp_path / "after")
    assert after.made_from["weights"] != before.made_from["weights"]


@pytest.mark.parametrize(
    ("configuration", "folds", "options"),
    [
        ("2d", None, " --configuration 2d"),
        ("2d", (0,), " --configuration 2d --folds 0"),
        ("3d_fullres", (0, 1), " --configuration 3d_fullres --folds 0,1"),
    ],
)
def test_beside_a_selection_other_networks_are_named(
    whole: Workspace, configuration: str, folds: tuple[int, ...] | None, options: str
) -> None:
    assert naming(whole, configuration, folds) == options  # type: ignore[arg-type]


def test_networks_that_predict_by_themselves_are_not_named(workspace: Workspace) -> None:
    workspace.selection.unlink()
    assert naming(workspace, "3d_fullres", (0, 1)) == ""
    assert naming(workspace, "3d_fullres", None) == ""
    assert naming(workspace, "3d_fullres", (1,)) == " --folds 1"
    assert naming(workspace, "2d", None) == " --configuration 2d"


def test_beside_a_selection_of_other_networks_they_are_named(workspace: Workspace) -> None:
    stale = Selection.load(workspace.selection)
    stale.model_copy(update={"made_from": dict.fromkeys(stale.made_from, "0" * 16)}).save(workspace.selection)
    assert naming(workspace, "3d_fullres", (0,)) == " --configuration 3d_fullres --folds 0"
