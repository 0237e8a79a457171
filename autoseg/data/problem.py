"""What is wrong with a dataset, as a record, and the error that carries one."""

from pathlib import Path
from typing import Literal

from autoseg.core.artefact import Record
from autoseg.core.errors import DatasetError

Severity = Literal["error", "warning"]


class Problem(Record):
    """One finding about one file or case.

    Attributes:
        severity: A plan refuses an error and goes on with a warning.
        rule: One word for what was broken, the same for all findings of a kind.
        file: The file, or the case or folder where no file can be named.
        message: What must hold and what was got, without a full stop.
        remedy: What to do about it, without a full stop.
    """

    severity: Severity
    rule: str
    file: str
    message: str
    remedy: str

    @property
    def sentence(self) -> str:
        """The whole finding: where, what must hold, what was got, what to do."""
        return f"{self.file}: {self.message}. {self.remedy}."


class UnusableFileError(DatasetError):
    """A file that cannot be used, and why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem.sentence


def unusable(path: Path, rule: str, message: str, remedy: str) -> UnusableFileError:
    """Return the error that says why a file cannot be used."""
    return UnusableFileError(Problem(severity="error", rule=rule, file=str(path), message=message, remedy=remedy))


def absent(path: Path) -> UnusableFileError:
    """Return the error for a file that is not there, with what is there in its place."""
    if path.is_symlink():
        message = "the file must be there, found a link to none"
        return unusable(path, "missing", message, "Fetch what it links to, or remove its entry")
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    similar = next((other.name for other in siblings if other.name.casefold() == path.name.casefold()), None)
    if similar:
        message = f"the file must be there, found {similar} (upper and lower case differ)"
        return unusable(path, "missing", message, "Rename one of them")
    return unusable(path, "missing", "the file must be there, found none", "Restore it, or remove its entry")
