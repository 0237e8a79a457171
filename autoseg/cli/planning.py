"""`autoseg plan` and `autoseg rules`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from autoseg import pipeline
from autoseg.cli import options as opt
from autoseg.cli import tables
from autoseg.cli.terminal import TerminalProgress, out, print_json
from autoseg.core.errors import PlanError
from autoseg.core.workspace import Workspace
from autoseg.data.dataset import Dataset
from autoseg.data.image import image_suffix
from autoseg.fingerprint import Fingerprint
from autoseg.interop.fingerprint_files import read_dataset_description, read_fingerprint
from autoseg.interop.nnunet_plans import export_nnunet_plans
from autoseg.plan.explain import compare_plans, explain, explain_value, list_rules
from autoseg.plan.overrides import Overrides
from autoseg.plan.rulebook import load_rulebook
from autoseg.plan.schema import Plan

EVERYTHING = "everything"
"""What `--explain` stands for without a name."""


def with_explained_value(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with a value behind an `--explain` of `plan` that has none; elsewhere it takes none."""
    if next((text for text in arguments if not text.startswith("-")), None) != "plan":
        return list(arguments)
    completed: list[str] = []
    for place, text in enumerate(arguments):
        completed.append(text)
        if text == "--explain" and (place + 1 == len(arguments) or arguments[place + 1].startswith("-")):
            completed.append(EVERYTHING)
    return completed


Data = Annotated[
    Path | None,
    typer.Argument(metavar="[DATA]", help="Folder or archive of a dataset; without it, the plan of the workspace."),
]
GpuMemory = Annotated[
    float | None,
    typer.Option(
        parser=opt.parse_memory_gb, metavar="SIZE", help="Memory of the GPU to plan for: 11GB; auto reads it."
    ),
]
Spacing = Annotated[
    str | None,
    typer.Option(metavar="Z,Y,X", help="Spacing in mm; the rest follows."),
]
PatchSize = Annotated[
    str | None,
    typer.Option(metavar="Z,Y,X", help="Patch in voxels; Y,X sets that of 2d."),
]
MirrorAxes = Annotated[
    str | None,
    typer.Option(metavar="AXES", help="Axes to mirror along, of z,y,x; none for none. [default: by the rules]"),
]
BatchSize = Annotated[int | None, typer.Option(help="Patches per step; the patch shrinks until they fit.")]
Budget = Annotated[
    float | None,
    typer.Option(
        parser=opt.parse_duration,
        metavar="TIME",
        help="Time of one training on this machine to make the most of: 30m, 8h.",
    ),
]
Configuration = Annotated[
    str | None, typer.Option("--configuration", "-c", help="That the budget is for. [default: as in train]")
]
FingerprintFile = Annotated[
    Path | None,
    typer.Option(help="Plan from this fingerprint, ours or nnU-Net's, without any image; needs --dataset."),
]
DatasetFile = Annotated[Path | None, typer.Option(help="The dataset.json that belongs to --fingerprint.")]
ExplainName = Annotated[
    str | None,
    typer.Option("--explain", metavar="[NAME]", help="Say why each value is what it is, or all about one."),
]
Compare = Annotated[Path | None, typer.Option(help="Say what differs from another plan.json, and why.")]
ExportNnunet = Annotated[Path | None, typer.Option(help="Also write the plan as nnU-Net's nnUNetPlans.json.")]


