r"""Measures which width of the network gets furthest in a time, and writes docs/budgets.md.

For every dataset, time and width a network learns for as many steps as that time of one core buys, on one fold, and
the Dice of the scans that this fold holds out is taken, without mirror images. Beside it stands the width that the
rules choose for so many steps. It takes about the sum of the times, times the number of widths, for each dataset;
broken off, the same command goes on:

    python -m tools.measure_budgets Task04_Hippocampus.tar 'ACDC.tar@(patient\d+)_' --work FOLDER --jobs 2

What stands behind @ keeps cases together in one fold; see --group-by of autoseg.
"""

import argparse
import datetime as dt
import platform
from pathlib import Path

import torch

import autoseg
from autoseg.plan.rulebook import load_rulebook
from tools.trial import FOLD, Entries, Outcome, Trial, outcomes, write_page

TABLE = Path(__file__).resolve().parent.parent / "docs" / "budgets.md"

BATCH = 2
"""Patches of a step; the rules choose the smallest batch while there are few steps."""


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", help="folder or archive of a dataset, or PATH@PATTERN")
    parser.add_argument("--seconds", nargs="+", type=float, default=[90, 180, 360], help="of one core, of a training")
    parser.add_argument("--widths", nargs="+", type=int, default=[8, 16, 32], help="base features")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the workspaces")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each on a core")
    given = parser.parse_args()
    trials = [
        Trial(
            source=source, name=f"width {width}", entries=of_width(width), seed=seed, batch_size=BATCH, core_s=seconds
        )
        for seed in given.seeds
        for seconds in given.seconds
        for width in given.widths
        for source in given.sources
    ]
    found = []
    for outcome in outcomes(trials, given.work, given.jobs):
        print(f"{outcome.dataset}, {outcome.trial.core_s} s, {outcome.trial.name}: {outcome.dice:.4f}", flush=True)
        found.append(outcome)
    write_page(TABLE, [_head(given.seeds), *table(found)])


def of_width(width: int) -> Entries:
    """Return the entries of the preset for CPUs that make a network so wide, on patches of the same size."""
    rules = load_rulebook().for_preset("cpu")
    sizing, widened = rules.inferred.sizing, width / rules.blueprint.network.base_features
    return {
        "network.base_features": width,
        "sizing.reference_elements_2d": sizing.reference_elements_2d * widened,
        "sizing.reference_elements_3d": sizing.reference_elements_3d * widened,
    }


def table(found: list[Outcome]) -> list[str]:
    """Return a table in Markdown: a line per dataset and time, a column per width; the best Dice is bold."""
    widths = sorted({_width(outcome) for outcome in found})
    lines = [
        "| dataset | seconds of a core | " + " | ".join(f"width {width}" for width in widths) + " | rules choose |",
        "|---|---|" + "---|" * (len(widths) + 1),
    ]
    rows: dict[tuple[str, str, float], dict[int, list[Outcome]]] = {}
    for outcome in found:
        place = (outcome.dataset, outcome.configuration, outcome.trial.core_s or 0.0)
        rows.setdefault(place, {}).setdefault(_width(outcome), []).append(outcome)
    for (dataset, configuration, seconds), by_width in sorted(rows.items()):
        best = max(_mean_dice(outcomes_of) for outcomes_of in by_width.values())
        cells = [_cell(by_width[width], best) if width in by_width else "not measured" for width in widths]
        chosen = _chosen({width: outcomes_of[0].num_steps for width, outcomes_of in by_width.items()})
        lines.append(f"| {dataset}, {configuration} | {seconds:g} | {' | '.join(cells)} | {chosen} |")
    return lines


def _width(outcome: Outcome) -> int:
    return int(outcome.trial.entries["network.base_features"])


def _mean_dice(outcomes_of: list[Outcome]) -> float:
    return sum(outcome.dice for outcome in outcomes_of) / len(outcomes_of)


def _chosen(num_steps: dict[int, int]) -> int:
    """Return the width that the rules choose, by the steps that each width gets."""
    needed = load_rulebook().inferred.budget.widths
    enough = [width for width in sorted(num_steps) if num_steps[width] >= needed[width]]
    return enough[-1] if enough else max(num_steps, key=lambda width: num_steps[width])


def _cell(outcomes_of: list[Outcome], best: float) -> str:
    found = _mean_dice(outcomes_of)
    dice = f"**{found:.3f}**" if found == best else f"{found:.3f}"
    return f"{dice} ({outcomes_of[0].num_steps} steps of {'x'.join(map(str, outcomes_of[0].patch_size))})"


def _head(seeds: list[int]) -> str:
    return f"""# What a time of training buys
Which width of the network gets furthest in a given time, and how `--budget` chooses (`rules/inferred.toml [budget]`).
Written by `python -m tools.measure_budgets` (`make budgets`) on {dt.date.today()}: {platform.machine()}, a core
for each training; autoseg {autoseg.__version__}, torch {torch.__version__}; preset `cpu`, patches of all widths
alike. Two cores take about 0.66 s for what one does in a second. Dice is the mean over classes of whole scans that
fold {FOLD} holds out, without mirror images; seeds: {", ".join(map(str, seeds))}. The rules were chosen by this
fold; results are reported of fold 0.
"""


if __name__ == "__main__":
    main()
