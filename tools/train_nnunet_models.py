r"""Trains a few small models with nnU-Net itself, which `autoseg import-nnunet` is tested and timed with.

Runs in nnU-Net's environment, not in ours; each model sees few cases, few steps and, but for one, a narrow network. To
find something after so few steps it learns with Adam; all else is nnU-Net's own:

    ENVIRONMENT/bin/python tools/train_nnunet_models.py FOLDER \
        --hippocampus Task04_Hippocampus.tar --acdc ACDC_subset.tar

FOLDER gets nnU-Net's raw, preprocessed and results folders, and `images/<dataset>` with cases that no model has seen.
"""

import argparse
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

PLANS = "nnUNetPlans"
SYNTHETIC_CLASSES = 30
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Subset:
    """A dataset of a few cases under nnU-Net's names.

    Attributes:
        number: As nnU-Net numbers datasets.
        name: After the number.
        source: Which archive it is cut from; empty for one that is made up.
        num_training, num_test: Cases to learn from, and cases for predictions.
        labels: As in nnU-Net's `dataset.json`.
        more: Further entries of it.
        ignored: Value given to a corner of each label map; None for none.
        test_edge: In-plane size of cases for predictions, in voxels, cut from the middle; None for all of them.
    """

    number: int
    name: str
    source: str
    num_training: int
    num_test: int
    labels: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)
    ignored: int | None = None
    test_edge: int | None = None

    @property
    def folder_name(self) -> str:
        return f"Dataset{self.number:03d}_{self.name}"


@dataclass(frozen=True)
class Model:
    """A model to train.

    Attributes:
        dataset: Number of its `Subset`.
        configuration: Of nnU-Net's plan.
        planner: nnU-Net's.
        folds: Networks; all learn from the same cases.
        num_steps: Of training, in two epochs.
        width: Channels at full resolution; None for nnU-Net's own widths.
        patch: Of the network; None for nnU-Net's own.
    """

    dataset: int
    configuration: str
    planner: str = "ExperimentPlanner"
    folds: tuple[int, ...] = (0,)
    num_steps: int = 300
    width: int | None = 8
    patch: tuple[int, ...] | None = None


HIPPOCAMPUS = {"background": 0, "anterior": 1, "posterior": 2}
REGIONS = {"background": 0, "heart": [1, 2, 3], "left ventricle with wall": [2, 3], "left ventricle": 3, "ignore": 4}
SUBSETS = (
    Subset(801, "Hippocampus", "hippocampus", 12, 52, HIPPOCAMPUS),
    Subset(802, "Hearts", "acdc", 6, 6, {"background": 0, "right": 1, "wall": 2, "left": 3}, test_edge=80),
    Subset(803, "HeartRegions", "acdc", 6, 6, REGIONS, {"regions_class_order": [1, 2, 3]}, ignored=4, test_edge=80),
    Subset(
        804,
        "ThirtyClasses",
        "",
        4,
        1,
        {"background": 0, **{f"class {value}": value for value in range(1, SYNTHETIC_CLASSES)}},
    ),
)
MODELS = (
    Model(801, "3d_fullres", width=None, num_steps=80),
    Model(801, "2d", width=16),
    Model(801, "3d_lowres"),
    Model(801, "3d_cascade_fullres", num_steps=200),
    Model(802, "3d_fullres", patch=(8, 64, 64)),
    Model(802, "3d_fullres", planner="nnUNetPlannerResEncM", folds=(0, 1), patch=(8, 64, 64), num_steps=200),
    Model(803, "3d_fullres", planner="nnUNetPlannerResEncM", patch=(8, 64, 64), num_steps=200),
    Model(803, "2d", planner="nnUNetPlannerResEncM", patch=(64, 64), num_steps=200),
    Model(804, "3d_fullres", patch=(64, 64, 64), num_steps=80),
)


