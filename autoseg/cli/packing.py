"""`autoseg pack` and `autoseg info`: models as one file."""

import hashlib
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from autoseg import pipeline
from autoseg.cli import options as opt
from autoseg.cli.prediction import Configuration, Folds
from autoseg.cli.terminal import out, print_json, show_table
from autoseg.core.workspace import Workspace
from autoseg.pipeline.packing.model_card import (
    LICENCE_SOURCES,
    SCHEMES,
    cases_text,
    chosen_by_text,
    folds_text,
    interval_text,
    network_rows,
    range_texts,
    score_text,
    share_text,
    values_text,
    volume_text,
)
from autoseg.pipeline.packing.model_description import ModelDescription
from autoseg.pipeline.packing.packed_model import CARD
from autoseg.select.explain import uncertainty

Target = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="To write. [default: in the workspace, named like the dataset]"),
]
LicenceText = Annotated[
    str | None,
    typer.Option(
        "--licence",
        metavar="TEXT|FILE",
        help="Terms of use: a text, or a file with one. [default: what the training data declare]",
    ),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="File that autoseg pack wrote, or a workspace.")]


def pack(
    target: Target = None,
    workspace: opt.WorkspaceFolder = opt.WORKSPACE,
    configuration: Configuration = None,
    folds: Folds = "all",
    licence: LicenceText = None,
    as_json: opt.Json = False,
) -> None:
    """Write a trained model to one file to hand on.

    After `autoseg select` its choice is packed, unless --configuration or --folds name another. The file is a zip of
    JSON, weights (safetensors) and a model card (MODEL_CARD.md); nothing in it can run. Names of cases are left out.
    An earlier model of the same dataset is replaced, any other file is not.
    """
    request = pipeline.PackRequest(target, configuration, opt.parse_networks(folds), licence)
    written = pipeline.pack(Workspace(workspace), request)
    with pipeline.open_model(written) as place:
        model = pipeline.describe(place, pipeline.choose_networks(place))
    if as_json:
        print_json({"file": str(written), "sha256": _sha256(written), **model.model_dump(mode="json")})
        return
    show_model(model)
    _show_file(written)
    out.print(f"\nWrote {written}. Next: autoseg predict --model {written} SCANS OUT")


def info(model: Model = opt.WORKSPACE, as_json: opt.Json = False) -> None:
    """Show what a model is.

    Of a packed model, every part is checked against its digest first.
    """
    with pipeline.open_model(model) as place:
        found = pipeline.describe(place, pipeline.choose_networks(place))
    is_file = model.is_file()
    if as_json:
        of_file = {"file": str(model), "sha256": _sha256(model)} if is_file else {}
        print_json({**of_file, **found.model_dump(mode="json")})
        return
    show_model(found)
    if is_file:
        _show_file(model)
    option = "--model" if is_file else "--workspace"
    out.print(f"\nNext: autoseg predict {option} {model} SCANS OUT")


def show_model(model: ModelDescription) -> None:
    """Print what a model segments, has learnt from, consists of and scores."""
    out.print(Text.assemble((model.dataset, "bold"), f": {model.name}, folds {folds_text(model.folds)}"))
    channels = "; ".join(f"{channel.name} ({SCHEMES[channel.scheme]})" for channel in model.channels)
    out.print(f"Channels: {channels}\n")
    _show_targets(model)
    _show_training_data(model)
    _show_networks(model)
    _show_scores(model)
    gain = "" if model.gain is None else f", {uncertainty(model.gain)} on cases without a part in it"
    out.print(f"\nPostprocessing: {'; '.join(model.postprocessing) or 'none'}{gain}")
    first = next(iter(model.licence.text.splitlines()), "")
    out.print(f"Licence: {first + '. ' if first else ''}{LICENCE_SOURCES[model.licence.source]}")
    if model.autoseg is not None:
        out.print(f"Packed by autoseg {model.autoseg}. For research; its limits are in {CARD}.")


def _show_file(path: Path) -> None:
    out.print(f"Size {path.stat().st_size / 1e6:.1f} MB, SHA-256 {_sha256(path)}")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _show_targets(model: ModelDescription) -> None:
    rows = [(str(model.background), "background", "", "")]
    rows += [
        (values_text(target), target.name, share_text(target.case_share), volume_text(target.median_volume_ml))
        for target in model.targets
    ]
    show_table("Segments", ("label value", "is", "training cases that have it", "median volume there"), rows)


def _show_training_data(model: ModelDescription) -> None:
    out.print()
    data = model.training_data
    if data is None:
        out.print("Training data: not known")
        return
    rows = [("spacing (mm)", data.spacing_mm), ("size (voxels)", data.size_voxels), ("size (mm)", data.size_mm)]
    title = f"Training data: {cases_text(data)}; axes z, y, x"
    show_table(title, ("", "lowest", "median", "highest"), [(name, *range_texts(found)) for name, found in rows])


def _show_networks(model: ModelDescription) -> None:
    out.print()
    header = ("configuration", "folds", "kind", "parameters", "spacing (mm)", "patch", "epochs")
    show_table("Networks", header, network_rows(model))


def _show_scores(model: ModelDescription) -> None:
    out.print()
    found = model.held_out
    if found is None:
        out.print("Held-out scores: none come with these networks")
        return
    rows = [
        (
            entry.name,
            score_text(entry.dice.mean),
            interval_text(entry.dice.interval),
            score_text(entry.surface_dice.mean),
            score_text(entry.hd95_mm.mean),
            str(entry.num_cases),
        )
        for entry in found.classes
    ]
    rows.append(("mean of classes", score_text(found.mean_dice), interval_text(found.interval), "", "", ""))
    title = f"{found.num_cases} held-out cases, before postprocessing"
    header = (
        "",
        "Dice",
        "95 % interval",
        f"surface Dice ({found.tolerance_mm:g} mm)",
        "HD95 (mm)",
        "cases that have it",
    )
    show_table(title, header, rows)
    if len(model.compared) > 1:
        out.print()
        compared = [(one.name, score_text(one.score), interval_text(one.interval)) for one in model.compared]
        show_table(f"Chosen by the {chosen_by_text(model)}", ("", "score", "95 % interval"), compared)
