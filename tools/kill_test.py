"""Kills a run at random moments, gives the same command again, and compares its weights with those of an unbroken run.

A workspace is killed again and again until its run gets to the end before the next moment comes; then a fresh one
begins. Every run that ends must end with the weights of the unbroken one, bit for bit.

    python tools/kill_test.py --kills 20
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from autoseg.core.workspace import Workspace

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
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}


def main() -> None:
    """Print the table; exit with 1 if a run ended with other weights or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--signal", choices=sorted(SIGNALS), default="KILL")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        test = KillTest(Path(folder), SIGNALS[given.signal], random.Random(given.seed))  # noqa: S311 - moments, not secrets
        same = test.run(given.kills)
    print(f"\n{sum(same)} of {len(same)} runs ended with the weights of the unbroken run, bit for bit.")
    sys.exit(0 if all(same) else 1)


@dataclass
class KillTest:
    """Runs of the phantom, in workspaces below a folder.

    Attributes:
        folder: For everything.
        signal: That ends a run.
        rng: Draws the moments.
        unbroken_s: Seconds that an unbroken run takes.
        weights: That it ends with.
    """

    folder: Path
    signal: signal.Signals
    rng: random.Random
    unbroken_s: float = 0.0
    weights: bytes = field(default=b"", repr=False)

    def run(self, num_kills: int) -> list[bool]:
        """Kill as often as asked; return for each run that ended whether its weights are the right ones."""
        rules = self.folder / "rules"
        rules.mkdir()
        (rules / "presets.toml").write_text(RULES)
        self._run_unbroken()
        print("| kill | workspace | after s | epochs on disk | checkpoint |\n|---|---|---|---|---|")
        same: list[bool] = []
        killed = 0
        while killed < num_kills:
            workspace = self._workspace(f"killed_{len(same)}")
            moment_s = self.rng.uniform(0, self.unbroken_s)
            if self._ends_before(workspace, moment_s):
                same.append(self._has_the_weights(workspace))
                continue
            killed += 1
            print(f"| {killed} | {len(same)} | {moment_s:.1f} | {_state(workspace)} |", flush=True)
        last = self._workspace(f"killed_{len(same)}")
        if last.root.exists():
            self._finish(last)
            same.append(self._has_the_weights(last))
        return same

    def _run_unbroken(self) -> None:
        workspace = self._workspace("unbroken")
        began = time.monotonic()
        self._finish(workspace)
        self.unbroken_s = time.monotonic() - began
        self.weights = workspace.fold("3d_fullres", 0).weights.read_bytes()
        print(f"The unbroken run took {self.unbroken_s:.1f} s.\n", flush=True)

    def _workspace(self, name: str) -> Workspace:
        return Workspace(self.folder / name)

    def _start(self, workspace: Workspace) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "autoseg", "benchmark", "phantom", "--workspace", str(workspace.root)]
        command += ["--rules", str(self.folder / "rules"), "--preset", "cpu", "--folds", "0", "--epochs", str(EPOCHS)]
        command += ["--seed", "1", "--device", "cpu", "--workers", "1"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        log = (workspace.root.parent / f"{workspace.root.name}.log").open("ab")
        with log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def _ends_before(self, workspace: Workspace, moment_s: float) -> bool:
        """Start a run and return whether it ends before a moment; if not, end it there."""
        child = self._start(workspace)
        try:
            self._require_success(workspace, child.wait(moment_s))
        except subprocess.TimeoutExpired:
            child.send_signal(self.signal)
            child.wait()
            return False
        return True

    def _finish(self, workspace: Workspace) -> None:
        self._require_success(workspace, self._start(workspace).wait())

    def _require_success(self, workspace: Workspace, code: int) -> None:
        if code != 0:
            log = self.folder / f"{workspace.root.name}.log"
            sys.exit(f"{workspace.root.name}: a run must end with 0, got {code}:\n{log.read_text()[-2000:]}")

    def _has_the_weights(self, workspace: Workspace) -> bool:
        return workspace.fold("3d_fullres", 0).weights.read_bytes() == self.weights


def _state(workspace: Workspace) -> str:
    """Return two columns: the epochs in the history, and whether there is a checkpoint."""
    fold = workspace.fold("3d_fullres", 0)
    epochs = len(pd.read_csv(fold.history)) if fold.history.exists() else 0
    finished = "training is over" if fold.record.exists() else "none yet"
    return f"{epochs} | {'yes' if fold.checkpoint.exists() else finished}"


if __name__ == "__main__":
    main()
