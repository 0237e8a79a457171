"""Times `autoseg plan` beside nnU-Net's fingerprint and planning on the same data, in turn, and prints a table.

All are whole commands, start-up included, with the same number of processes. autoseg reads the archive as it was
downloaded, unpacks it and checks every case; nnU-Net reads an unpacked folder that was renamed for it beforehand, and
does not check it. autoseg is timed twice: until the plan is written, and to the end of the command, which has measured
the device's speed for two seconds by then to predict time and memory. nnU-Net does nothing of the kind.

    python -m tools.compare_planning Task04_Hippocampus.tar --nnunet-bin ENVIRONMENT/bin --runs 3
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from autoseg.core.workspace import Workspace
from tools.nnunet_layout import lay_out, run

PLANNED = "`autoseg plan`, until the plan is written"
WHOLE = "`autoseg plan`, whole"
NNUNET = "`nnUNetv2_plan_and_preprocess --no_pp`"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="archive or folder of a dataset of NIfTI files, one file per case")
    parser.add_argument("--nnunet-bin", type=Path, required=True, help="folder of nnU-Net's commands")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = lay_out(given.source, Path(folder))
        rounds = [_round(given, Path(folder), number, environment) for number in range(given.runs)]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {given.workers} processes, {time.strftime('%Y-%m-%d %H:%M')}\n"
    )
    print("| command | seconds, median | each run |")
    print("|---|---|---|")
    for name in rounds[0]:
        seconds = [found[name] for found in rounds]
        print(f"| {name} | {statistics.median(seconds):.1f} | {', '.join(f'{value:.1f}' for value in seconds)} |")
    print()
    for name in (PLANNED, WHOLE):
        ratios = [found[NNUNET] / found[name] for found in rounds]
        each = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        print(f"{NNUNET} / {name}, run by run: median {statistics.median(ratios):.1f} ({each})")


def _round(given: argparse.Namespace, folder: Path, number: int, environment: dict[str, str]) -> dict[str, float]:
    """Return the seconds of each command, run once, one after the other."""
    workers = str(given.workers)
    workspace = folder / f"workspace_{number}"
    plan = [sys.executable, "-m", "autoseg", "plan", given.source, "--workers", workers, "--workspace", workspace]
    began = time.time()
    whole = _seconds(plan, dict(os.environ))
    planned = Workspace(workspace).plan.stat().st_mtime - began
    theirs = [given.nnunet_bin / "nnUNetv2_plan_and_preprocess", "-d", "1", "--no_pp", "--clean", "-npfp", workers]
    found = {PLANNED: planned, WHOLE: whole, NNUNET: _seconds(theirs, environment)}
    print("; ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items()), file=sys.stderr, flush=True)
    return found


def _seconds(command: Sequence[object], environment: dict[str, str]) -> float:
    began = time.monotonic()
    run(command, environment)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
