"""What a dataset's own `dataset.json` declares, in the dialects of the Medical Segmentation Decathlon and nnU-Net."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg.core.artefact import Record
from autoseg.core.errors import DatasetError
from autoseg.core.labels import IGNORE, Labels, declare_labels, declare_regions

DESCRIPTION_NAME = "dataset.json"
ORDER_KEY = "regions_class_order"


class Description(Record):
    """The declarations of a dataset.

    Attributes:
        name: Name of the dataset, empty if it has none.
        channels: Name of each channel, or None where none are declared.
        labels: The classes, or None where none are declared.
        training: Image and label of each labelled case as listed, or None where cases are not listed.
        test: Images without label, as listed.
        num_training: How many labelled cases there should be, or None.
        licence: Terms of use, empty if unknown.
        reference: Where the dataset comes from, empty if unknown.
    """

    name: str = ""
    channels: tuple[str, ...] | None = None
    labels: Labels | None = None
    training: tuple[tuple[str, str | None], ...] | None = None
    test: tuple[str, ...] = ()
    num_training: int | None = None
    licence: str = ""
    reference: str = ""


def read_description(path: Path) -> Description:
    """Read a `dataset.json`.

    Raises:
        DatasetError: If it is not JSON or breaks its dialect.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: must be valid JSON, got: {error}. Repair it.") from None
    if not isinstance(document, dict):
        raise DatasetError(f"{path}: must be a JSON object, got a {type(document).__name__}. Repair it.")
    channels = document.get("channel_names", document.get("modality"))
    training = document.get("training")
    count = document.get("numTraining")
    return Description(
        name=str(document.get("name") or ""),
        channels=None if channels is None else _channels(path, channels),
        labels=None if document.get("labels") is None else _labels(path, document["labels"], document.get(ORDER_KEY)),
        training=None if training is None else tuple(_pair(path, entry) for entry in _list(path, "training", training)),
        test=tuple(_image(path, "test", entry) for entry in _list(path, "test", document.get("test") or [])),
        num_training=count if isinstance(count, int) else None,
        licence=str(document.get("licence") or document.get("license") or ""),
        reference=str(document.get("reference") or ""),
    )


def _labels(path: Path, declared: object, order: object) -> Labels:
    if not isinstance(declared, dict) or not declared:
        raise DatasetError(f'{path}: labels must be an object like {{"0": "background"}}, got {declared!r}. Repair it.')
    if any(isinstance(value, list) and len(value) > 1 for value in declared.values()):
        return _regions(path, declared, order)
    # As in nnU-Net, lists of one value are no regions.
    declared = {key: entry[0] if isinstance(entry, list) and entry else entry for key, entry in declared.items()}
    is_by_value = all(_integer(key) is not None for key in declared)
    by_value: dict[int, str] = {}
    for key, entry in declared.items():
        value, name = (_integer(key), entry) if is_by_value else (_integer(entry), key)
        if value is None or not isinstance(name, str):
            raise DatasetError(f"{path}: labels must pair a name and an integer, got {key!r}: {entry!r}. Repair it.")
        if value in by_value:
            raise DatasetError(
                f"{path}: label values must differ, got {value} for {by_value[value]} and {name}. Repair it."
            )
        by_value[value] = name
    try:
        labels = declare_labels(by_value)
    except ValueError as error:
        raise DatasetError(f"{path}: {error}. Correct the labels.") from None
    if not labels.foreground:
        raise DatasetError(f"{path}: labels must hold a class besides the background, got none. Declare it.")
    return labels


def _regions(path: Path, declared: Mapping[str, object], order: object) -> Labels:
    """Return labels of which some have several values; as in nnU-Net, `regions_class_order` says what is painted."""
    values: dict[str, list[int]] = {}
    for name, entry in declared.items():
        found = [_integer(value) for value in (entry if isinstance(entry, list) else [entry])]
        values[name] = [value for value in found if value is not None]
        if None in found or not found:
            raise DatasetError(f"{path}: labels must be integers or lists of them, got {name!r}: {entry!r}. Repair it.")
    named = {name.lower(): values.pop(name)[0] for name in declared if name.lower() in ("background", IGNORE)}
    painted = [_integer(value) for value in (order if isinstance(order, list) else [])]
    if None in painted or len(painted) != len(values):
        raise DatasetError(
            f"{path}: {ORDER_KEY} must list one value for each region ({', '.join(values)}), got {order!r}. Add it."
        )
    order_of_values = [value for value in painted if value is not None]
    try:
        return declare_regions(values, order_of_values, named.get("background", 0), named.get(IGNORE))
    except ValueError as error:
        raise DatasetError(f"{path}: {error}. Correct labels or {ORDER_KEY}.") from None


def _channels(path: Path, declared: object) -> tuple[str, ...]:
    if isinstance(declared, list):
        declared = dict(enumerate(declared))
    if not isinstance(declared, dict) or not declared:
        raise DatasetError(f'{path}: channels must be an object like {{"0": "MRI"}}, got {declared!r}. Repair it.')
    by_number: Mapping[int | None, Any] = {_integer(key): name for key, name in declared.items()}
    if set(by_number) != set(range(len(declared))):
        raise DatasetError(
            f"{path}: channels must be numbered from 0 on, got {', '.join(map(str, declared))}. Repair it."
        )
    return tuple(str(by_number[number]) for number in range(len(declared)))


def _pair(path: Path, entry: object) -> tuple[str, str | None]:
    label = entry.get("label") if isinstance(entry, dict) else None
    if label is not None and not isinstance(label, str):
        raise DatasetError(f"{path}: a label in training must be a path, got {label!r}. Repair it.")
    return _image(path, "training", entry), label


def _image(path: Path, key: str, entry: object) -> str:
    image = entry.get("image") if isinstance(entry, dict) else entry
    if not isinstance(image, str):
        raise DatasetError(f"{path}: an entry of {key} must name an image, got {entry!r}. Repair it.")
    return image


def _list(path: Path, key: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise DatasetError(f"{path}: {key} must be a list, got {value!r}. Repair it.")
    return value


def _integer(value: object) -> int | None:
    """Return the integer that a JSON value is or spells, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    try:
        return int(value) if isinstance(value, str) else None
    except ValueError:
        return None
