"""Kills a whole run at random moments, gives the same command again, and compares what it ends with.

The run checks, plans and preprocesses a small dataset, trains two folds of 2d and 3d_fullres, predicts the held-out
cases alone and together, selects and fits postprocessing. The moments are spread over all of that. Every run that ends
must end as the unbroken one: the same final table, the same `selection.json`, the same weights, bit for bit.

With a budget, weights depend on the clock: the same trainings must be there, none set aside for another, the same cases
scored by the same candidates; and the seconds that each run took in all its parts are shown beside the budget.

    python -m tools.kill_run --kills 10
    python -m tools.kill_run --kills 10 --jobs 2       # folds side by side
    python -m tools.kill_run --kills 4 --budget 60     # seconds
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

from autoseg.benchmark.phantom import make_phantom
from autoseg.core.workspace import Workspace
from autoseg.evaluate.scores import Evaluation
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
    parser.add_argument("--budget", type=float, help="seconds of each run, instead of epochs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = make_phantom(Path(folder) / "phantom", SEED, CASES)
        command = whole_run(source, write_rules(Path(folder) / "rules", RULES), EPOCHS, given.jobs, given.budget)
        rng = random.Random(given.seed)  # noqa: S311 - moments, not secrets
        test = KillTest(Path(folder), command, SIGNALS[given.signal], rng)
        try:
            differing = test.run(given.kills)
        except CommandFailedError as error:
            sys.exit(str(error))
    same = sum(not names for names in differing)
    what = "table, selection and weights" if given.budget is None else "trainings and scored cases"
    print(f"\n{same} of {len(differing)} runs ended with the {what} of the unbroken run.")
    if given.budget is not None:
        took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in test.took_s.items())
        print(f"Of a budget of {given.budget:g} s they took, in all parts together: {took}.")
    sys.exit(0 if same == len(differing) else 1)


def write_rules(folder: Path, presets: str) -> Path:
    """Write rules that replace those of presets; return their folder."""
    folder.mkdir()
    (folder / "presets.toml").write_text(presets)
    return folder


def whole_run(source: Path, rules: Path, num_epochs: int, num_jobs: int, budget_s: float | None = None) -> Command:
    """Return a run of two folds of all that is worth it, for a number of epochs or within a budget."""
    length = ["--epochs", str(num_epochs)] if budget_s is None else ["--budget", f"{budget_s:g}s"]

    def arguments(workspace: Workspace) -> list[str]:
        given = ["run", str(source), "--workspace", str(workspace.root), "--rules", str(rules), "--preset", "cpu"]
        given += ["--num-folds", str(FOLDS), *length, "--seed", "1", "--device", "cpu"]
        return [*given, "--workers", "1", "--jobs", str(num_jobs)]

    return Command(arguments, _result if budget_s is None else _outline, _state, "where")


def _outline(workspace: Workspace) -> dict[str, bytes]:
    """Return what a run ends with whatever the clock says: its trainings, those set aside, and the scored cases."""
    trained = sorted((workspace.root / "models").glob("*/fold_*/training.json"))
    aside = (workspace.root / "models").glob("*/earlier/*")
    scores = sorted((workspace.root / "crossval").glob("*/evaluation.json"))
    cases = {path.parent.name: sorted(case.name for case in Evaluation.load(path).cases) for path in scores}
    return {
        "trained": "\n".join(str(path.relative_to(workspace.root)) for path in trained).encode(),
        "set aside": str(len(list(aside))).encode(),
        "scored": json.dumps(cases).encode(),
    }


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
