"""Measures what each choice of the recipe for CPUs brings, with several seeds, and writes docs/ablation.md.

One choice at a time is taken back or changed, everything else stays as the preset `cpu` has it. The number of steps
is the same for all, but for other batch sizes, which see as many patches. Trainings take a core each, a few minutes;
broken off, the same command goes on:

    python -m tools.ablation Task04_Hippocampus.tar --work FOLDER --jobs 2
"""

import argparse
import datetime as dt
import platform
import statistics
from collections.abc import Iterable
from pathlib import Path

import torch

import autoseg
from autoseg.plan.schema import AugmentationPlan
from tools.trial import FOLD, Entries, Outcome, Trial, outcomes, write_page

PAGE = Path(__file__).resolve().parent.parent / "docs" / "ablation.md"

AS_IT_IS = "the recipe as it is"

CHANGES: dict[str, Entries] = {
    AS_IT_IS: {},
    "SGD with Nesterov momentum": {
        "training.optimizer": "sgd",
        "training.learning_rate": 0.01,
        "training.momentum": 0.99,
    },
    "no average of the weights": {"training.weight_average_decay": 0.0},
    "no warm-up": {"training.warmup_fraction": 0.0},
    "half the learning rate": {"training.learning_rate": 0.001},
    "twice the learning rate": {"training.learning_rate": 0.004},
    "no augmentation but mirroring": {
        f"augmentation.{key}": 0.0
        for key in AugmentationPlan.model_fields
        if key.endswith("probability") and key != "mirror_probability"
    },
}
"""By name: entries of the preset `cpu` that are replaced."""

USUAL_BATCH, LARGER_BATCHES = 2, (4,)
"""The patches of a step, and those that are tried, with as many patches in all."""


def main() -> None:
    """Measure, print the page and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder or archive of a dataset, or PATH@PATTERN, see --group-by of autoseg")
    parser.add_argument("--steps", type=int, default=300, help="of a training with the batch as it is")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True, help="folder for the workspaces")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each on a core")
    given = parser.parse_args()
    trials = [trial for seed in given.seeds for trial in _trials(given.source, seed, given.steps)]
    found = []
    for outcome in outcomes(trials, given.work, given.jobs):
        print(f"{outcome.trial.name}, seed {outcome.trial.seed}: {outcome.dice:.4f}", flush=True)
        found.append(outcome)
    write_page(PAGE, [_head(found[0], given.steps), *table(found)])


def _trials(source: str, seed: int, num_steps: int) -> list[Trial]:
    """Return the trials of a seed: each change, then larger batches."""
    usual = [
        Trial(source=source, name=name, entries=entries, seed=seed, batch_size=USUAL_BATCH, num_steps=num_steps)
        for name, entries in CHANGES.items()
    ]
    larger = [
        usual[0].model_copy(
            update={
                "name": f"batches of {batch_size} instead of {USUAL_BATCH}",
                "batch_size": batch_size,
                "num_steps": num_steps * USUAL_BATCH // batch_size,
            }
        )
        for batch_size in LARGER_BATCHES
    ]
    return usual + larger


def table(found: Iterable[Outcome]) -> list[str]:
    """Return a table in Markdown: a line per change, beside the same seeds of the recipe as it is."""
    by_name: dict[str, dict[int, Outcome]] = {}
    for outcome in found:
        by_name.setdefault(outcome.trial.name, {})[outcome.trial.seed] = outcome
    usual = by_name[AS_IT_IS]
    lines = [
        "| recipe | steps | Dice by seed | mean | difference by seed | mean difference | seconds of a core |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted(by_name, key=lambda name: [*CHANGES, name].index(name)):
        outcomes_of = [by_name[name][seed] for seed in sorted(by_name[name])]
        dice = [outcome.dice for outcome in outcomes_of]
        gains = [
            outcome.dice - usual[outcome.trial.seed].dice for outcome in outcomes_of if outcome.trial.seed in usual
        ]
        told = [" ".join(f"{gain:+.3f}" for gain in gains), f"**{statistics.mean(gains):+.3f}**"]
        cells = [
            name,
            str(outcomes_of[0].num_steps),
            " ".join(f"{value:.3f}" for value in dice),
            f"{statistics.mean(dice):.3f}",
            *(told if name != AS_IT_IS else ["", ""]),
            f"{statistics.median(outcome.core_s for outcome in outcomes_of):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _head(first: Outcome, num_steps: int) -> str:
    size = "x".join(map(str, first.patch_size))
    return f"""# What each choice of the recipe brings
Written by `python -m tools.ablation` (`make ablation`) on {dt.date.today()}: {platform.machine()}, a core for
each training; autoseg {autoseg.__version__}, torch {torch.__version__}.
{first.dataset}, `{first.configuration}`, preset `cpu`, patches of {size}, {num_steps} steps. Dice is the mean
over classes of whole scans that fold {FOLD} holds out, without mirror images; the recipe was chosen by this fold,
results are reported of fold 0. A negative difference says that the recipe does worse with the change: that what it
takes back was worth having.
"""


if __name__ == "__main__":
    main()
