"""What other programs import: a server, a viewer's plug-in, a notebook. `docs/python.md` shows how it is used.

The names here are kept; those of other modules may move.
"""

from autoseg.core.errors import AutosegError
from autoseg.core.geometry import Geometry
from autoseg.core.progress import Progress, Silent
from autoseg.core.workspace import Workspace
from autoseg.data.image import Image, LabelImage, read_label, write_label
from autoseg.data.scan import read_scan
from autoseg.infer.maps import Extras, read_probabilities
from autoseg.infer.outcome import Outcome, Predictions
from autoseg.infer.predictor import Predictor
from autoseg.pipeline.prediction import ModelChoice, load_predictor, predict
from autoseg.pipeline.scans import Request

__all__ = [
    "AutosegError",
    "Extras",
    "Geometry",
    "Image",
    "LabelImage",
    "ModelChoice",
    "Outcome",
    "Predictions",
    "Predictor",
    "Progress",
    "Request",
    "Silent",
    "Workspace",
    "load_predictor",
    "predict",
    "read_label",
    "read_probabilities",
    "read_scan",
    "write_label",
]
