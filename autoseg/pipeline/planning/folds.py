"""Which cases a fold learns from and holds out."""

from autoseg.core.errors import TrainingError
from autoseg.core.workspace import ALL_DATA, FoldName, Workspace
from autoseg.data.splits import Split, Splits


def load_split(workspace: Workspace, fold: FoldName) -> Split:
    """Return the cases to learn from and to hold out; all of them twice where none is held out.

    Raises:
        TrainingError: If there is no such fold.
    """
    folds = Splits.load(workspace.splits).folds
    if fold == ALL_DATA:
        names = tuple(sorted(name for split in folds for name in split.validation))
        return Split(train=names, validation=names)
    if not 0 <= fold < len(folds):
        raise TrainingError(
            f"--fold: must be one of 0 to {len(folds) - 1}, got {fold}."
            f" Choose one of them, or {ALL_DATA}, or plan again with --num-folds."
        )
    return folds[fold]
