"""`autoseg predict`."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, get_args

import typer

from autoseg import pipeline
from autoseg.cli import options as opt
from autoseg.cli import tables
from autoseg.cli.terminal import TerminalProgress, print_json
from autoseg.core.workspace import Workspace
from autoseg.infer.case import Pace
from autoseg.infer.maps import Extras, Uncertainty
from autoseg.infer.output import SUFFIXES, OutputFormat

UNCERTAINTIES: tuple[Uncertainty, ...] = get_args(Uncertainty)


In = Annotated[
    Path,
    typer.Argument(
        metavar="IN", help="A scan, a folder of scans, a .csv of cases, or a DICOM series as folder or zip."
    ),
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="A file for one scan, a folder for several.")]
Configuration = Annotated[
    str | None,
    typer.Option(
        "--configuration",
        "-c",
        help="2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres. [default: what was selected, else the first"
        " trained of 3d_fullres, 2d, 3d_cascade_fullres and 3d_lowres]",
    ),
]
Folds = Annotated[
    str,
    typer.Option(
        "--folds",
        show_default=False,
        help="Folds to average: all, 0, 0,2 or 0-4; or all-data, trained on every case. [default: those that were"
        " selected, else all]",
    ),
]
ModelFile = Annotated[
    Path | None,
    typer.Option("--model", "-m", metavar="FILE", help="Packed model to predict with, instead of a workspace."),
]
Mirror = Annotated[bool, typer.Option("--mirror/--no-mirror", help="Average over mirrored scans.")]
Fast = Annotated[bool, typer.Option("--fast", help="Fewer tiles, no mirroring: a rougher result, sooner.")]
Accurate = Annotated[bool, typer.Option("--accurate", help="About three times the tiles, in float32: slower.")]
Exact = Annotated[
    bool, typer.Option("--exact", help="Compute in float32 where the device's fastest precision is another.")
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Search the folders below IN too.")]
FormatName = Annotated[
    str | None,
    typer.Option(
        "--format", help=f"Of the label maps: {', '.join(SUFFIXES)}. [default: that of the scan, as far as it can]"
    ),
]
SaveProbabilities = Annotated[
    bool, typer.Option("--save-probabilities", help="Also write the probability of every class, half precision.")
]
UncertaintyNames = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Also write images of uncertainty: entropy, disagreement (of folds; takes as long again), or both,"
        " separated by a comma.",
    ),
]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Keep label maps that are there: continue a broken-off batch.")
]


def predict(
    source: In,
    target: Out,
    workspace: opt.WorkspaceFolder = opt.WORKSPACE,
    model: ModelFile = None,
    configuration: Configuration = None,
    folds: Folds = "all",
    mirror: Mirror = True,
    fast: Fast = False,
    accurate: Accurate = False,
    exact: Exact = False,
    recursive: Recursive = False,
    output_format: FormatName = None,
    save_probabilities: SaveProbabilities = False,
    uncertainty: UncertaintyNames = None,
    skip_existing: SkipExisting = False,
    device: opt.Device = "auto",
    as_json: opt.Json = False,
) -> int:
    """Segment new scans with the trained folds.

    The networks are those of a workspace, or of one file that `autoseg pack` wrote. After `autoseg select` its choice
    and its postprocessing are used, unless --configuration names another; --folds names other folds of it.

    In a folder, files whose names end in a channel's number (_0000) or name (_T1) belong together. A .csv has a column
    per channel, or image; case and output may be added; paths are relative to it. What became of each scan goes to
    predictions.json in OUT; a scan that fails does not stop the others, and the exit code is 1.
    """
    wanted, pace = opt.parse_networks(folds), _pace(fast=fast, accurate=accurate)
    request = pipeline.Request(
        source=source,
        target=target,
        recursive=recursive,
        output_format=None if output_format is None else _format(output_format),
        extras=Extras(save_probabilities, _uncertainties(uncertainty)),
        skip_existing=skip_existing,
    )
    with _opened(model, workspace, request.folder) as place:
        networks = pipeline.choose_networks(place, configuration, wanted)
        choice = replace(networks.choice(device, mirror=mirror, exact=exact), pace=pace)
        predictions = pipeline.predict(place, choice, request, TerminalProgress(), networks.selection)
    if as_json:
        print_json(predictions)
    else:
        tables.show_predictions(predictions, request.record)
    return 0 if all(case.error is None for case in predictions.cases) else 1


def _opened(model: Path | None, workspace: Path, target: Path) -> AbstractContextManager[Workspace]:
    """Return the packed model or the workspace that was asked for; a model is unpacked where the label maps go."""
    if model is None and workspace.is_file():
        raise typer.BadParameter(
            f"--workspace: must be a folder, got a file; name packed models with --model {workspace}"
        )
    if model is None:
        return nullcontext(Workspace(workspace))
    if workspace != opt.WORKSPACE:
        raise typer.BadParameter("--model, --workspace: one of them must be chosen, got both")
    return pipeline.open_model(model, next(path for path in (target, *target.absolute().parents) if path.is_dir()))


def _pace(*, fast: bool, accurate: bool) -> Pace:
    if fast and accurate:
        raise typer.BadParameter("--fast, --accurate: one of them must be chosen, got both")
    return "fast" if fast else "accurate" if accurate else "standard"


def _format(text: str) -> OutputFormat:
    for name in SUFFIXES:
        if name == text.lower():
            return name
    raise typer.BadParameter(f"--format: must be one of {', '.join(SUFFIXES)}, got {text!r}")


def _uncertainties(text: str | None) -> tuple[Uncertainty, ...]:
    asked = [] if text is None else [part.strip() for part in text.split(",")]
    if strange := [part for part in asked if part not in UNCERTAINTIES]:
        raise typer.BadParameter(f"--uncertainty: must be {' or '.join(UNCERTAINTIES)}, got {strange[0]!r}")
    return tuple(name for name in UNCERTAINTIES if name in asked)
