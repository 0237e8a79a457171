"""The order of the stages. Each looks at what lies in the workspace and does only what is missing or out of date.

A name is imported when it is first asked for: checking and planning do without torch, which takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoseg.pipeline.full_run import run
    from autoseg.pipeline.heldout.scores import score_held_out
    from autoseg.pipeline.packing.model_description import ModelDescription, describe
    from autoseg.pipeline.packing.networks import Networks, choose_networks
    from autoseg.pipeline.packing.opening import load_predictor, open_model
    from autoseg.pipeline.packing.pack import PackRequest, pack
    from autoseg.pipeline.planning.costs import costs_here
    from autoseg.pipeline.planning.prepare import (
        CPU_PRESET,
        AskedTime,
        DataOptions,
        Planning,
        PlanOptions,
        check,
        choose_configuration,
        load_plan,
        plan,
        plan_from,
        preprocess,
        suited_preset,
    )
    from autoseg.pipeline.prediction.models import ModelChoice
    from autoseg.pipeline.prediction.predict import predict
    from autoseg.pipeline.prediction.scans import Request
    from autoseg.pipeline.running.request import RunRequest, RunResult
    from autoseg.pipeline.training.fold import TrainingLength, num_loaders, train, training_length

_MODULES = (
    "planning.prepare",
    "planning.costs",
    "prediction.scans",
    "training.fold",
    "heldout.scores",
    "prediction.models",
    "prediction.predict",
    "packing.networks",
    "packing.opening",
    "packing.pack",
    "running.request",
    "full_run",
)
"""That define the names below; those that take long to import come last."""

__all__ = [
    "CPU_PRESET",
    "AskedTime",
    "DataOptions",
    "ModelChoice",
    "ModelDescription",
    "Networks",
    "PackRequest",
    "PlanOptions",
    "Planning",
    "Request",
    "RunRequest",
    "RunResult",
    "TrainingLength",
    "check",
    "choose_configuration",
    "choose_networks",
    "costs_here",
    "describe",
    "load_plan",
    "load_predictor",
    "num_loaders",
    "open_model",
    "pack",
    "plan",
    "plan_from",
    "predict",
    "preprocess",
    "run",
    "score_held_out",
    "suited_preset",
    "train",
    "training_length",
]

if not TYPE_CHECKING:  # so that a type checker still refuses names that are not there

    def __getattr__(name: str) -> object:
        """Return a name of `__all__` from the first module that has it, and keep it."""
        for module in map(import_module, [f"{__name__}.{part}" for part in _MODULES if name in __all__]):
            if hasattr(module, name):
                return globals().setdefault(name, getattr(module, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
