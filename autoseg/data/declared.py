"""The classes that a file declares, whoever wrote it."""

import json
from pathlib import Path

from autoseg.core.errors import DatasetError
from autoseg.core.labels import Labels
from autoseg.data.dataset import Dataset
from autoseg.data.description import DESCRIPTION_NAME, read_description


def declared_labels(source: Path) -> Labels:
    """Return the classes, regions and the value to ignore that a dataset declares.

    Args:
        source: A `dataset.json` of the Medical Segmentation Decathlon, of nnU-Net or of a workspace, or its folder.

    Raises:
        DatasetError: If there is no such file, or it declares no labels.
        ArtefactError: If it is a workspace's and cannot be read.
    """
    path = source / DESCRIPTION_NAME if source.is_dir() else source
    if not path.is_file():
        raise DatasetError(f"{path}: a file that declares labels must be there, found none. Correct the path.")
    if _is_of_a_workspace(path):
        return Dataset.load(path).labels
    labels = read_description(path).labels
    if labels is None:
        raise DatasetError(f"{path}: labels must be declared, got none. Add them, or leave the file out.")
    return labels


def _is_of_a_workspace(path: Path) -> bool:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and "schema_version" in document
