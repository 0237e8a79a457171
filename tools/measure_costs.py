"""Measures what training steps and predictions take, beside what was predicted, and writes docs/costs.md.

Plans of different shape are made from the published fingerprints that the tests keep; scans of their median size are
made up. Every measurement runs in a process of its own. It takes some minutes and most of a machine:

    python -m tools.measure_costs            # the table, into docs/costs.md
    python -m tools.measure_costs --only 2   # the row of a single plan, to the terminal
"""

import argparse
import datetime as dt
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import autoseg
from autoseg.core.geometry import Geometry
from autoseg.core.heap import freed_memory_kept
from autoseg.data.store import CaseProperties, write_case
from autoseg.fingerprint import Fingerprint
from autoseg.infer.case import Model, default_settings, segment
from autoseg.network.device import best_precision, mixed_precision
from autoseg.network.probe import probe_device
from autoseg.network.unet import UNet, place
from autoseg.plan.costs import Costs, predict_costs, scan_shape
from autoseg.plan.duration import largest_map, layers_to_probe
from autoseg.plan.overrides import Overrides
from autoseg.plan.planner import make_plan
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationName, ConfigurationPlan, Plan
from autoseg.preprocess.case import Prepared
from autoseg.train.sampling import PatchSource, SamplingPlan
from autoseg.train.trainer import Trainer
from tests.plan.published_case import published
from tools.trial import write_page

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "costs.md"

NUM_CASES = 3
"""Scans that are made up to draw patches from."""

LEAST_STEPS, LEAST_S = 3, 6.0
"""Steps are timed until there are so many of them and so much time has passed."""


LONGEST_S = 90.0
"""What would take longer is not measured."""


@dataclass(frozen=True)
class Shape:
    """A plan to be measured.

    Attributes:
        name: In the table.
        task: Published fingerprint that it is made from.
        preset: That it is made for.
        configuration: Of the plan.
        overrides: Values that are set.
    """

    name: str
    task: str
    preset: str
    configuration: ConfigurationName
    overrides: Overrides


SHAPES = (
    Shape("small cubes", "hippocampus", "cpu", "3d_fullres", Overrides()),
    Shape("thick slices, two channels", "prostate", "cpu", "3d_fullres", Overrides()),
    Shape("slices", "heart", "cpu", "2d", Overrides()),
    Shape("slices, residual", "prostate", "residual", "2d", Overrides(batch_size=4)),
    Shape("small cubes, residual", "hippocampus", "residual", "3d_fullres", Overrides()),
    Shape("large volumes", "heart", "plain", "3d_fullres", Overrides()),
    Shape("many channels, residual", "braintumour", "residual", "3d_fullres", Overrides(gpu_memory_gb=3.0)),
)


def planned(shape: Shape) -> tuple[Plan, Fingerprint]:
    """Return the plan of a shape, and the fingerprint that it was made from."""
    fingerprint, dataset, _ = published(shape.task)
    return make_plan(fingerprint, dataset, load_rulebook(), shape.preset, shape.overrides), fingerprint


def main() -> None:
    """Write the table, print one row of it, or measure one plan in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, help="number of a plan, from 0; its rows are printed")
    parser.add_argument("--measure", choices=tuple(MEASURED), help="measure that plan in this process, print JSON")
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(MEASURED[given.measure](SHAPES[given.only])))
        return
    chosen = SHAPES if given.only is None else SHAPES[given.only : given.only + 1]
    rows = [row for shape in chosen for row in _rows(shape)]
    lines = [_head(), HEADER, *rows]
    if given.only is None:
        write_page(TABLE, lines)
    else:
        print("\n".join(lines))


def measure_training(shape: Shape) -> dict[str, float]:
    """Return seconds per training step with its patches, the peak of memory, and the program's own share of it."""
    made, fingerprint = planned(shape)
    with tempfile.TemporaryDirectory() as folder:
        names = store_cases(Path(folder), made, made.configurations[shape.configuration], fingerprint)
        before = _warmed_up()
        with freed_memory_kept():
            step_s = seconds_each(training_step(made, shape.configuration, Path(folder), names))
    return {"seconds": step_s, "bytes": peak_bytes(), "program": before}


def training_step(made: Plan, name: ConfigurationName, folder: Path, cases: tuple[str, ...]) -> Callable[[int], object]:
    """Return what takes the step of a number, with its patches, of a configuration's stored cases."""
    configuration = made.configurations[name]
    trainer = Trainer(made.training, configuration, "cpu", seed=0)
    sampling = SamplingPlan.of(made.training, configuration, 0, ("measured",))
    source = PatchSource(folder, cases, sampling)
    return lambda step: trainer.step(source.batch(step), made.training.learning_rate, step)


def measure_prediction(shape: Shape) -> dict[str, float]:
    """Return seconds to segment a scan of median size, the peak of memory, and the program's own share of it."""
    made, fingerprint = planned(shape)
    configuration = made.configurations[shape.configuration]
    prepared = made_up_scan(made, configuration, fingerprint)
    before = _warmed_up()
    settings = default_settings(torch.device("cpu"), configuration)
    network = place(UNet(configuration.network), settings.device).eval()
    with torch.inference_mode(), mixed_precision(settings.device, settings.precision):
        network(torch.zeros(1, configuration.network.num_input_channels, *configuration.patch_size))
    model = Model(made, configuration, (network,))
    began = time.perf_counter()
    segment(prepared, model, settings)
    return {"seconds": time.perf_counter() - began, "bytes": peak_bytes(), "program": before}


MEASURED: dict[str, Callable[[Shape], dict[str, float]]] = {
    "training step": measure_training,
    "scan": measure_prediction,
}


