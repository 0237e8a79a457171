"""`autoseg check` and `autoseg preprocess`."""

from autoseg import pipeline
from autoseg.cli import options as opt
from autoseg.cli import tables
from autoseg.cli.terminal import TerminalProgress, out, print_json
from autoseg.core.workspace import Workspace


def check(
    source: opt.Source,
    workspace: opt.WorkspaceFolder = opt.WORKSPACE,
    group_by: opt.GroupBy = None,
    workers: opt.Workers = None,
    as_json: opt.Json = False,
) -> int:
    """Verify a dataset: all problems, with remedies."""
    data = pipeline.DataOptions(group_by, None, opt.num_workers(workers))
    dataset, report = pipeline.check(source, Workspace(workspace), data, TerminalProgress())
    if as_json:
        print_json(report)
    else:
        tables.show_check(dataset, report)
    return 1 if report.errors else 0


def preprocess(
    workspace: opt.WorkspaceFolder = opt.WORKSPACE,
    configuration: opt.Configuration = None,
    workers: opt.Workers = None,
) -> None:
    """Preprocess a planned dataset; train does it too."""
    place = Workspace(workspace)
    chosen = pipeline.choose_configuration(pipeline.load_plan(place), configuration)
    _, folder = pipeline.preprocess(place, chosen, opt.num_workers(workers), TerminalProgress())
    out.print(f"Wrote {folder}. Next: autoseg train --fold 0{opt.same_workspace(workspace)}")
