"""The order of the stages. Each looks at what lies in the workspace and does only what is missing or out of date."""

from autoseg.pipeline.costs import costs_here
from autoseg.pipeline.full_run import RunRequest, RunResult, run
from autoseg.pipeline.heldout import score_held_out
from autoseg.pipeline.prediction import ModelChoice, load_predictor, predict
from autoseg.pipeline.prepare import (
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
from autoseg.pipeline.scans import Request
from autoseg.pipeline.training import TrainingLength, num_loaders, train, training_length

__all__ = [
    "CPU_PRESET",
    "AskedTime",
    "DataOptions",
    "ModelChoice",
    "PlanOptions",
    "Planning",
    "Request",
    "RunRequest",
    "RunResult",
    "TrainingLength",
    "check",
    "choose_configuration",
    "costs_here",
    "load_plan",
    "load_predictor",
    "num_loaders",
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
