"""The command `select`: configuration or ensemble, and postprocessing, from held-out cases."""

from typing import Annotated

import typer

from autoseg.cli import options as opt
from autoseg.cli.tables import mean_and_interval
from autoseg.cli.terminal import TerminalProgress, out, print_json, show_table
from autoseg.core.workspace import Workspace
from autoseg.pipeline.heldout.selection import SelectionRequest, make_selection
from autoseg.select.choose import Selection
from autoseg.select.crossfit import Metric
from autoseg.select.explain import WORDS, explain_selection, uncertainty

MOST_CANDIDATES = 3
"""That fit beside each other on a terminal."""


def parse_weight(text: str) -> tuple[str, float]:
    """Return name and weight of a class from a text like lesion=2."""
    name, equals, number = text.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = None
    if not equals or not name or weight is None:
        raise typer.BadParameter(f"must be a class and its weight, such as lesion=2, got {text!r}")
    return name, weight


def select(
    workspace: opt.WorkspaceFolder = opt.WORKSPACE,
    configuration: Annotated[
        str | None,
        typer.Option(
            "--configuration", "-c", help="To choose from, one or several: 2d,3d_fullres. [default: all trained]"
        ),
    ] = None,
    metric: Annotated[Metric, typer.Option("--metric", help="That decides: dice, or nsd (surface Dice).")] = "dice",
    weight: Annotated[
        list[str] | None,
        typer.Option("--weight", metavar="CLASS=NUMBER", help="Of a class in the mean; may be repeated. [default: 1]"),
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option("--mirror/--no-mirror", help="Average over mirrored scans. [default: as the run did, else yes]"),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why, and what it was chosen over.")] = False,
    device: opt.Device = "auto",
    workers: opt.Workers = None,
    as_json: opt.Json = False,
) -> None:
    """Choose from what is trained, by held-out cases.

    Every configuration and every pair of them as an ensemble is scored; postprocessing is kept where it helps.
    """
    request = SelectionRequest(
        metric=metric,
        weights=dict(parse_weight(text) for text in weight or ()),
        device=device,
        num_workers=opt.num_workers(workers),
        mirror=mirror,
        configurations=opt.parse_names(configuration),
    )
    place = Workspace(workspace)
    selection = make_selection(place, request, TerminalProgress())
    if as_json:
        print_json(selection)
        return
    show_selection(selection)
    if explain:
        out.print()
        out.print(explain_selection(selection))
    out.print(f"\nWrote {place.selection}. Next: autoseg predict SCANS OUT{opt.same_workspace(workspace)}")


def show_selection(selection: Selection) -> None:
    """Print the candidates, the winner first, and the postprocessing."""
    winner = selection.candidates[0]
    rows = [
        (
            candidate.name,
            mean_and_interval(candidate.score, candidate.interval),
            "" if candidate == winner else uncertainty(candidate.behind),
        )
        for candidate in selection.candidates
    ]
    what = WORDS[selection.metric]
    mean = "Weighted mean" if selection.is_weighted else "Mean"
    title = f"{mean} {what} of {selection.num_cases} held-out cases (95 % interval)"
    show_table(title, ("", what, "to the winner"), rows)
    if len(selection.weights) > 1:
        out.print()
        _show_classes(selection)
    out.print(f"\nChosen: {winner.name}")
    steps = "; ".join(selection.postprocessing.summary)
    gain = f", {uncertainty(selection.gain)} on cases without a part in it" if steps else ""
    out.print(f"Postprocessing: {steps or 'none'}{gain}")


def _show_classes(selection: Selection) -> None:
    """Print the means per class of the best candidates."""
    best = selection.candidates[:MOST_CANDIDATES]
    rows = [(name, *(_score(candidate.classes[name]) for candidate in best)) for name in selection.weights]
    if selection.is_weighted:
        rows = [(f"{name} (weight {selection.weights[name]:g})", *scores) for name, *scores in rows]
    show_table(f"Mean {WORDS[selection.metric]} per class", ("", *(candidate.name for candidate in best)), rows)


def _score(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"
