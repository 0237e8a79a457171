"""Times training steps of autoseg beside nnU-Net's on the same plan, in turn, in one process, and prints tables.

    python -m tools.speed_training Task04_Hippocampus.tar --nnunet-bin ENVIRONMENT/bin

Each plans and preprocesses the dataset by itself (`3d_fullres`, the preset `plain`); both must come to the same patch,
batch and channels. Steps then alternate within one process of nnU-Net's interpreter, so that both use one torch, the
same cores and the same moment. A step is drawing and reading the patches, augmentation, forward and backward pass and
optimiser; both load between their steps, as other processes would only take the cores from the network.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.network.device import best_precision
from autoseg.pipeline.planning.folds import load_split
from autoseg.pipeline.planning.prepare import DataOptions, PlanOptions, load_plan, plan, preprocess
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan
from autoseg.train.sampling import PatchSource, SamplingPlan
from autoseg.train.trainer import Trainer
from tools.nnunet_layout import lay_out, run

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION: ConfigurationName = "3d_fullres"

Step = Callable[[int], object]


def main() -> None:
    """Prepare both, or, within nnU-Net's interpreter, time them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="archive or folder of a dataset of NIfTI files, one file per case")
    parser.add_argument("--nnunet-bin", type=Path, required=True, help="folder of nnU-Net's commands")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each, after one that does not count")
    parser.add_argument("--folder", type=Path, help="where both prepare; kept, and not prepared again")
    parser.add_argument("--only-ours", action="store_true", help="leave nnU-Net out: what each of our choices brings")
    parser.add_argument("--prepared", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.prepared:
        time_steps(given.folder, given.rounds, only_ours=given.only_ours)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        environment = prepare(given.source, folder, given.nnunet_bin)
        command = [given.nnunet_bin / "python", "-m", "tools.speed_training", given.source, "--nnunet-bin"]
        command += [given.nnunet_bin, "--folder", folder, "--rounds", str(given.rounds), "--prepared"]
        command += ["--only-ours"] if given.only_ours else []
        environment = {**environment, "PYTHONPATH": str(ROOT)}
        subprocess.run([str(part) for part in command], env=environment, check=True, cwd=ROOT)


def prepare(source: Path, folder: Path, nnunet_bin: Path) -> dict[str, str]:
    """Plan and preprocess for both, unless it was done; return the environment that nnU-Net wants."""
    variables = {f"nnUNet_{part}": str(folder / part) for part in ("raw", "preprocessed", "results")}
    environment = {**os.environ, **variables, "nnUNet_compile": "f", "nnUNet_n_proc_DA": "0"}
    done = folder / "prepared"
    if not done.exists():
        lay_out(source, folder)
        command = ["nnUNetv2_plan_and_preprocess", "-d", "1", "-c", CONFIGURATION, "-np", "2", "-npfp", "2"]
        run([nnunet_bin / command[0], *command[1:]], {**os.environ, **variables})
        workspace = Workspace(folder / "workspace")
        plan(source, workspace, DataOptions(None, None, 2), PlanOptions("plain", None), Silent())
        preprocess(workspace, CONFIGURATION, 2, Silent())
        done.touch()
    return environment


def time_steps(folder: Path, rounds: int, *, only_ours: bool) -> None:
    """Take steps of every variant in turn and print what they took."""
    torch.set_num_threads(os.cpu_count() or 1)
    steps = _variants(folder, with_ablation=only_ours)
    if not only_ours:
        steps = {"nnU-Net": _nnunet(folder), **steps}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            began = time.monotonic()
            step(number)
            if number > 0:
                seconds[name].append(time.monotonic() - began)
                print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    first = next(iter(seconds))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {time.ctime()}, {rounds} rounds\n")
    print(f"| training step | median s | runs | times that of {first}, pair by pair: median | highest |")
    print("|---|---|---|---|---|")
    for name, found in seconds.items():
        ratios = [one / other for one, other in zip(found, seconds[first], strict=True)]
        runs = ", ".join(f"{entry:.2f}" for entry in found)
        ratio = f"{statistics.median(ratios):.3f} | {max(ratios):.3f}"
        print(f"| {name} | {statistics.median(found):.2f} | {runs} | {ratio} |")


def _variants(folder: Path, *, with_ablation: bool) -> dict[str, Step]:
    """Return our steps in both precisions, and with single choices taken back."""
    steps: dict[str, Step] = {}
    for precision in dict.fromkeys((best_precision(torch.device("cpu")), "float32")):
        steps[f"autoseg, {precision}"] = _ours(folder, precision, [])
        if with_ablation:
            steps[f"autoseg, {precision}, channels first"] = _ours(folder, precision, [_channels_first])
            steps[f"autoseg, {precision}, the batch at once"] = _ours(folder, precision, [_at_once])
            steps[f"autoseg, {precision}, both"] = _ours(folder, precision, [_channels_first, _at_once])
    return steps


def _ours(folder: Path, precision: str, changes: list[Callable[[Trainer], None]]) -> Step:
    workspace = Workspace(folder / "workspace")
    planned = load_plan(workspace)
    configuration = planned.configurations[CONFIGURATION]
    trainer = Trainer(planned.training, configuration, "cpu", seed=0)
    trainer.precision = "bfloat16" if precision == "bfloat16" else "float32"
    for change in changes:
        change(trainer)
    sampling = SamplingPlan.of(planned.training, configuration, 0, ("train", CONFIGURATION, 0))
    names = load_split(workspace, 0).train
    source = PatchSource(workspace.preprocessed(configuration.data_key), names, sampling)
    return lambda number: trainer.step(source.batch(number), planned.training.learning_rate, number)


def _channels_first(trainer: Trainer) -> None:
    for weight in trainer.network.parameters():
        weight.data = weight.data.contiguous()


def _at_once(trainer: Trainer) -> None:
    trainer.samples_at_once = trainer.configuration.batch_size


def _nnunet(folder: Path) -> Step:
    """Return nnU-Net's step, after a look at whether its plan is ours."""
    from nnunetv2.run.run_training import get_trainer_from_args  # type: ignore[import-not-found]

    trainer: Any = get_trainer_from_args("1", CONFIGURATION, 0, device=torch.device("cpu"))
    ours = load_plan(Workspace(folder / "workspace")).configurations[CONFIGURATION]
    _require_same(ours, trainer.configuration_manager)
    trainer.initialize()
    trainer.dataset_class.unpack_dataset(trainer.preprocessed_dataset_folder, num_processes=1)
    batches, _ = trainer.get_dataloaders()
    trainer.network.train()
    return lambda number: trainer.train_step(next(batches))  # noqa: ARG005 - nnU-Net draws by itself


def _require_same(ours: ConfigurationPlan, theirs: Any) -> None:  # noqa: ANN401 - nnU-Net's, untyped
    features = theirs.network_arch_init_kwargs["features_per_stage"]
    found = (tuple(theirs.patch_size), theirs.batch_size, tuple(features))
    if found != (expected := (ours.patch_size, ours.batch_size, ours.network.features)):
        sys.exit(f"plans: both must have the same patch, batch and channels, got {expected} and {found}.")


if __name__ == "__main__":
    main()
