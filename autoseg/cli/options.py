"""Options that several commands share, and how their texts are read."""

import os
import re
from pathlib import Path
from typing import Annotated, get_args

import typer

from autoseg.core.workspace import ALL_DATA, DEFAULT_WORKSPACE, FoldName
from autoseg.plan.overrides import Axis

WORKSPACE = DEFAULT_WORKSPACE

MOST_WORKERS = 16
"""Beyond this many, processes that read cases wait for the disk."""

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Return seconds from texts like 90s, 30m, 8h, 1h30m, 2d."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise typer.BadParameter(f"must be a length of time such as 90s, 30m, 8h or 1h30m, got {text!r}")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def duration_text(seconds: float) -> str:
    """Return a length of time as `parse_duration` reads it: 90s, 8h, 1h30m."""
    parts, left = [], seconds
    for unit, length in reversed(_SECONDS.items()):
        number, left = divmod(left, length) if unit != "s" else (left, 0.0)
        parts.append(f"{number:g}{unit}" if number else "")
    return "".join(parts)


def parse_folds(text: str) -> tuple[int, ...] | None:
    """Return fold numbers from texts like 0, 0,2, 0-4; None for all."""
    return None if text == "all" else parse_fold_numbers(text, "--folds", "all")


def parse_fold_numbers(text: str, option: str, other: str) -> tuple[int, ...]:
    """Return fold numbers from texts like 0, 0,2, 0-4.

    Args:
        text: To be read.
        option: That it was given with.
        other: What the option takes, too.
    """
    folds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise typer.BadParameter(
                f"{option}: must be fold numbers such as 0 or 0,2 or 0-4, or {other}, got {text!r}"
            )
        folds.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(dict.fromkeys(folds))


def parse_names(text: str | None) -> tuple[str, ...] | None:
    """Return names from texts like 2d or 2d,3d_fullres."""
    return None if text is None else tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def parse_networks(text: str) -> tuple[FoldName, ...] | None:
    """Return whose networks predict, from texts like 0, 0,2, 0-4 or all-data; None for all numbered folds."""
    return (ALL_DATA,) if text == ALL_DATA else parse_folds(text)


def parse_trainings(text: str) -> tuple[FoldName, ...]:
    """Return what trainings hold out, from fold numbers or all-data (all for short, as in nnU-Net)."""
    return (ALL_DATA,) if text in (ALL_DATA, "all") else parse_fold_numbers(text, "--fold", ALL_DATA)


def parse_memory_gb(text: str) -> float:
    """Return gigabytes from texts like 24GB, 11 GB, 24; auto stands for what is free on this machine's GPU.

    Raises:
        PlanError: If there is no GPU to read.
    """
    if text == "auto":
        from autoseg.network.probe import free_gpu_memory_gb

        return free_gpu_memory_gb()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:GB|G)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise typer.BadParameter(f"must be an amount of memory such as 24GB, or auto, got {text!r}")
    return float(match[1])


def parse_numbers(text: str) -> tuple[float, ...]:
    """Return numbers from texts like 1.5,1,1 or 64x128x128."""
    try:
        return tuple(float(part) for part in re.split(r"[,x]", text))
    except ValueError:
        raise typer.BadParameter(f"must be numbers such as 1.5,1,1 or 64x128x128, got {text!r}") from None


def num_workers(asked: int | None) -> int:
    """Return the number of background processes: as many as cores, unless asked for otherwise."""
    return asked if asked is not None else min(os.cpu_count() or 1, MOST_WORKERS)


def parse_axes(text: str) -> tuple[Axis, ...]:
    """Return axes of the images from texts like y,x, or none for no axis."""
    parts = [] if text == "none" else text.split(",")
    if len(set(parts)) < len(parts) or any(part not in ("z", "y", "x") for part in parts):
        raise typer.BadParameter(f"must be different axes out of z,y,x, or none, got {text!r}")
    return tuple(axis for axis in get_args(Axis) if axis in parts)


def same_workspace(workspace: Path) -> str:
    """Return the option that names the workspace in the next command, where it is needed."""
    return "" if workspace == WORKSPACE else f" --workspace {workspace}"


Source = Annotated[Path, typer.Argument(metavar="DATA", help="Folder or archive (.tar, .tar.gz, .zip) of a dataset.")]
WorkspaceFolder = Annotated[
    Path, typer.Option("--workspace", "-w", help="Folder for everything that autoseg writes about this dataset.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
GroupBy = Annotated[
    str | None,
    typer.Option(
        "--group-by",
        help="Keep cases together in one fold: a pattern on the case name, for example '(patient\\d+)_', or a CSV file"
        " with the columns case and group.",
    ),
]
NumFolds = Annotated[int | None, typer.Option("--num-folds", min=2, help="Folds of the cross-validation. [default: 5]")]
Preset = Annotated[str | None, typer.Option("--preset", help="Entry of rules/presets.toml; `autoseg plan --help`.")]
Rules = Annotated[
    Path | None, typer.Option("--rules", help="Folder with rule files whose entries replace those of rules/.")
]
Configuration = Annotated[
    str | None,
    typer.Option(
        "--configuration",
        "-c",
        help="2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres. [default: 3d_fullres where it exists]",
    ),
]
Configurations = Annotated[
    str | None,
    typer.Option(
        "--configuration", "-c", help="One or several: 2d,3d_fullres. [default: all worth it; with some --folds, one]"
    ),
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Length of a training in epochs.")]
Budget = Annotated[
    float | None,
    typer.Option("--budget", parser=parse_duration, metavar="TIME", help="Wall time to use: 90s, 30m, 8h."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Background processes. [default: by the number of cores]")
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        help="Seed of weights, patches and augmentation: on a CPU, with as many threads, it gives the same weights; on"
        " a GPU the same batches.",
    ),
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write the curves for TensorBoard.")]
InitFrom = Annotated[
    Path | None,
    typer.Option("--init-from", help="Begin with the weights of another model: its .safetensors, or a fold's folder."),
]
Restart = Annotated[bool, typer.Option("--restart", help="Throw away what earlier trainings left.")]
