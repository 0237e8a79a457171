"""Training that begins with the weights of another model."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoseg.core.artefact import digest_of_file
from autoseg.core.errors import ArtefactError, TrainingError
from autoseg.core.progress import Silent
from autoseg.core.workspace import FoldFolder
from autoseg.data.splits import Split
from autoseg.network.unet import UNet
from autoseg.train.loop import FoldData, TrainingRequest, train_fold
from autoseg.train.record import TrainingRecord
from tests.train.plans import cube_plan, store_cube, training

STANDING_STILL = training(steps_per_epoch=1, validation_steps=1, learning_rate=1e-20)
NETWORK = cube_plan().configurations["3d_fullres"].network


@pytest.fixture
def data(tmp_path: Path) -> FoldData:
    folder = tmp_path / "cases"
    for seed, name in enumerate("ab"):
        store_cube(folder, name, seed)
    return FoldData(Split(train=("a",), validation=("b",)), folder, "digest")


def _train(
    data: FoldData,
    folder: Path,
    init_from: Path | None,
    decay: float = 0.0,
    *,
    restart: bool = False,
    makes_room: bool = False,
) -> TrainingRecord:
    request = TrainingRequest(
        configuration="3d_fullres",
        fold=0,
        num_epochs=1,
        budget_s=None,
        device="cpu",
        seed=5,
        num_workers=0,
        restart=restart,
        makes_room=makes_room,
        init_from=init_from,
    )
    plan = cube_plan(STANDING_STILL.model_copy(update={"weight_average_decay": decay}))
    return train_fold(plan, data, FoldFolder(folder), request, Silent())


def _weights_of(seed: int, **changes: object) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {name: weight.clone() for name, weight in UNet(NETWORK.model_copy(update=changes)).state_dict().items()}


@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("source", ["file", "folder"])
def test_a_training_begins_with_the_weights_of_a_model(
    data: FoldData, tmp_path: Path, source: str, decay: float
) -> None:
    path = FoldFolder(tmp_path / "model").weights
    path.parent.mkdir()
    weights = _weights_of(seed=77)
    save_file(weights, path)
    record = _train(data, tmp_path / "fold", path if source == "file" else path.parent, decay)
    found = load_file(FoldFolder(tmp_path / "fold").weights)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    made_from = {
        "plan": cube_plan(STANDING_STILL.model_copy(update={"weight_average_decay": decay})).digest(),
        "dataset": "digest",
        "initial weights": digest_of_file(path),
    }
    assert made_from.items() <= record.made_from.items()


def test_a_training_does_not_begin_with_weights_that_make_room_for_it(data: FoldData, tmp_path: Path) -> None:
    _train(data, tmp_path / "fold", None)
    weights = FoldFolder(tmp_path / "fold").weights.read_bytes()
    for restart in (True, False):
        with pytest.raises(TrainingError, match="must be weights that stay, got those of the very training"):
            _train(data, tmp_path / "fold", tmp_path / "fold", restart=restart, makes_room=not restart)
        assert FoldFolder(tmp_path / "fold").weights.read_bytes() == weights
        assert FoldFolder(tmp_path / "fold").record.exists()


def test_what_does_not_fit_is_left_and_both_are_logged(
    data: FoldData, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("autoseg"), "propagate", True)
    other = _weights_of(seed=77, num_outputs=NETWORK.num_outputs + 2)
    save_file({**other, "strange": torch.zeros(3)}, tmp_path / "other.safetensors")
    own = _weights_of(seed=5)
    with caplog.at_level(logging.INFO, "autoseg"):
        _train(data, tmp_path / "fold", tmp_path / "other.safetensors")
    found = load_file(FoldFolder(tmp_path / "fold").weights)
    fits = {name for name in own if own[name].shape == other[name].shape}
    assert fits
    assert own.keys() - fits
    for name in own:
        assert torch.equal(found[name], (other if name in fits else own)[name])
    left, taken = sorted({line for line in caplog.messages if line.startswith(("Took", "Did not take"))})
    assert taken.startswith(f"Took {len(fits)} of {len(own)} weights")
    assert all(name in taken for name in fits)
    assert all(name in left for name in own.keys() - fits)
    assert "strange (here absent, there (3,))" in left


def test_other_weights_are_another_training(data: FoldData, tmp_path: Path) -> None:
    for seed in (1, 2):
        save_file(_weights_of(seed), tmp_path / f"{seed}.safetensors")
    _train(data, tmp_path / "fold", tmp_path / "1.safetensors")
    _train(data, tmp_path / "fold", tmp_path / "1.safetensors")
    for other in (None, tmp_path / "2.safetensors"):
        with pytest.raises(TrainingError, match="initial weights"):
            _train(data, tmp_path / "fold", other)


def test_weights_of_which_none_fits_are_refused(data: FoldData, tmp_path: Path) -> None:
    save_file({"strange": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match="at least one weight must agree"):
        _train(data, tmp_path / "fold", tmp_path / "other.safetensors")


@pytest.mark.parametrize("place", ["nowhere.safetensors", "."])
def test_weights_that_are_not_there_are_named(data: FoldData, tmp_path: Path, place: str) -> None:
    with pytest.raises(TrainingError, match=r"--init-from .*: must be weights"):
        _train(data, tmp_path / "fold", tmp_path / place)


def test_damaged_weights_are_named(data: FoldData, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ArtefactError, match=r"broken\.safetensors: must be a safetensors file"):
        _train(data, tmp_path / "fold", tmp_path / "broken.safetensors")
