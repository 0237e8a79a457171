"""Checkpoints of nnU-Net v2: read without running anything that is in them, and renamed for our network."""

import math
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoseg.core.errors import ArtefactError
from autoseg.network.unet import UNet
from autoseg.plan.schema import NetworkPlan

DISTRIBUTED_PREFIX = "module."
"""In front of every name, where several processes trained together; nnU-Net takes it off as it loads."""

_DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    pickle.UnpicklingError,
)
"""What `torch.load` raises for a damaged file, and what other entries than expected lead to."""

_SCALARS = tuple(type(np.dtype(name)) for name in ("float64", "float32", "float16", "int64", "int32", "bool"))

_SCALAR: Any = np.float64().__reduce__()[0]
"""Numpy's function that makes a number, which its pickles name differently from version to version."""

ALLOWED: list[Any] = [
    np.dtype,
    *_SCALARS,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
"""What a checkpoint may hold beside tensors and plain Python values: the numbers of its training curves."""


@dataclass(frozen=True)
class NnunetCheckpoint:
    """What `fold_*/checkpoint_final.pth` holds that matters after training.

    Attributes:
        weights: Of the network, by nnU-Net's names.
        configuration: As nnU-Net calls it.
        fold: That was held out, or `all`; None if it was not noted.
        dataset_name: Of the dataset that it was trained on; None if it was not noted.
        declared: `dataset.json` of that dataset; empty if it was not noted.
        trainer: Name of nnU-Net's class that trained it.
        mirror_axes: Of the patch, along which prediction may mirror.
        num_epochs: That were trained.
        device: That trained.
        seconds: That the epochs took.
        dice: Of the last epoch's patches, one entry per foreground class, None of one that did not occur in them; empty
            if it was not noted.
    """

    weights: Mapping[str, Tensor] = field(repr=False)
    configuration: str
    fold: str | None
    dataset_name: str | None
    declared: Mapping[str, Any] = field(repr=False)
    trainer: str
    mirror_axes: tuple[int, ...]
    num_epochs: int
    device: str
    seconds: float
    dice: tuple[float | None, ...]


def read_checkpoint(path: Path, where: Path) -> NnunetCheckpoint:
    """Read a checkpoint; only tensors, plain Python values and numpy's numbers are let through.

    Args:
        path: File.
        where: Its name for errors: inside an archive, another than its path.

    Raises:
        ArtefactError: If it is damaged, holds anything else, code for example, or lacks an entry of nnU-Net's.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickles that are refused in the next moment
            document = torch.load(path, map_location="cpu", weights_only=True)
        curves, arguments = document.get("logging") or {}, document["init_args"]
        fold, dataset_name = arguments.get("fold"), (arguments.get("plans") or {}).get("dataset_name")
        return NnunetCheckpoint(
            weights={
                str(name).removeprefix(DISTRIBUTED_PREFIX): tensor
                for name, tensor in document["network_weights"].items()
            },
            configuration=str(arguments["configuration"]),
            fold=None if fold is None else str(fold),
            dataset_name=None if dataset_name is None else str(dataset_name),
            declared=dict(arguments.get("dataset_json") or {}),
            trainer=str(document["trainer_name"]),
            mirror_axes=tuple(int(axis) for axis in document.get("inference_allowed_mirroring_axes") or ()),
            num_epochs=int(document["current_epoch"]),
            device=str(arguments.get("device", "unknown")),
            seconds=_duration_s(curves),
            dice=tuple(_score(value) for value in (curves.get("dice_per_class_or_region") or [()])[-1]),
        )
    except _DAMAGED as error:
        raise _refused(where, error) from None


def convert_weights(weights: Mapping[str, Tensor], plan: NetworkPlan, where: Path) -> dict[str, Tensor]:
    """Return the weights under the names that they have in our network, float32.

    Args:
        weights: By nnU-Net's names.
        plan: Of the network, from the `plans.json` of the same model.
        where: Name of the checkpoint for errors.

    Raises:
        ArtefactError: If a weight is missing, has another shape, or has no place in the plan's network.
    """
    with torch.device("meta"):
        expected = UNet(plan).state_dict()
    modules = dict(module_names(plan))
    converted = {}
    for name, wanted in expected.items():
        module, _, kind = name.rpartition(".")
        source = f"{modules[module]}.{kind}"
        tensor = weights.get(source)
        if tensor is None or tensor.shape != wanted.shape:
            got = "none" if tensor is None else tuple(tensor.shape)
            raise _unfit(where, f"{source} must have shape {tuple(wanted.shape)} by plans.json, got {got}")
        converted[name] = tensor.float().clone()
    known = {f"{modules[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}" for name in expected}
    for name, tensor in weights.items():
        original = _original_name(name)
        if original not in known:
            raise _unfit(where, f"{name} must be part of the network of plans.json, got a weight that is not")
        if not torch.equal(tensor, weights[original]):
            raise _unfit(where, f"{name} must equal {original}, of which nnU-Net stores it as a copy, got other values")
    return converted


def module_names(plan: NetworkPlan) -> Iterator[tuple[str, str]]:
    """Give our name and nnU-Net's of every module that has weights.

    Source:
        dynamic_network_architectures, PlainConvUNet and ResidualEncoderUNet.
    """
    if plan.kind == "residual":
        yield from _conv_norm("stem", "encoder.stem.convs.0")
    num_decoders = len(plan.features) - 1
    for stage, num_blocks in enumerate(plan.encoder_blocks):
        for block in range(num_blocks):
            if plan.kind == "plain":
                yield from _conv_norm(f"encoder.{stage}.{block}", f"encoder.stages.{stage}.0.convs.{block}")
            else:
                yield from _residual_block(f"encoder.{stage}.{block}", f"encoder.stages.{stage}.blocks.{block}")
    for stage, num_convs in enumerate(plan.decoder_convs):
        theirs = num_decoders - 1 - stage
        yield f"upsample.{stage}", f"decoder.transpconvs.{theirs}"
        yield f"outputs.{stage}", f"decoder.seg_layers.{theirs}"
        for conv in range(num_convs):
            yield from _conv_norm(f"decoder.{stage}.{conv}", f"decoder.stages.{theirs}.convs.{conv}")


def _conv_norm(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.0", f"{theirs}.conv"
    yield f"{ours}.1", f"{theirs}.norm"


def _residual_block(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield from _conv_norm(f"{ours}.first", f"{theirs}.conv1")
    yield from _conv_norm(f"{ours}.second", f"{theirs}.conv2")
    # The projection follows the pooling, where there is one.
    for place in (0, 1):
        yield from _conv_norm(f"{ours}.shortcut.{place}", f"{theirs}.skip.{place}")


def _original_name(name: str) -> str:
    """Return the name of the weight that one of nnU-Net's names stands for; most are stored two or four times."""
    name = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
    return name.replace(".all_modules.0.", ".conv.").replace(".all_modules.1.", ".norm.")


def _duration_s(curves: Mapping[str, Any]) -> float:
    """Return the seconds between starts and ends of the epochs, as far as they were noted."""
    starts, ends = curves.get("epoch_start_timestamps") or (), curves.get("epoch_end_timestamps") or ()
    seconds = float(sum(end - start for start, end in zip(starts, ends, strict=False)))
    return seconds if math.isfinite(seconds) else 0.0


def _score(value: float) -> float | None:
    """Return a score; None for the NaN that nnU-Net notes of a class that no patch of the epoch held."""
    return float(value) if math.isfinite(value) else None


def _refused(where: Path, error: Exception) -> ArtefactError:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        if named := re.search(r"GLOBAL ([\w.]+)", text):
            return ArtefactError(
                f"{where}: must hold tensors and plain values only, got {named[1]}, which is code. Nothing of it was"
                " run. Get the file from where it was trained."
            )
        reason = "a pickle of another kind"
    elif isinstance(error, KeyError):
        reason = f"no entry {error}"
    else:
        reason = text.splitlines()[0] if text else type(error).__name__
    return ArtefactError(f"{where}: must be a checkpoint of nnU-Net v2, got: {reason}. Fetch it again.")


def _unfit(where: Path, problem: str) -> ArtefactError:
    return ArtefactError(f"{where}: {problem}. Use the plans.json and dataset.json that it was trained with.")