def main() -> None:
    """Lay out, plan, preprocess and train what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hippocampus", type=Path, required=True, help="Task04_Hippocampus.tar of the Decathlon")
    parser.add_argument("--acdc", type=Path, required=True, help="archive of cine MR in the layout of the Decathlon")
    parser.add_argument("--datasets", type=int, nargs="*", help="numbers of those to work on; all if left out")
    given = parser.parse_args()
    for part in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{part}"] = str(given.folder / part)
    os.environ["nnUNet_compile"] = "f"  # noqa: SIM112 - nnU-Net's own spelling
    archives = {"hippocampus": given.hippocampus, "acdc": given.acdc}
    for subset in SUBSETS:
        if given.datasets and subset.number not in given.datasets:
            continue
        if not (given.folder / "images" / subset.folder_name).exists():
            _lay_out(subset, archives, given.folder)
        for model in MODELS:
            if model.dataset == subset.number:
                _train(model, subset, given.folder)


def _lay_out(subset: Subset, archives: dict[str, Path], folder: Path) -> None:
    """Write the cases under nnU-Net's names: those to learn from into `raw`, the others into `images`."""
    raw, test = folder / "raw" / subset.folder_name, folder / "images" / subset.folder_name
    for place in (raw / "imagesTr", raw / "labelsTr", test):
        place.mkdir(parents=True, exist_ok=True)
    cases = _unpacked_cases(archives[subset.source], folder) if subset.source else []
    rng = np.random.default_rng(0)
    for index in range(subset.num_training + subset.num_test):
        is_test = index >= subset.num_training
        name = f"case_{index:03d}"
        image, label = _read(*cases[index]) if cases else _made_up(rng, enlarged=is_test)
        if is_test:
            image = image if subset.test_edge is None else _middle(image, subset.test_edge)
            sitk.WriteImage(image, str(test / f"{name}_0000.nii.gz"))
            continue
        if subset.ignored is not None:
            label = _corner_set(label, subset.ignored)
        sitk.WriteImage(image, str(raw / "imagesTr" / f"{name}_0000.nii.gz"))
        sitk.WriteImage(label, str(raw / "labelsTr" / f"{name}.nii.gz"))
    description = {
        "channel_names": {"0": "CT" if not subset.source else "MRI"},
        "labels": subset.labels,
        "numTraining": subset.num_training,
        "file_ending": ".nii.gz",
        **subset.more,
    }
    (raw / "dataset.json").write_text(json.dumps(description))


def _unpacked_cases(archive: Path, folder: Path) -> list[tuple[Path, Path]]:
    """Return image and label of the cases of an archive in the Decathlon's layout."""
    place = folder / "unpacked"
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
        root = place / tar.getnames()[0].split("/")[0]
    labels = sorted(path for path in (root / "labelsTr").glob("*.nii.gz") if not path.name.startswith("."))
    return [(root / "imagesTr" / path.name, path) for path in labels]


def _read(image: Path, label: Path) -> tuple[sitk.Image, sitk.Image]:
    return sitk.ReadImage(str(image), sitk.sitkFloat32), sitk.ReadImage(str(label), sitk.sitkUInt8)


