"""Kills a training at random moments, gives the same command again, and compares its weights with an unbroken one's.

The moments are spread over its time. Every run must end with the weights of the unbroken one, bit for bit.

    python -m tools.kill_test --kills 20
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

import pandas as pd

from autoseg.core.workspace import Workspace
from tools.killing import SIGNALS, Command, CommandFailedError, KillTest, weights

RULES = """
[cpu.network.base_features]
value = 4
[cpu.training.steps_per_epoch]
value = 10
[cpu.training.validation_steps]
value = 2
"""
"""What makes a run short."""

EPOCHS = 6


def main() -> None:
    """Print the table; exit with 1 if a run ended with other weights or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--signal", choices=sorted(SIGNALS), default="KILL")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules"
        rules.mkdir()
        (rules / "presets.toml").write_text(RULES)
        rng = random.Random(given.seed)  # noqa: S311 - moments, not secrets
        test = KillTest(Path(folder), training(rules), SIGNALS[given.signal], rng)
        try:
            differing = test.run(given.kills)
        except CommandFailedError as error:
            sys.exit(str(error))
    same = sum(not names for names in differing)
    print(f"\n{same} of {len(differing)} runs ended with the weights of the unbroken run, bit for bit.")
    sys.exit(0 if same == len(differing) else 1)


def training(rules: Path) -> Command:
    """Return the training of one fold of the phantom."""

    def arguments(workspace: Workspace) -> list[str]:
        given = ["benchmark", "phantom", "--workspace", str(workspace.root), "--rules", str(rules), "--preset", "cpu"]
        return [*given, "--folds", "0", "--epochs", str(EPOCHS), "--seed", "1", "--device", "cpu", "--workers", "1"]

    return Command(arguments, weights, _state, "epochs on disk | checkpoint")


def _state(workspace: Workspace) -> str:
    """Return two columns: the epochs in the history, and whether there is a checkpoint."""
    fold = workspace.fold("3d_fullres", 0)
    epochs = len(pd.read_csv(fold.history)) if fold.history.exists() else 0
    finished = "training is over" if fold.record.exists() else "none yet"
    return f"{epochs} | {'yes' if fold.checkpoint.exists() else finished}"


if __name__ == "__main__":
    main()
