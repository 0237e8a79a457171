"""`autoseg import-nnunet`."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli import options as opt
from autoseg.cli.terminal import out, print_json
from autoseg.core.workspace import Workspace
from autoseg.interop.nnunet_description import CHECKPOINT_NAME


def import_nnunet_models(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...",
            help="Trained model folder of nnU-Net v2, or its .zip; several for the stages of a cascade.",
        ),
    ],
    workspace: opt.WorkspaceFolder = opt.WORKSPACE,
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="File of each fold.")] = CHECKPOINT_NAME,
    as_json: opt.Json = False,
) -> None:
    """Take over trained models of nnU-Net v2.

    Nothing pickled is run: weights are read as plain tensors. Afterwards, predict works with them.
    """
    from autoseg.interop.nnunet_models import import_nnunet

    models = import_nnunet(sources, Workspace(workspace), checkpoint)
    if as_json:
        print_json([model.model_dump(mode="json") for model in models])
        return
    for model in models:
        folds = ", ".join(map(str, model.folds))
        out.print(f"{model.configuration}: folds {folds} of {model.source}, trained by {model.trainer}")
    # The last stage of a cascade runs those before it.
    last = models[-1].configuration if len(models) > 1 else None
    chosen = f" --configuration {last}" if last else ""
    out.print(f"Wrote {workspace}. Next: autoseg predict SCANS OUT{chosen}{opt.same_workspace(workspace)}")
