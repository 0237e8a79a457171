import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from autoseg.core.artefact import digest_of_file
from autoseg.core.errors import ArtefactError, AutosegError, DatasetError, PlanError
from autoseg.core.geometry import Geometry
from autoseg.core.workspace import ALL_DATA, Workspace
from autoseg.data.image import Image
from autoseg.interop.nnunet_models import import_nnunet
from autoseg.network.checkpoint import load_network
from autoseg.pipeline import PackRequest, choose_networks, load_predictor, pack
from autoseg.pipeline.packing.packed_model import read_manifest
from autoseg.pipeline.prediction.models import ModelChoice, load_model
from autoseg.plan.schema import ConfigurationPlan, InferencePlan, Plan
from autoseg.preprocess.resample import axis_orders, coarse_axis, resample_array
from autoseg.train.record import TrainingRecord
from tests.interop.nnunet_networks import configuration, dataset, plans, write_model

CHECKPOINT = Path("fold_0", "checkpoint_final.pth")

FINGERPRINT = {
    "shapes_after_crop": [[9, 9, 9]],
    "spacings": [[1.0, 1.0, 1.0]],
    "median_relative_size_after_cropping": 1.0,
    "foreground_intensity_properties_per_channel": {
        "0": dict.fromkeys(("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5"), 1.0)
    },
}


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_an_imported_network_computes_what_the_original_does(tmp_path: Path, kind: str, axes: int) -> None:
    name = f"{axes}d" if axes == 2 else "3d_fullres"
    originals = write_model(tmp_path / "model", plans(**{f"_{name}": configuration(kind, axes)}), name, folds=(0, 3))
    workspace = Workspace(tmp_path / "workspace")

    (model,) = import_nnunet([tmp_path / "model"], workspace)

    assert (model.configuration, model.folds) == (name, (0, 3))
    chosen = Plan.load(workspace.plan).configurations[model.configuration]
    x = torch.randn(2, 1, *chosen.patch_size)
    for fold, original in originals.items():
        ours = load_network(workspace.fold(name, int(fold)).weights, chosen.network)
        with torch.inference_mode():
            assert torch.allclose(ours(x), original(x), rtol=1e-4, atol=1e-4)
    assert not list(workspace.root.glob(".*"))