def store_cases(
    folder: Path, made: Plan, configuration: ConfigurationPlan, fingerprint: Fingerprint
) -> tuple[str, ...]:
    """Store made-up cases as preprocessing would; return their names."""
    names = tuple(f"case_{number}" for number in range(NUM_CASES))
    for name in names:
        prepared = made_up_scan(made, configuration, fingerprint)
        num_classes = made.labels.num_classes
        depth = prepared.array.shape[1]
        label = np.zeros(prepared.array.shape[1:], dtype=np.int16)
        for index in range(1, num_classes):
            label[depth // 3 : -(-depth // 2), 8 * index : 8 * index + 8] = index
        counts = tuple(int((label == index).sum()) for index in range(num_classes))
        properties = prepared.properties.model_copy(update={"name": name, "num_voxels_per_class": counts})
        write_case(folder, prepared.array, label, properties, configuration.patch_size)
    return names


def made_up_scan(made: Plan, configuration: ConfigurationPlan, fingerprint: Fingerprint) -> Prepared:
    """Return a made-up scan of median size, as preprocessing leaves it."""
    depth, height, width = scan_shape(made, configuration, fingerprint)
    shape = (depth, height, width)
    spacing = ((1.0,) * (3 - len(configuration.spacing)) + configuration.spacing)[-3:]
    geometry = Geometry(spacing=(spacing[0], spacing[1], spacing[2]))
    array = np.random.default_rng(0).normal(size=(len(made.channels), *shape)).astype(np.float32)
    properties = CaseProperties(
        name="made up",
        geometry=geometry,
        original_shape=shape,
        transpose=(0, 1, 2),
        crop_box=((0, depth), (0, height), (0, width)),
        cropped_shape=shape,
        cropped_spacing=geometry.spacing,
        stored_shape=shape,
    )
    return Prepared(array, properties)


def _warmed_up() -> int:
    """Return the memory in use, in bytes, once a tiny training step has had every library loaded."""
    tiny = planned(SHAPES[0])[0].configurations["3d_fullres"]
    network = tiny.network.model_copy(update={"features": (2,) * len(tiny.network.features)})
    tiny = tiny.model_copy(update={"network": network, "patch_size": (16, 16, 16), "batch_size": 2})
    trainer = Trainer(planned(SHAPES[0])[0].training, tiny, "cpu", seed=0)
    shape = (tiny.batch_size, 1, *tiny.patch_size)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    logits = trainer.network.forward_all(torch.from_numpy(images))
    torch.autograd.backward([out.float().square().mean() for out in logits])
    trainer.optimizer.step()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    """Return the most memory that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seconds_each(work: Callable[[int], object]) -> float:
    """Return the median seconds of repeated work, the first time left out."""
    work(0)
    found: list[float] = []
    while len(found) < LEAST_STEPS or sum(found) < LEAST_S:
        began = time.perf_counter()
        work(len(found) + 1)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


HEADER = """
| plan | what | program alone | memory predicted | measured | ratio | seconds predicted | measured | ratio |
|---|---|---|---|---|---|---|---|---|"""


def _rows(shape: Shape) -> list[str]:
    """Return the rows of a plan: training and prediction."""
    costs = _predicted(shape).configurations[shape.configuration]
    rows: list[str] = []
    for what, memory, seconds in (
        ("training step", costs.training, costs.step_s),
        ("scan", costs.prediction, costs.scan_s),
    ):
        if seconds > LONGEST_S:
            continue
        measured = measured_apart(shape, what)
        cells = [
            f"{shape.name}: {shape.task}, {shape.preset}, {shape.configuration}" if not rows else "",
            what,
            f"{measured['program'] / 1e6:.0f} MB",
            *_compared(memory.total / 1e6, measured["bytes"] / 1e6, "{:.0f} MB"),
            *_compared(seconds, measured["seconds"], "{:.3g}"),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _compared(predicted: float, measured: float, form: str) -> tuple[str, str, str]:
    return form.format(predicted), form.format(measured), f"{predicted / measured:.2f}"


def _predicted(shape: Shape) -> Costs:
    made, fingerprint = planned(shape)
    configuration = made.configurations[shape.configuration]
    alone = made.model_copy(update={"configurations": {shape.configuration: configuration}})
    speed = probe_device(
        torch.device("cpu"), layers_to_probe(configuration, is_cpu=True), largest_map([configuration], is_cpu=True)
    )
    return predict_costs(alone, fingerprint, 5, speed, load_rulebook().inferred.cost)


def measured_apart(shape: Shape, what: str) -> dict[str, float]:
    """Return what a process of its own measures."""
    command = [sys.executable, "-m", "tools.measure_costs", "--only", str(SHAPES.index(shape)), "--measure", what]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _head() -> str:
    threads = torch.get_num_threads()
    return HEAD.format(
        date=dt.date.today().isoformat(),
        machine=f"{_processor()}, {threads} threads, {best_precision(torch.device('cpu'))}",
        versions=f"autoseg {autoseg.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    )


def _processor() -> str:
    """Return the name of the processor, where the system tells."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


HEAD = """# Costs: predicted and measured
Written by `python -m tools.measure_costs` (`make costs`) on {date}: {machine};
{versions}.

Plans are made from published fingerprints, scans of their median size are made up. Memory is the peak of the resident
set of the whole program; what it takes with its libraries before it computes is told beside. A training step loads and
augments its patches, a scan is segmented by one network with mirroring. Targets: memory within 10 %, time within a
factor of 1.3."""


if __name__ == "__main__":
    main()
