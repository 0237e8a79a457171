"""Trains with nnU-Net itself what `autoseg plan --export-nnunet` wrote, in 2D and 3D, and prints what came of it.

A few cases of a dataset are laid out for nnU-Net and planned by autoseg; nnU-Net preprocesses them by that plan, builds
its network, learns for one epoch of a few steps, and predicts and scores the cases that it held out:

    python -m tools.train_export_with_nnunet Task04_Hippocampus.tar --nnunet-bin ENVIRONMENT/bin
    python -m tools.train_export_with_nnunet ACDC.tar --nnunet-bin ENVIRONMENT/bin --preset plain --patch-size 8,64,64
"""

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from autoseg.core.workspace import Workspace
from autoseg.plan.cost import num_parameters
from autoseg.plan.schema import ConfigurationName, Plan
from tools.nnunet_layout import DATASET, lay_out, run

PLANS = "autosegPlans"
CONFIGURATIONS: tuple[ConfigurationName, ...] = ("2d", "3d_fullres")
NUM_STEPS, NUM_VALIDATION_STEPS = 6, 2

HEADER = """| configuration | patch | batch | parameters by our plan | of nnU-Net's network | loss, first step | last step | validation loss | Dice of held-out cases |
|---|---|---|---|---|---|---|---|---|"""  # noqa: E501


def main() -> None:
    """Print the table; or, started by nnU-Net's interpreter, train one configuration and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="archive or folder of a dataset of NIfTI files, one file per case")
    parser.add_argument("--nnunet-bin", type=Path, help="folder of nnU-Net's commands")
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--preset", default="residual-m")
    parser.add_argument("--patch-size", help="as of autoseg plan")
    parser.add_argument("--configuration", choices=CONFIGURATIONS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.configuration is not None:
        sys.stdout.write("\n" + json.dumps(_train(given.source, given.configuration)))
        return
    with tempfile.TemporaryDirectory() as folder:
        _export_and_train(given, Path(folder))


def _export_and_train(given: argparse.Namespace, folder: Path) -> None:
    environment = lay_out(given.source, folder, given.cases)
    preprocessed = folder / "preprocessed" / DATASET
    plan = [sys.executable, "-m", "autoseg", "plan", folder / "raw" / DATASET, "--workspace", folder / "workspace"]
    plan += ["--preset", given.preset, "--batch-size", "2", "--export-nnunet", preprocessed / f"{PLANS}.json"]
    plan += ["--patch-size", given.patch_size] if given.patch_size else []
    run(plan, environment)
    run([given.nnunet_bin / "nnUNetv2_extract_fingerprint", "-d", "1", "-np", "2"], environment)
    prepare = [given.nnunet_bin / "nnUNetv2_preprocess", "-d", "1", "-plans_name", PLANS, "-np", "2"]
    run([*prepare, "-c", *CONFIGURATIONS], environment)
    planned = Plan.load(Workspace(folder / "workspace").plan)
    print(f"{planned.dataset}, {given.cases} cases, preset {given.preset}\n\n{HEADER}")
    for name in CONFIGURATIONS:
        alone = {**environment, "nnUNet_compile": "f", "nnUNet_n_proc_DA": "0"}
        train = [given.nnunet_bin / "python", "-m", "tools.train_export_with_nnunet", preprocessed]
        found = json.loads(run([*train, "--configuration", name], alone).splitlines()[-1])
        chosen = planned.configurations[name]
        cells = [name, " x ".join(map(str, chosen.patch_size)), chosen.batch_size]
        cells += [f"{num_parameters(chosen.network):,}", f"{found['parameters']:,}"]
        cells += [f"{loss:.3f}" for loss in (found["losses"][0], found["losses"][-1], found["validation_loss"])]
        print(f"| {' | '.join(map(str, cells))} | {found['dice']:.3f} |", flush=True)


def _train(preprocessed: Path, configuration: str) -> dict[str, Any]:
    """Return what a short training with nnU-Net's own trainer gives: parameters, losses, Dice of held-out cases."""
    torch = importlib.import_module("torch")
    base = importlib.import_module("nnunetv2.training.nnUNetTrainer.nnUNetTrainer").nnUNetTrainer
    documents = [json.loads((preprocessed / f"{name}.json").read_text()) for name in (PLANS, "dataset")]
    documents[0]["continue_training"] = False  # nnUNetv2_train adds it too
    trainer = base(documents[0], configuration, 0, documents[1], torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch = 1, NUM_STEPS
    trainer.num_val_iterations_per_epoch = NUM_VALIDATION_STEPS
    losses: list[float] = []
    step = trainer.train_step

    def noted_step(batch: object) -> dict[str, Any]:
        outcome: dict[str, Any] = step(batch)
        losses.append(float(outcome["loss"]))
        return outcome

    trainer.train_step = noted_step
    trainer.run_training()
    trainer.perform_actual_validation(False)
    summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    return {
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "losses": losses,
        "validation_loss": float(trainer.logger.get_value("val_losses", -1)),
        "dice": summary["foreground_mean"]["Dice"],
    }


if __name__ == "__main__":
    main()