def test_an_imported_plan_says_what_the_original_does(tmp_path: Path) -> None:
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres")
    workspace = Workspace(tmp_path / "workspace")

    import_nnunet([tmp_path / "model"], workspace)

    plan = Plan.load(workspace.plan)
    assert (plan.dataset, plan.channels, plan.transpose) == ("Dataset999_Made", ("CT",), (1, 0, 2))
    assert plan.labels.values == (0, 1, 2)
    assert plan.inference == InferencePlan(tile_step=0.5, gaussian_sigma=0.125, gaussian_centre="half")
    chosen = plan.configurations["3d_fullres"]
    assert (chosen.spacing, chosen.patch_size, chosen.mirror_axes) == ((4.0, 1.0, 1.25), (8, 16, 16), (0, 2))
    (channel,) = chosen.normalization
    assert (channel.scheme, channel.lower, channel.upper, channel.mean, channel.std) == ("ct", 5, 95, 50, 20)
    resampling = chosen.resampling
    assert (resampling.image_order, resampling.output_order, resampling.coarse_axis_order) == (3, 1, 0)
    assert resampling.anisotropy_ratio == 3
    assert chosen.network.decoder_convs == (1, 2)
    record = TrainingRecord.load(workspace.fold("3d_fullres", 0).record)
    weights = digest_of_file(workspace.fold("3d_fullres", 0).weights)
    assert record.made_from == {"model": plan.model_digest("3d_fullres"), "weights": weights}
    assert (record.num_epochs, record.seconds, record.validation_dice) == (2, 19, {"liver": 0.75, "tumour": 0.5})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [True]}, {"scheme": "zscore"}),
        ({"normalization_schemes": ["RescaleTo01Normalization"]}, {"scheme": "rescale_to_0_1"}),
        ({"normalization_schemes": ["RGBTo01Normalization"]}, {"scheme": "rgb_to_0_1"}),
        ({"normalization_schemes": ["NoNormalization"]}, {"scheme": "none"}),
    ],
)
def test_normalisations_have_our_names(tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    (entry,) = _imported(tmp_path, {**configuration(), **changes}).normalization
    assert entry.model_dump() == {**entry.model_dump(), **expected, "within_mask": "use_mask_for_norm" in changes}


@pytest.mark.parametrize(("separate", "spacing", "axis"), [(None, 4.0, 0), (None, 2.0, None), (True, 2.0, 0)])
@pytest.mark.parametrize("function", ["resample_data_or_seg_to_shape", "resample_torch_fornnunet"])
def test_a_coarse_axis_is_found_as_nnunet_does(
    tmp_path: Path, function: str, separate: bool | None, spacing: float, axis: int | None
) -> None:
    resampling = _imported(tmp_path, _resampled_by(function, separate)).resampling
    assert coarse_axis((spacing, 1.0, 1.0), (1.0, 1.0, 1.0), resampling.anisotropy_ratio) == axis
    assert resampling.image_order == (3 if function == "resample_data_or_seg_to_shape" else 1)


def test_no_axis_is_coarse_where_nnunet_is_told_so(tmp_path: Path) -> None:
    resampling = _imported(tmp_path, _resampled_by("resample_data_or_seg_to_shape", separate=False)).resampling
    assert coarse_axis((50.0, 1.0, 1.0), (1.0, 1.0, 1.0), resampling.anisotropy_ratio) is None


def test_torch_resampling_is_linear_interpolation_of_ours() -> None:
    array = np.random.default_rng(0).normal(size=(5, 9, 12)).astype(np.float32)
    theirs = functional.interpolate(torch.from_numpy(array)[None, None], (8, 14, 7), mode="trilinear")[0, 0].numpy()
    assert np.allclose(resample_array(array, (8, 14, 7), (1, 1, 1)), theirs, atol=1e-5)
    nearest = functional.interpolate(torch.from_numpy(array)[None, None], (8, 9, 12), mode="nearest-exact")[0, 0]
    assert np.allclose(resample_array(array, (8, 9, 12), axis_orders(1, 0, 0)), nearest.numpy(), atol=1e-5)


def test_a_class_without_a_score_has_none(tmp_path: Path) -> None:
    """nnU-Net notes NaN of a class that no patch of the last epoch held."""
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres")
    _rewrite(
        tmp_path / "model",
        lambda document: document["logging"].update(
            dice_per_class_or_region=[[np.float32("nan"), np.float64(0.5)]], epoch_end_timestamps=[np.nan, 120.0]
        ),
    )
    workspace = Workspace(tmp_path / "workspace")
    import_nnunet([tmp_path / "model"], workspace)
    record = TrainingRecord.load(workspace.fold("3d_fullres", 0).record)
    assert (record.validation_dice, record.seconds) == ({"liver": None, "tumour": 0.5}, 0)


def test_weights_of_several_processes_are_those_of_one(tmp_path: Path) -> None:
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres")
    places = [Workspace(tmp_path / name) for name in ("one", "several")]
    import_nnunet([tmp_path / "model"], places[0])
    _rewrite(
        tmp_path / "model",
        lambda document: document.update(
            network_weights={f"module.{name}": tensor for name, tensor in document["network_weights"].items()}
        ),
    )
    import_nnunet([tmp_path / "model"], places[1])
    first, second = (place.fold("3d_fullres", 0).weights.read_bytes() for place in places)
    assert first == second


def test_a_class_of_the_network_is_known_without_its_module(tmp_path: Path) -> None:
    entry = configuration()
    entry["architecture"]["network_class_name"] = "PlainConvUNet"
    assert _imported(tmp_path, entry).network.kind == "plain"


def test_a_fingerprint_that_cannot_be_used_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, kind in (("one", "3d_fullres"), ("two", "3d_lowres")):
        write_model(tmp_path / name, _cascade_plans(), kind)
    broken = {**FINGERPRINT, "median_relative_size_after_cropping": float("nan")}
    (tmp_path / "one" / "dataset_fingerprint.json").write_text(json.dumps(broken))
    import_nnunet([tmp_path / "one"], Workspace(tmp_path / "without"))
    assert "dataset_fingerprint.json: must be a fingerprint" in caplog.text
    assert not Workspace(tmp_path / "without").fingerprint.exists()
    (tmp_path / "two" / "dataset_fingerprint.json").write_text(json.dumps(FINGERPRINT))
    import_nnunet([tmp_path / "one", tmp_path / "two"], Workspace(tmp_path / "with"))
    assert Workspace(tmp_path / "with").fingerprint.exists()


def test_an_import_that_fails_late_leaves_no_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres")
    (tmp_path / "model" / "dataset_fingerprint.json").write_text(json.dumps(FINGERPRINT))

    def full(*_: object) -> None:
        raise PlanError("the disk is full. Make room.")

    monkeypatch.setattr("autoseg.interop.nnunet_models._move_folds", full)
    assert "the disk is full" in _refused(tmp_path)


@pytest.mark.parametrize(("stages", "usual"), [(("3d_lowres",), "3d_lowres"), (("low", "high"), "3d_cascade_fullres")])
def test_an_imported_model_predicts_without_being_named(tmp_path: Path, stages: tuple[str, ...], usual: str) -> None:
    sources = _write_cascade(tmp_path)[: len(stages)]
    workspace = Workspace(tmp_path / "workspace")
    import_nnunet(sources, workspace)
    assert choose_networks(workspace).configuration == usual


def test_regions_and_voxels_without_annotation_are_kept(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    description = dataset(labels=labels, regions_class_order=[1, 2])
    chosen = _imported(tmp_path, configuration(), description, num_channels=(1, 2))
    assert chosen.regions == ((1, 2), (2,))
    assert chosen.has_ignored
    assert chosen.network.num_outputs == 2


def _write_cascade(folder: Path, folds: Sequence[int | str] = (0,)) -> list[Path]:
    """Write both stages of a cascade; return their folders."""
    document = _cascade_plans()
    write_model(folder / "low", document, "3d_lowres", folds)
    write_model(folder / "high", document, "3d_cascade_fullres", folds, num_channels=(3, 3))
    return [folder / "low", folder / "high"]


def test_a_cascade_is_made_of_two_folders(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")

    models = import_nnunet(_write_cascade(tmp_path), workspace)

    assert [model.configuration for model in models] == ["3d_lowres", "3d_cascade_fullres"]
    configurations = Plan.load(workspace.plan).configurations
    assert configurations["3d_cascade_fullres"].previous_stage == "3d_lowres"
    assert configurations["3d_cascade_fullres"].network.num_input_channels == 3
    assert configurations["3d_lowres"].spacing == (8.0, 2.0, 2.5)
    load_model(workspace, ModelChoice("3d_cascade_fullres", None, "cpu", mirror=True))


def test_a_cascade_without_its_first_stage_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "high", _cascade_plans(), "3d_cascade_fullres", num_channels=(3, 3))
    with pytest.raises(ArtefactError, match="needs its first stage, 3d_lowres"):
        import_nnunet([tmp_path / "high"], Workspace(tmp_path / "workspace"))


def test_older_plans_are_read(tmp_path: Path) -> None:
    entry = configuration()
    network = entry.pop("architecture")["arch_kwargs"]
    older = {
        **entry,
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": network["n_conv_per_stage"],
        "n_conv_per_stage_decoder": network["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": network["strides"],
        "conv_kernel_sizes": network["kernel_sizes"],
    }
    document = plans(_3d_fullres=older)
    document["foreground_intensity_properties_by_modality"] = document.pop(
        "foreground_intensity_properties_per_channel"
    )
    write_model(tmp_path / "older", document, "3d_fullres")
    write_model(tmp_path / "newer", plans(_3d_fullres=configuration()), "3d_fullres")
    found = [Workspace(tmp_path / f"workspace of {name}") for name in ("older", "newer")]
    for name, workspace in zip(("older", "newer"), found, strict=True):
        import_nnunet([tmp_path / name], workspace)
    assert Plan.load(found[0].plan).configurations == Plan.load(found[1].plan).configurations


def test_a_configuration_with_a_name_of_its_own_goes_by_what_it_is(tmp_path: Path) -> None:
    document = plans(_3d_fullres=configuration(), _3d_mine={"inherits_from": "3d_fullres", "batch_size": 4})
    write_model(tmp_path / "model", document, "3d_mine")
    (model,) = import_nnunet([tmp_path / "model"], Workspace(tmp_path / "workspace"))
    assert model.configuration == "3d_fullres"


def test_fold_all_is_the_training_on_all_data(tmp_path: Path) -> None:
    """Alone it predicts; beside numbered folds, as in nnU-Net, only if it is named."""
    write_model(tmp_path / "alone", plans(_3d_fullres=configuration()), "3d_fullres", folds=("all",))
    write_model(tmp_path / "beside", plans(_3d_fullres=configuration()), "3d_fullres", folds=("all", 1, 0))
    alone, beside = Workspace(tmp_path / "one"), Workspace(tmp_path / "two")
    assert import_nnunet([tmp_path / "alone"], alone)[0].folds == (ALL_DATA,)
    assert import_nnunet([tmp_path / "beside"], beside)[0].folds == (0, 1, ALL_DATA)
    choice = ModelChoice("3d_fullres", None, "cpu", mirror=True)
    assert [len(load_model(place, choice).model.networks) for place in (alone, beside)] == [1, 2]
    assert len(load_model(beside, replace(choice, folds=(ALL_DATA,))).model.networks) == 1


def test_a_cascade_of_fold_all_alone_predicts(tmp_path: Path) -> None:
    place = Workspace(tmp_path / "workspace")
    import_nnunet(_write_cascade(tmp_path, folds=("all",)), place)
    model = load_model(place, ModelChoice("3d_cascade_fullres", None, "cpu", mirror=True)).model
    assert model.earlier is not None
    assert (len(model.networks), len(model.earlier.networks)) == (1, 1)


def test_a_zip_gives_what_its_folder_gives(tmp_path: Path) -> None:
    root = tmp_path / "whole" / "Dataset999_Made" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    write_model(root, plans(_3d_fullres=configuration()), "3d_fullres")
    archive = Path(shutil.make_archive(str(tmp_path / "model"), "zip", tmp_path / "whole"))
    zipped, plain = Workspace(tmp_path / "zipped"), Workspace(tmp_path / "plain")
    import_nnunet([archive], zipped)
    import_nnunet([root], plain)
    assert zipped.plan.read_bytes() == plain.plan.read_bytes()
    weights = [place.fold("3d_fullres", 0).weights.read_bytes() for place in (zipped, plain)]
    assert weights[0] == weights[1]
    assert not list(zipped.root.glob(".*"))


def test_an_import_can_be_repeated_but_not_mixed(tmp_path: Path) -> None:
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres")
    write_model(tmp_path / "other", plans(_2d=configuration(axes=2)), "2d")
    workspace = Workspace(tmp_path / "workspace")
    assert import_nnunet([tmp_path / "model"], workspace) == import_nnunet([tmp_path / "model"], workspace)
    with pytest.raises(PlanError, match="got another plan"):
        import_nnunet([tmp_path / "other"], workspace)
    with pytest.raises(PlanError, match="each configuration must be given once"):
        import_nnunet([tmp_path / "model", tmp_path / "model"], Workspace(tmp_path / "new"))


def test_models_of_different_datasets_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "one", plans(_3d_fullres=configuration()), "3d_fullres")
    renamed = dataset(labels={"background": 0, "spleen": 1, "tumour": 2})
    write_model(tmp_path / "two", plans(_2d=configuration(axes=2)), "2d", dataset_document=renamed)
    with pytest.raises(PlanError, match="must have the same labels"):
        import_nnunet([tmp_path / "one", tmp_path / "two"], Workspace(tmp_path / "workspace"))


def test_a_variant_of_the_trainer_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres")
    _rewrite(tmp_path / "model", lambda document: document.update(trainer_name="nnUNetTrainerNoMirroring"))
    import_nnunet([tmp_path / "model"], Workspace(tmp_path / "workspace"))
    assert "trained by nnUNetTrainerNoMirroring" in caplog.text


class _Code:
    """Pickled, it asks whoever reads it to make a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self._folder),)


@pytest.mark.parametrize("is_bare", [True, False])
def test_a_pickle_with_code_is_refused_by_name_and_not_run(tmp_path: Path, is_bare: bool) -> None:
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres")
    evil = _Code(tmp_path / "run")
    if is_bare:
        (tmp_path / "model" / CHECKPOINT).write_bytes(pickle.dumps({"network_weights": evil}, protocol=2))
    else:
        _rewrite(tmp_path / "model", lambda document: document.update(logging=evil))
    error = _refused(tmp_path)
    assert f"{CHECKPOINT}: must hold tensors and plain values only, got {os.mkdir.__module__}.mkdir" in error
    assert not (tmp_path / "run").exists()


def test_a_pickle_that_torch_does_not_write_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres")
    (tmp_path / "model" / CHECKPOINT).write_bytes(pickle.dumps({"network_weights": _Code(tmp_path / "run")}, 4))
    assert "got: a pickle of another kind" in _refused(tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, share: float) -> None:
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres")
    path = tmp_path / "model" / CHECKPOINT
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert f"{CHECKPOINT}: must be a checkpoint of nnU-Net v2" in _refused(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("decoder.seg_layers.1.bias"), "decoder.seg_layers.1.bias must have shape (3,)"),
        (lambda weights: weights.update({"decoder.seg_layers.1.bias": torch.zeros(7)}), "plans.json, got (7,)"),
        (lambda weights: weights.update({"encoder.extra.weight": torch.zeros(1)}), "encoder.extra.weight must be part"),
        (
            lambda weights: weights.update(
                {"encoder.stages.0.0.convs.0.all_modules.1.bias": torch.full((4,), 9.0)},
            ),
            "all_modules.1.bias must equal encoder.stages.0.0.convs.0.norm.bias",
        ),
    ],
)
def test_weights_that_do_not_fit_the_plan_are_named(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres")
    _rewrite(tmp_path / "model", lambda document: change(document["network_weights"]))
    error = _refused(tmp_path)
    assert str(CHECKPOINT) in error
    assert message in error


@pytest.mark.parametrize("entry", ["network_weights", "init_args", "trainer_name", "current_epoch"])
def test_a_checkpoint_of_something_else_is_named(tmp_path: Path, entry: str) -> None:
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres")
    _rewrite(tmp_path / "model", lambda document: document.pop(entry))
    assert f"no entry '{entry}'" in _refused(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry.update(normalization_schemes=["Mine"]), "normalization_schemes must be among"),
        (lambda entry: entry.update(preprocessor_name="Mine"), "preprocessor_name"),
        (lambda entry: entry.update(resampling_fn_data="no_resampling_hack"), "got no_resampling_hack"),
        (lambda entry: entry["resampling_fn_data_kwargs"].update(force_separate_z=True), "treat a coarse axis alike"),
        (lambda entry: entry["architecture"].update(network_class_name="mine.Net"), "got mine.Net"),
        (lambda entry: entry["architecture"]["arch_kwargs"].update(norm_op="torch.nn.BatchNorm3d"), "norm_op"),
        (lambda entry: entry["architecture"]["arch_kwargs"].update(block="Bottleneck"), "arch_kwargs.block"),
        (lambda entry: entry["architecture"]["arch_kwargs"].update(kernel_sizes=2), "kernels must be odd"),
        (lambda entry: entry["architecture"]["arch_kwargs"].update(strides=[[1, 1, 1]]), "must have 3 entries"),
        (lambda entry: entry["resampling_fn_probabilities_kwargs"].update(order=6), "less than or equal to 5"),
        (lambda entry: entry.pop("spacing"), "spacing"),
    ],
)
def test_what_we_do_not_do_is_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    write_model(tmp_path / "model", plans(_3d_fullres=configuration()), "3d_fullres")
    document = plans(_3d_fullres=configuration())
    change(document["configurations"]["3d_fullres"])
    (tmp_path / "model" / "plans.json").write_text(json.dumps(document))
    error = _refused(tmp_path)
    assert "plans.json, 3d_fullres: " in error
    assert message in error


def test_a_reader_that_turns_images_is_refused(tmp_path: Path) -> None:
    write_model(
        tmp_path / "model",
        {**plans(_3d_fullres=configuration()), "image_reader_writer": "NibabelIOWithReorient"},
        "3d_fullres",
    )
    assert "image_reader_writer" in _refused(tmp_path)


def test_other_rules_for_labels_are_refused(tmp_path: Path) -> None:
    document = {**plans(_3d_fullres=configuration()), "label_manager": "MyLabelManager"}
    write_model(tmp_path / "model", document, "3d_fullres")
    assert "label_manager" in _refused(tmp_path)


def test_an_imported_model_predicts_the_same_after_packing(tmp_path: Path) -> None:
    """A cascade of two folds each, with regions, and the licence that its dataset.json declares."""
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    description = dataset(labels=labels, regions_class_order=[1, 2], licence="CC0")
    document = _cascade_plans()
    write_model(tmp_path / "low", document, "3d_lowres", (0, 1), description, (1, 2))
    write_model(tmp_path / "high", document, "3d_cascade_fullres", (0, 1), description, (3, 2))
    workspace = Workspace(tmp_path / "workspace")
    import_nnunet([tmp_path / "low", tmp_path / "high"], workspace)
    packed = pack(workspace, PackRequest(tmp_path / "model.zip", "3d_cascade_fullres"))
    array = np.random.default_rng(0).normal(50, 30, (1, 12, 20, 18)).astype(np.float32)
    image = Image(array, Geometry(spacing=(3.0, 1.5, 1.25)))
    before = load_predictor(workspace.root, "3d_cascade_fullres", device="cpu").predict(image).array
    shutil.rmtree(workspace.root)
    after = load_predictor(packed, device="cpu").predict(image).array
    np.testing.assert_array_equal(before, after)
    assert before.any()
    assert not before.all()
    manifest = read_manifest(packed)
    assert (manifest.configurations, manifest.folds) == (("3d_cascade_fullres",), (0, 1))
    assert (manifest.licence.text, manifest.licence.source) == ("CC0", "dataset")
    assert sum(name.endswith(".safetensors") for name in manifest.files) == 4


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("../plans.json", "{}")
    with pytest.raises(DatasetError, match=r"got '\.\./plans\.json', which is a path out of the folder"):
        import_nnunet([tmp_path / "model.zip"], Workspace(tmp_path / "workspace"))
    assert not (tmp_path / "workspace" / "plans.json").exists()


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model" / "fold_0").mkdir(parents=True)
    assert "must hold plans.json beside fold_0" in _refused(tmp_path)
    (tmp_path / "model" / "plans.json").write_text(json.dumps(plans(_3d_fullres=configuration())))
    assert "must hold dataset.json" in _refused(tmp_path)
    (tmp_path / "model" / "dataset.json").write_text(json.dumps(dataset()))
    assert "at least one fold must hold checkpoint_final.pth" in _refused(tmp_path)


def _imported(
    tmp_path: Path,
    entry: dict[str, Any],
    description: dict[str, Any] | None = None,
    num_channels: tuple[int, int] = (1, 3),
) -> ConfigurationPlan:
    write_model(tmp_path / "model", plans(_3d_fullres=entry), "3d_fullres", (0,), description, num_channels)
    workspace = Workspace(tmp_path / "workspace")
    import_nnunet([tmp_path / "model"], workspace)
    return Plan.load(workspace.plan).configurations["3d_fullres"]


def _resampled_by(function: str, separate: bool | None) -> dict[str, Any]:
    arguments = {"force_separate_z": separate}
    return {
        **configuration(),
        "resampling_fn_data": function,
        "resampling_fn_data_kwargs": arguments,
        "resampling_fn_probabilities": function,
        "resampling_fn_probabilities_kwargs": arguments,
    }


def _cascade_plans() -> dict[str, Any]:
    lowres = {"inherits_from": "3d_fullres", "spacing": [8.0, 2.0, 2.5], "next_stage": "3d_cascade_fullres"}
    cascade = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    return plans(_3d_fullres=configuration(), _3d_lowres=lowres, _3d_cascade_fullres=cascade)


def _rewrite(model: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = model / CHECKPOINT
    document = torch.load(path, weights_only=False)
    change(document)
    torch.save(document, path)


def _refused(tmp_path: Path) -> str:
    """Return the message of an import that must fail and leave nothing behind."""
    workspace = Workspace(tmp_path / "workspace")
    with pytest.raises(AutosegError) as refusal:
        import_nnunet([tmp_path / "model"], workspace)
    assert [path for path in workspace.root.rglob("*") if path.is_file()] == []
    return str(refusal.value)
