"""On a GPU, a training step proves that a plan fits; where it does not, the plan is made anew for less memory."""

import gc
import logging

import numpy as np
import torch

from autoseg.core.errors import PlanError
from autoseg.core.seeding import generator
from autoseg.core.workspace import FoldFolder, Workspace
from autoseg.data.dataset import Dataset
from autoseg.fingerprint import Fingerprint
from autoseg.network.device import choose_device
from autoseg.network.probe import device_name
from autoseg.network.shortage import is_shortage
from autoseg.pipeline.planning.prepare import Planning, load_plan, plan_asked
from autoseg.pipeline.training.failure import is_held
from autoseg.plan.memory import largest_source
from autoseg.plan.planner import DatasetDescription
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import Alternative, ConfigurationName, Decision, Plan
from autoseg.train.augment import AugmentationDraw
from autoseg.train.record import begun_in
from autoseg.train.sampling import Batch
from autoseg.train.trainer import Trainer

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.8
"""Of the memory that a plan was made for, what the next one is made for."""

LEAST_SHARE = 1 / 16
"""Of the memory that was asked for; a plan for less would not fit either: something else fills the device."""

MOST_STEPS = 30
"""To prove a plan; with each that is skipped, the scale of the gradients halves, from 2**16 on."""


def fit_to_device(workspace: Workspace, name: ConfigurationName, device: str) -> None:
    """Make the plan of a workspace anew, for less memory, until training steps of a configuration fit the GPU.

    Nothing is tried elsewhere than on a GPU, nor twice, nor once a fold of the configuration has begun by this plan, as
    all folds are trained by one. A plan that was made anew says so among its decisions. Under torchrun, the whole batch
    must fit the first GPU, so that a plan does not depend on how many there are.

    Args:
        workspace: Of the plan.
        name: Of the configuration.
        device: See `choose_device`.

    Raises:
        PlanError: If no plan fits, or none that leaves alone what other configurations have been trained by.
    """
    if choose_device(device).type != "cuda" or not workspace.planning.exists():
        return
    asked, planned = Planning.load(workspace.planning), load_plan(workspace)
    if asked.fitted.get(name) == planned.recipe_digest(name) or _has_begun(workspace, planned, name):
        return
    dataset, fingerprint = Dataset.load(workspace.dataset), Fingerprint.load(workspace.fingerprint)
    proved = fitting_planning(asked, planned, (fingerprint, dataset), name, device)
    if proved != asked:
        anew = plan_asked(fingerprint, dataset, proved)
        _require_untouched(workspace, planned, anew, name)
        planned = anew
    fitted = {**proved.fitted, name: planned.recipe_digest(name)}
    proved.model_copy(update={"fitted": fitted}).save(workspace.planning)
    planned.save(workspace.plan)


def _has_begun(workspace: Workspace, planned: Plan, name: ConfigurationName) -> bool:
    """Return whether a training of a configuration runs, or is over or broken off and one of this plan."""
    folders = [FoldFolder(path) for path in workspace.fold(name, 0).root.parent.glob("fold_*")]
    found = [one.recipe for folder in folders if (one := begun_in(folder)) is not None]
    return any(recipe in ("", planned.recipe_digest(name)) for recipe in found) or any(map(is_held, folders))


def _require_untouched(workspace: Workspace, planned: Plan, anew: Plan, name: ConfigurationName) -> None:
    """Refuse a plan by which configurations that have begun would be others."""
    lost = [
        other
        for other in planned.configurations
        if _has_begun(workspace, planned, other)
        and (other not in anew.configurations or anew.recipe_digest(other) != planned.recipe_digest(other))
    ]
    if lost:
        raise PlanError(
            f"{name}: must fit the device by a plan that leaves {', '.join(lost)} alone, trained already, got one that"
            f" does not. Plan for less --gpu-memory and train all of it again, or train {name} in another --workspace."
        )


