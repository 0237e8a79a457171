r"""Measures which width of the network gets furthest in a budget of time, and writes docs/budgets.md.

For every dataset, budget and width a network is planned for that time and trained for it, on one fold, and the Dice of
the scans that this fold holds out is taken, without mirror images. Beside it stands the width that the rules choose.
It takes about the sum of the budgets times the number of widths, for each dataset, and wants a machine to itself;
broken off, the same command goes on:

    python -m tools.measure_budgets Task04_Hippocampus.tar 'ACDC.tar@(patient\d+)_' --budgets 60 120 240 --work FOLDER

What stands behind @ keeps cases together in one fold; see --group-by of autoseg.
"""

import argparse
import datetime as dt
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

import autoseg
from autoseg import pipeline
from autoseg.core.progress import Silent
from autoseg.core.workspace import Workspace
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan, Plan
from autoseg.train.loop import TrainingRequest

TABLE = Path(__file__).resolve().parent.parent / "docs" / "budgets.md"

FOLD = 1
"""The rules are chosen by this fold; fold 0 is the one of which results are reported."""


@dataclass(frozen=True)
class Measured:
    """What a budget came to with one width.

    Attributes:
        dataset: Its name.
        configuration: That was trained.
        budget_s: Of the training.
        width: Base features.
        patch_size: In voxels.
        num_steps: That were taken.
        dice: Mean over classes, of whole held-out scans.
        is_chosen: Whether the rules choose this width for this budget.
    """

    dataset: str
    configuration: ConfigurationName
    budget_s: float
    width: int
    patch_size: tuple[int, ...]
    num_steps: int
    dice: float
    is_chosen: bool


@dataclass(frozen=True)
class Source:
    """A dataset: its folder or archive, and the pattern that keeps cases together."""

    path: Path
    group_by: str | None

    @classmethod
    def parse(cls, text: str) -> "Source":
        path, _, pattern = text.partition("@")
        return cls(Path(path), pattern or None)


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Source.parse, help="folder or archive of a dataset, or PATH@PATTERN")
    parser.add_argument("--budgets", nargs="+", type=float, default=[60, 120, 240], help="seconds of a training")
    parser.add_argument("--widths", nargs="+", type=int, default=[8, 16, 32], help="base features")
    parser.add_argument("--work", type=Path, required=True, help="folder for the workspaces")
    given = parser.parse_args()
    rows = []
    for source in given.sources:
        for budget_s in given.budgets:
            chosen = _plan(source, budget_s, None, given.work)[1].configurations
            for width in given.widths:
                rows.append(measure(source, budget_s, width, given.work, chosen))
                print(rows[-1], flush=True)
    text = "\n".join([_head(), *table(rows)]) + "\n"
    TABLE.write_text(text)
    print(text)


def measure(
    source: Source, budget_s: float, width: int, work: Path, chosen: Mapping[ConfigurationName, ConfigurationPlan]
) -> Measured:
    """Train a network of a width for a time, and score it on the scans that its fold holds out.

    Args:
        source: Dataset.
        budget_s: Of the training.
        width: Base features.
        work: Folder for workspaces.
        chosen: Configurations that the rules choose for this time.
    """
    workspace, planned = _plan(source, budget_s, width, work)
    name = pipeline.choose_configuration(planned, None)
    request = TrainingRequest(
        configuration=name,
        fold=FOLD,
        num_epochs=None,
        budget_s=budget_s,
        device="cpu",
        seed=0,
        num_workers=0,
        restart=False,
    )
    workers = os.cpu_count() or 1
    record = pipeline.train(workspace, request, workers, Silent())
    model = pipeline.ModelChoice(name, (FOLD,), "cpu", mirror=False)
    evaluation = pipeline.score_held_out(workspace, model, workers, Silent())
    assert evaluation.mean_foreground_dice is not None
    return Measured(
        dataset=planned.dataset,
        configuration=name,
        budget_s=budget_s,
        width=width,
        patch_size=planned.configurations[name].patch_size,
        num_steps=record.num_steps,
        dice=evaluation.mean_foreground_dice,
        is_chosen=chosen[name].network.features[0] == width,
    )


def _plan(source: Source, budget_s: float, width: int | None, work: Path) -> tuple[Workspace, Plan]:
    """Return the workspace and plan for a time; with a width, that one alone is planned."""
    place = work / source.path.name / f"{budget_s:g}s_{width or 'chosen'}"
    rules = None
    if width is not None:
        rules = place / "rules"
        rules.mkdir(parents=True, exist_ok=True)
        (rules / "inferred.toml").write_text(f"[budget.widths]\nvalue = {{ {width} = 1 }}\n")
    time = pipeline.AskedTime(seconds=budget_s, covers="a training", device="cpu")
    options = pipeline.PlanOptions(pipeline.CPU_PRESET, rules, time=time)
    data = pipeline.DataOptions(source.group_by, None, os.cpu_count() or 1)
    workspace = Workspace(place / "work")
    return workspace, pipeline.plan(source.path, workspace, data, options, Silent())


def table(rows: list[Measured]) -> list[str]:
    """Return a table in Markdown: a line per dataset and budget, a column per width; the best Dice is bold."""
    widths = sorted({row.width for row in rows})
    lines = [
        "| dataset | time of a training | " + " | ".join(f"width {width}" for width in widths) + " | rules choose |",
        "|---|---|" + "---|" * (len(widths) + 1),
    ]
    groups: dict[tuple[str, str, float], dict[int, Measured]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.configuration, row.budget_s), {})[row.width] = row
    for (dataset, configuration, budget_s), found in groups.items():
        best = max(row.dice for row in found.values())
        cells = [_cell(found[width], best) if width in found else "not measured" for width in widths]
        chosen = next((str(row.width) for row in found.values() if row.is_chosen), "another")
        lines.append(f"| {dataset}, {configuration} | {budget_s:g} s | {' | '.join(cells)} | {chosen} |")
    return lines


def _cell(row: Measured, best: float) -> str:
    dice = f"**{row.dice:.3f}**" if row.dice == best else f"{row.dice:.3f}"
    return f"{dice} ({row.num_steps} steps of {'x'.join(map(str, row.patch_size))})"


def _head() -> str:
    return f"""# What a budget of time buys
Measured with `python -m tools.measure_budgets` on {dt.date.today()}: {platform.processor() or platform.machine()},
{os.cpu_count()} cores, {torch.get_num_threads()} threads; autoseg {autoseg.__version__}, torch {torch.__version__}.
Dice is the mean over classes of whole scans that fold {FOLD} holds out, without mirror images, of one seed.
Constants of the rules were chosen by this fold; results are reported of fold 0.
"""


if __name__ == "__main__":
    main()