def _middle(image: sitk.Image, edge: int) -> sitk.Image:
    """Return the middle of each slice."""
    across, down = ((size - edge) // 2 for size in image.GetSize()[:2])
    return image[across : across + edge, down : down + edge, :]


def _corner_set(label: sitk.Image, value: int) -> sitk.Image:
    """Return a label map with a value in one corner of every slice."""
    array = sitk.GetArrayFromImage(label)
    array[:, : array.shape[1] // 4, : array.shape[2] // 4] = value
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(label)
    return changed


def _made_up(rng: np.random.Generator, *, enlarged: bool) -> tuple[sitk.Image, sitk.Image]:
    """Return bright balls on a grid, one class each, at 2 mm; enlarged, a scan of 256x256x160 voxels of 1 mm."""
    shape, spacing = ((160, 256, 256), 1.0) if enlarged else ((80, 128, 128), 2.0)
    grid = np.stack(np.meshgrid(*(np.arange(size) * spacing for size in shape), indexing="ij"))
    label = np.zeros(shape, np.uint8)
    centres = [(z, y, x) for z in (30, 80, 130) for y in (30, 80, 130, 180) for x in (30, 90, 150)]
    for value, centre in zip(range(1, SYNTHETIC_CLASSES), centres, strict=False):
        place = np.asarray(centre) + rng.uniform(-8, 8, 3)
        distance = np.sqrt(((grid - place[:, None, None, None]) ** 2).sum(axis=0))
        label[distance < rng.uniform(12, 20)] = value
    image = label * 30.0 + rng.normal(0, 8, shape)
    found = []
    for array in (image.astype(np.float32), label):
        written = sitk.GetImageFromArray(array)
        written.SetSpacing((spacing,) * 3)
        found.append(written)
    return found[0], found[1]


def _train(model: Model, subset: Subset, folder: Path) -> None:
    plans_name = f"{PLANS}_{model.planner}"
    preprocessed = folder / "preprocessed" / subset.folder_name
    plans_path = preprocessed / f"{plans_name}.json"
    if not plans_path.exists():
        _plan(model, subset, plans_name)
    results = folder / "results" / subset.folder_name / f"nnUNetTrainer__{plans_name}__{model.configuration}"
    wanted = [fold for fold in model.folds if not (results / f"fold_{fold}" / "checkpoint_final.pth").exists()]
    if not wanted:
        return
    plans = json.loads(plans_path.read_text())
    _shrink(plans, model)
    plans_path.write_text(json.dumps(plans))
    cases = [f"case_{index:03d}" for index in range(subset.num_training)]
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": cases, "val": cases}] * 2))
    _api("experiment_planning.plan_and_preprocess_api", "preprocess_dataset")(
        subset.number, plans_name, (model.configuration,), (1,)
    )
    for fold in wanted:
        _train_fold(model, subset, plans_name, fold)


def _plan(model: Model, subset: Subset, plans_name: str) -> None:
    os.environ["nnUNet_n_proc_DA"] = "1"  # noqa: SIM112 - nnU-Net's own spelling
    _api("experiment_planning.plan_and_preprocess_api", "extract_fingerprints")([subset.number], num_processes=1)
    _api("experiment_planning.plan_and_preprocess_api", "plan_experiments")(
        [subset.number], experiment_planner_class_name=model.planner, overwrite_plans_name=plans_name
    )


def _shrink(plans: dict[str, Any], model: Model) -> None:
    """Make the network of a plan narrow and its batch small; add a cascade where one is asked for."""
    configurations = plans["configurations"]
    if "3d_lowres" not in configurations and model.configuration == "3d_lowres":
        lowres = json.loads(json.dumps(configurations["3d_fullres"]))
        lowres["spacing"] = [2 * size for size in lowres["spacing"]]
        lowres["patch_size"] = [size // 2 for size in lowres["patch_size"]]
        lowres["data_identifier"] += "_lowres"
        lowres["next_stage"] = "3d_cascade_fullres"
        configurations["3d_lowres"] = lowres
        configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    entry = configurations[model.configuration]
    if "inherits_from" in entry:
        inherited = json.loads(json.dumps(configurations[entry["inherits_from"]]))
        entry = configurations[model.configuration] = {**inherited, "previous_stage": entry["previous_stage"]}
    entry["batch_size"] = 2 if len(entry["patch_size"]) == 3 else 8
    if model.patch is not None:
        entry["patch_size"] = list(model.patch)
    network = entry["architecture"]["arch_kwargs"]
    if model.width is not None:
        network["features_per_stage"] = [
            min(model.width * 2**stage, 8 * model.width) for stage in range(network["n_stages"])
        ]
    while not _fits(network, entry["patch_size"]):
        _drop_stage(network)


def _fits(network: dict[str, Any], patch: list[int]) -> bool:
    """Return whether a patch can be halved as often as a network does, and is more than one voxel then."""
    divisors = np.prod(network["strides"], axis=0)
    sizes = [divmod(size, divisor) for size, divisor in zip(patch, divisors, strict=True)]
    return not any(rest for _, rest in sizes) and any(size > 1 for size, _ in sizes)


def _drop_stage(network: dict[str, Any]) -> None:
    """Take the deepest stage from a network that its patch is too small for."""
    network["n_stages"] -= 1
    for name, value in network.items():
        if isinstance(value, list):
            network[name] = value[:-1]


def _train_fold(model: Model, subset: Subset, plans_name: str, fold: int) -> None:
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - nnU-Net's own spelling
    torch = import_module("torch")
    torch.manual_seed(fold)
    get_trainer = _api("run.run_training", "get_trainer_from_args")
    trainer = get_trainer(
        str(subset.number), model.configuration, fold, "nnUNetTrainer", plans_name, device=torch.device("cpu")
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = (
        2,
        model.num_steps // 2,
        1,
    )
    trainer.initialize()
    trainer.optimizer = torch.optim.Adam(trainer.network.parameters(), LEARNING_RATE)
    trainer.run_training()
    if model.configuration == "3d_lowres":
        trainer.perform_actual_validation(save_probabilities=False)
    shutil.rmtree(Path(trainer.output_folder) / "validation", ignore_errors=True)


def _api(module: str, name: str) -> Callable[..., Any]:
    """Return a function of nnU-Net, which reads its folders' names when it is first imported."""
    found: Callable[..., Any] = getattr(import_module(f"nnunetv2.{module}"), name)
    return found


if __name__ == "__main__":
    main()