def fitting_planning(
    asked: Planning, planned: Plan, data: tuple[Fingerprint, DatasetDescription], name: ConfigurationName, device: str
) -> Planning:
    """Return how to plan so that training steps of a configuration fit a device.

    Args:
        asked: How the plan was asked for.
        planned: The plan that came of it.
        data: What it was made from.
        name: Of the configuration.
        device: See `choose_device`.

    Raises:
        PlanError: If no plan fits.
    """
    preset = load_rulebook(asked.rules).for_preset(planned.preset)
    memory_gb = asked.overrides.gpu_memory_gb or preset.inferred.sizing.gpu_memory_gb
    least_gb = LEAST_SHARE * memory_gb
    tried: list[Alternative] = []
    while not fits(planned, name, device):
        tried.append(Alternative(value=round(memory_gb, 2), outcome=f"a training step of {name} ran out of memory"))
        refused = planned.configurations[name]
        while planned.configurations.get(name) == refused:
            memory_gb *= MEMORY_SHARE
            if memory_gb < least_gb:
                raise PlanError(
                    f"{name}: a training step must fit the memory of {device}, got too little for"
                    f" {refused.batch_size} patches of {'x'.join(map(str, refused.patch_size))} voxels. Free the"
                    " device, or plan with a smaller --patch-size, --batch-size or --preset."
                )
            asked = asked.model_copy(update={"proved": _decision(memory_gb, tried, device)})
            planned = plan_asked(*data, asked)
        if name not in planned.configurations:
            raise PlanError(
                f"{name}: must be part of a plan that fits {device}, got {', '.join(planned.configurations)}."
                " Choose one of them, or another device."
            )
    if tried:
        log.warning("%s: more than the memory of %s; planned again for %.1f GB.", name, device, memory_gb)
    return asked


def _decision(memory_gb: float, tried: list[Alternative], device: str) -> Decision:
    """Return why a plan is made for less memory than was asked for."""
    return Decision(
        configuration=None,
        name="gpu_memory_gb",
        value=memory_gb,
        reason=f"Training steps on {device_name(choose_device(device))} showed that plans for more do not fit it.",
        inputs={"share of the memory from plan to plan": MEMORY_SHARE},
        rules={},
        source="autoseg; measured when training began",
        alternatives=tuple(tried),
    )


def fits(planned: Plan, name: ConfigurationName, device: str) -> bool:
    """Return whether training steps, the last with all of the optimiser's state, find the memory they need."""
    try:
        _take_steps(planned, name, device)
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        return False
    finally:
        gc.collect()  # The trainer is gone by now, but for what refers to itself.
        torch.cuda.empty_cache()
    return True


def _take_steps(planned: Plan, name: ConfigurationName, device: str) -> None:
    """Take a step more than it takes until the optimiser has its state: in half precision, the first may be skipped."""
    trainer = Trainer(planned.training, planned.configurations[name], device, seed=0)
    batch = _largest_batch(planned, name)
    for step in range(MOST_STEPS):
        is_last = bool(trainer.optimizer.state)
        trainer.step(batch, rate=0.0, step=step)
        if is_last:
            return


def _largest_batch(planned: Plan, name: ConfigurationName) -> Batch:
    """Return a batch of noise that is read as widely as any."""
    configuration = planned.configurations[name]
    patch, channels = configuration.patch_size, len(configuration.normalization)
    source = (configuration.batch_size, *largest_source(patch, planned.training.augmentation))
    unchanged = AugmentationDraw(
        matrix=tuple(tuple(float(row == column) for column in range(len(patch))) for row in range(len(patch))),
        mirrored=(False,) * len(patch),
        noise_std=0.0,
        blur_sigmas=((0.0,) * len(patch),) * channels,
        brightness=(1.0,) * channels,
        contrast=(1.0,) * channels,
        resolution=(1.0,) * channels,
        keep_coarse_axis=False,
        gamma_inverted=(1.0,) * channels,
        gamma=(1.0,) * channels,
        noise_seed=0,
    )
    images = generator(0, "fitting").standard_normal((source[0], channels, *source[1:]), dtype=np.float32)
    draws = [unchanged] * configuration.batch_size
    labels = np.zeros(source, dtype=np.int16)
    earlier = labels if configuration.previous_stage is not None else None
    return Batch(images, labels, draws, ["a step to prove the plan"] * len(draws), earlier)
