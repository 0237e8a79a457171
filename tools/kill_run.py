"""Kills a whole run at random moments, gives the same command again, and compares what it ends with.

The run checks, plans and preprocesses a small dataset, trains two folds of 2d and 3d_fullres, predicts the held-out
cases alone and together, selects and fits postprocessing. The moments are spread over all of that. Every run that ends
must end as the unbroken one: the same final table, the same `selection.json`, the same weights, bit for bit.

    python -m tools.kill_run --kills 10
    python -m tools.kill_run --kills 10 --jobs 2       # folds side by side
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from autoseg.benchmark.phantom import make_phantom
from autoseg.core.workspace import Workspace
from tools.killing import SIGNALS, Command, CommandFailedError, KillTest, weights, without

RULES = """
[cpu.network.base_features]
value = 4
[cpu.training.steps_per_epoch]
value = 8
[cpu.training.validation_steps]
value = 1
"""
"""What makes a run short."""

EPOCHS, FOLDS, CASES, SEED = 3, 2, 6, 5


def main() -> None:
    """Print the table; exit with 1 if a run ended otherwise than the unbroken one, or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--signal", choices=sorted(SIGNALS), default="KILL")
    parser.add_argument("--jobs", type=int, default=1, help="folds that are trained side by side")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = make_phantom(Path(folder) / "phantom", SEED, CASES)
        command = whole_run(source, write_rules(Path(folder) / "rules", RULES), EPOCHS, given.jobs)
        rng = random.Random(given.seed)  # noqa: S311 - moments, not secrets
        try:
            differing = KillTest(Path(folder), command, SIGNALS[given.signal], rng).run(given.kills)
        except CommandFailedError as error:
            sys.exit(str(error))
    same = sum(not names for names in differing)
    print(f"\n{same} of {len(differing)} runs ended with the table, selection and weights of the unbroken run.")
    sys.exit(0 if same == len(differing) else 1)


def write_rules(folder: Path, presets: str) -> Path:
    """Write rules that replace those of presets; return their folder."""
    folder.mkdir()
    (folder / "presets.toml").write_text(presets)
    return folder


def whole_run(source: Path, rules: Path, num_epochs: int, num_jobs: int) -> Command:
    """Return a run of two folds of all that is worth it."""

    def arguments(workspace: Workspace) -> list[str]:
        given = ["run", str(source), "--workspace", str(workspace.root), "--rules", str(rules), "--preset", "cpu"]
        given += ["--num-folds", str(FOLDS), "--epochs", str(num_epochs), "--seed", "1", "--device", "cpu"]
        return [*given, "--workers", "1", "--jobs", str(num_jobs)]

    return Command(arguments, _result, _state, "where")


def _result(workspace: Workspace) -> dict[str, bytes]:
    """Return final table, selection, scores and weights, without what a clock says."""
    scores = (workspace.root / "crossval").glob("*/evaluation.json")
    return {
        "run.json": without(workspace.run, "seconds", "allocation"),
        "selection.json": workspace.selection.read_bytes(),
        **{str(path.relative_to(workspace.root)): path.read_bytes() for path in sorted(scores)},
        **weights(workspace),
    }


def _state(workspace: Workspace) -> str:
    """Return how far a run is, by what it has left."""
    if workspace.run.exists():
        return "over but for the pictures"
    if workspace.selection.exists():
        return "selected"
    if scored := sorted(path.name for path in (workspace.root / "crossval").glob("*")):
        return f"predicting and scoring; begun: {', '.join(scored)}"
    trained = sorted((workspace.root / "models").glob("*/fold_*"))
    if trained:
        num_done = sum((path / "training.json").exists() for path in trained)
        return f"training; {num_done} done, {len(trained) - num_done} begun"
    preprocessed = len(list((workspace.root / "preprocessed").glob("*/*.voxels.npz")))
    if preprocessed:
        return f"preprocessing; {preprocessed} cases done"
    done = [name for name in ("dataset", "check", "fingerprint", "plan") if getattr(workspace, name).exists()]
    return f"planning; done: {', '.join(done) or 'nothing'}"


if __name__ == "__main__":
    main()
