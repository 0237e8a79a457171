"""What checks and timings of a GPU work with: plans of published datasets, and scans of their median size, made up."""

from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.fingerprint import Fingerprint
from autoseg.network.device import best_precision
from autoseg.plan.memory import Arithmetic
from autoseg.plan.overrides import Overrides
from autoseg.plan.planner import DatasetDescription, make_plan
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import ConfigurationPlan, Plan
from autoseg.preprocess.case import Prepared
from autoseg.train.sampling import PatchSource, SamplingPlan
from autoseg.train.trainer import Trainer
from tests.plan.published_case import published
from tools.measure_costs import made_up_scan, store_cases

TINY_RULES = """
[cpu.network.base_features]
value = 4
"""
TINY_PATCH = (16, 16, 16)
TINY_SCAN = (24.0, 28.0, 32.0)


@dataclass(frozen=True)
class Bench:
    """A plan with its made-up cases.

    Attributes:
        device: That is checked.
        made: The plan.
        fingerprint: That it was made from.
        dataset: Likewise.
        configuration: Of the plan, that is checked.
        source: Patches of the cases.
        rules: Folder of rules that replace others; None for none.
        is_tiny: Whether it all is made small, to check the script itself.
    """

    device: torch.device
    made: Plan
    fingerprint: Fingerprint
    dataset: DatasetDescription
    configuration: ConfigurationPlan
    source: PatchSource
    rules: Path | None
    is_tiny: bool

    @property
    def arithmetic(self) -> Arithmetic:
        """How the device computes."""
        number_bytes = 4 if best_precision(self.device) == "float32" else 2
        return Arithmetic(is_cpu=self.device.type == "cpu", number_bytes=number_bytes)

    @property
    def preset(self) -> str:
        """That the plan was made with: nnU-Net's classic network, as the published times are of it."""
        return "cpu" if self.is_tiny else "plain"

    def trainer(self, device: torch.device | None = None) -> Trainer:
        """Return a new trainer, each time with the same weights."""
        return Trainer(self.made.training, self.configuration, str(device or self.device), seed=0)

    def scan(self) -> Prepared:
        """Return a prepared scan of median size."""
        return made_up_scan(self.made, self.configuration, self.fingerprint)

    def patches(self) -> torch.Tensor:
        """Return input of the network, a sample of noise, on the device."""
        shape = (1, self.configuration.network.num_input_channels, *self.configuration.patch_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)


def make_bench(task: str, device: torch.device, folder: Path, *, is_tiny: bool) -> Bench:
    """Return the plan of a published dataset, `3d_fullres`, with made-up cases.

    Args:
        task: Of the Decathlon, for example `hippocampus`.
        device: That is checked.
        folder: For the cases.
        is_tiny: Whether networks, patches and scans are made tiny.
    """
    rules = _tiny_rules(folder) if is_tiny else None
    overrides = Overrides(patch_size=TINY_PATCH, batch_size=2) if is_tiny else Overrides()
    fingerprint, dataset, _ = published(task)
    made = make_plan(fingerprint, dataset, load_rulebook(rules), "cpu" if is_tiny else "plain", overrides)
    configuration = made.configurations["3d_fullres"]
    if is_tiny:
        configuration = configuration.model_copy(update={"median_shape": TINY_SCAN})
    sampling = SamplingPlan.of(made.training, configuration, 0, ("checked",))
    names = store_cases(folder / "cases", made, configuration, fingerprint)
    source = PatchSource(folder / "cases", names, sampling)
    return Bench(device, made, fingerprint, dataset, configuration, source, rules, is_tiny)


def _tiny_rules(folder: Path) -> Path:
    rules = folder / "rules"
    rules.mkdir()
    (rules / "presets.toml").write_text(TINY_RULES)
    return rules