def plan(
    source: Data = None,
    workspace: opt.WorkspaceFolder = opt.WORKSPACE,
    preset: opt.Preset = None,
    rules: opt.Rules = None,
    gpu_memory: GpuMemory = None,
    spacing: Spacing = None,
    patch_size: PatchSize = None,
    mirror_axes: MirrorAxes = None,
    batch_size: BatchSize = None,
    budget: Budget = None,
    configuration: Configuration = None,
    fingerprint: FingerprintFile = None,
    dataset: DatasetFile = None,
    explain_name: ExplainName = None,
    compare: Compare = None,
    export_nnunet: ExportNnunet = None,
    group_by: opt.GroupBy = None,
    num_folds: opt.NumFolds = None,
    workers: opt.Workers = None,
    as_json: opt.Json = False,
) -> None:
    """Plan a dataset: spacing, patch, batch, network.

    It is checked, its fingerprint taken, and split into folds on the way.

    Presets: residual (the default), plain, residual-m, residual-l, residual-xl, cpu (the default for a --budget on a
    machine without a GPU); `autoseg rules` lists them.
    """
    place = Workspace(workspace)
    time = None
    if budget is not None:
        time = pipeline.AskedTime(seconds=budget, covers="a training", configuration=configuration)
        preset = pipeline.suited_preset(preset, time.device)
    sizes = _overrides(spacing, patch_size, batch_size, gpu_memory)
    mirrored = None if mirror_axes is None else opt.parse_axes(mirror_axes)
    options = pipeline.PlanOptions(preset, rules, sizes.model_copy(update={"mirror_axes": mirrored}), time)
    if fingerprint is not None or dataset is not None:
        planned, seen = _plan_without_images(fingerprint, dataset, options, place)
    elif source is not None:
        data = pipeline.DataOptions(group_by, num_folds, opt.num_workers(workers))
        planned = pipeline.plan(source, place, data, options, TerminalProgress())
        seen = Fingerprint.load(place.fingerprint)
    else:
        planned, seen = pipeline.load_plan(place), Fingerprint.load(place.fingerprint)
    if export_nnunet is not None:
        opened = Dataset.load(place.dataset) if fingerprint is None and place.dataset.exists() else None
        suffix = None if opened is None else image_suffix(Path(opened.cases[0].images[0]))
        export_nnunet_plans(planned, seen, planned.dataset, export_nnunet, suffix)
    if as_json:
        pipeline.costs_here(place, planned, seen, load_rulebook(rules))
        print_json(planned)
    elif explain_name is not None:
        out.print(explain(planned) if explain_name == EVERYTHING else explain_value(planned, explain_name))
    elif compare is not None:
        out.print(compare_plans(planned, Plan.load(compare)))
    else:
        tables.show_plan(planned)
        out.print()
        tables.show_costs(planned, pipeline.costs_here(place, planned, seen, load_rulebook(rules)))
        out.print(f"\nWrote {place.plan}. Why: autoseg plan --explain{opt.same_workspace(workspace)}")
        if fingerprint is None:
            out.print(f"Next: autoseg train --fold 0{_same_time(place)}{opt.same_workspace(workspace)}")


def rules(
    overlay: opt.Rules = None,
) -> None:
    """List the constants of all rules, with reasons."""
    out.print(list_rules(load_rulebook(overlay)))


def _same_time(workspace: Workspace) -> str:
    """Return the options that train for the time that the plan of a workspace was made for."""
    time = pipeline.Planning.load(workspace.planning).time if workspace.planning.exists() else None
    if time is None or time.covers != "a training":
        return ""
    chosen = "" if time.configuration is None else f" --configuration {time.configuration}"
    return f"{chosen} --budget {opt.duration_text(time.seconds)}"


def _overrides(
    spacing_text: str | None,
    patch_size_text: str | None,
    batch_size: int | None,
    gpu_memory: float | None,
) -> Overrides:
    spacing = None if spacing_text is None else opt.parse_numbers(spacing_text)
    patch_size = None if patch_size_text is None else opt.parse_numbers(patch_size_text)
    if spacing is not None and len(spacing) != 3:
        raise typer.BadParameter(f"--spacing: must be three numbers, z, y and x, got {len(spacing)}")
    if patch_size is not None and (len(patch_size) not in (2, 3) or any(size % 1 for size in patch_size)):
        raise typer.BadParameter(f"--patch-size: must be two or three whole numbers, got {patch_size}")
    return Overrides(
        spacing=None if spacing is None else (spacing[0], spacing[1], spacing[2]),
        patch_size=None if patch_size is None else tuple(int(size) for size in patch_size),
        batch_size=batch_size,
        gpu_memory_gb=gpu_memory,
    )


def _plan_without_images(
    fingerprint: Path | None, dataset: Path | None, options: pipeline.PlanOptions, workspace: Workspace
) -> tuple[Plan, Fingerprint]:
    if fingerprint is None or dataset is None:
        raise PlanError("--fingerprint and --dataset: both files must be given, got one. Add the other.")
    description = read_dataset_description(dataset)
    found = read_fingerprint(fingerprint, description)
    planned = pipeline.plan_from(found, description, options)
    found.save(workspace.fingerprint)
    planned.save(workspace.plan)
    return planned, found
