"""The errors that autoseg raises on purpose.

Each is one sentence: *where: what must hold, what was got. What to do.*

    AutosegError
    ├── ArtefactError      a JSON artefact, rule file or weights file that cannot be used
    ├── DatasetError       a dataset that cannot be read or planned
    ├── DownloadError      a public dataset that cannot be fetched
    ├── PlanError          a plan that cannot be made or does not fit
    ├── TrainingError      a training that cannot start or go on
    ├── InterruptionError  work that was asked to end early
    ├── PredictionError    a scan that cannot be segmented
    ├── EvaluationError    predictions and references that cannot be compared
    └── SelectionError     held-out predictions that cannot decide

Wrong arguments in Python raise `ValueError`.
"""

WITHOUT_RESTART = "Leave out --restart, which would begin again."
"""What else to say where the same command goes on, and had that option."""


class AutosegError(Exception):
    """Root of every error that a user can cause and mend; the CLI prints its message and exits with 1."""


class ArtefactError(AutosegError):
    """A saved artefact, rule file or weights file is missing, damaged or of another version."""


class DatasetError(AutosegError):
    """A dataset cannot be read or is not fit for planning."""


class DownloadError(AutosegError):
    """A public dataset cannot be fetched or fails its checksum."""


class PlanError(AutosegError):
    """No plan satisfies the rules and the budget."""


class TrainingError(AutosegError):
    """A training cannot start or go on; the last checkpoint is intact."""


class InterruptionError(AutosegError):
    """Work was asked to end early and did; the same command goes on from there."""


class PredictionError(AutosegError):
    """A scan cannot be segmented with this model."""


class EvaluationError(AutosegError):
    """Predictions and references cannot be compared."""


class SelectionError(AutosegError):
    """What is trained is not enough, or not alike enough, to choose from."""
