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
from autoseg.pipeline.packing.model_description import ModelDescription, describe
from autoseg.pipeline.packing.networks import Networks, choose_networks
from autoseg.pipeline.packing.opening import load_predictor, open_model
from autoseg.pipeline.packing.pack import PackRequest, pack
from autoseg.pipeline.prediction.models import ModelChoice
from autoseg.pipeline.prediction.predict import predict
from autoseg.pipeline.prediction.scans import Request
from autoseg.select.predictor import SelectedPredictor

__all__ = [
    "AutosegError",
    "Extras",
    "Geometry",
    "Image",
    "LabelImage",
    "ModelChoice",
    "ModelDescription",
    "Networks",
    "Outcome",
    "PackRequest",
    "Predictions",
    "Predictor",
    "Progress",
    "Request",
    "SelectedPredictor",
    "Silent",
    "Workspace",
    "choose_networks",
    "describe",
    "load_predictor",
    "open_model",
    "pack",
    "predict",
    "read_label",
    "read_probabilities",
    "read_scan",
    "write_label",
]
