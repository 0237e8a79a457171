"""The model card: what somebody who is handed a model needs to know before they use it, in Markdown."""

import re
from collections.abc import Iterable, Iterator, Sequence

from autoseg.evaluate.bootstrap import Interval
from autoseg.evaluate.scores import Spread
from autoseg.pipeline.packing.model_description import ModelDescription, NetworkDescription, Range, Target, TrainingData
from autoseg.select.explain import WORDS, uncertainty

SCHEMES = {
    "ct": "CT: clipped and scaled by the training data's intensities",
    "zscore": "mean 0 and standard deviation 1 in each scan",
    "rescale_to_0_1": "0 to 1 in each scan",
    "rgb_to_0_1": "divided by 255",
    "none": "as they are",
}
"""How intensities are normalised, in words."""

LICENCE_SOURCES = {
    "given": "Given by whoever packed the model.",
    "dataset": "That of the training data, as they declare it; none was given for the model itself.",
    "none": "None was given, and the training data declare none. Ask whoever packed the model before you use it or hand"
    " it on.",
}


def model_card(model: ModelDescription, file_name: str) -> str:
    """Return the card of a model.

    Args:
        model: What it is.
        file_name: Of the packed model, for the commands.
    """
    sections = (
        _head(model),
        _use(model, file_name),
        _training_data(model.training_data),
        _networks(model),
        _scores(model),
        _postprocessing(model),
        _limits(model),
        _licence(model),
        _versions(model),
    )
    return "\n".join(line for section in sections for line in (*section, ""))


def size_text(values: Sequence[float]) -> str:
    """Return sizes along axes, for people."""
    return " x ".join(f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in values)


def range_texts(found: Range) -> tuple[str, str, str]:
    """Return lowest, median and highest, for people."""
    return size_text(found.lowest), size_text(found.median), size_text(found.highest)


def folds_text(folds: Iterable[object]) -> str:
    """Return which folds, for people."""
    return ", ".join(map(str, folds))


def score_text(score: float | None) -> str:
    """Return a score, for people."""
    return "not defined" if score is None else f"{score:.3f}"


def interval_text(interval: Interval | None) -> str:
    """Return an interval, for people; nothing where there are too few cases for one."""
    return "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"


def share_text(share: float | None) -> str:
    """Return a share of the cases, for people."""
    return "not known" if share is None else f"{share:.0%}"


def volume_text(volume_ml: float | None) -> str:
    """Return a volume, for people."""
    return "not known" if volume_ml is None else f"{volume_ml:.3g} ml"


def cases_text(data: TrainingData) -> str:
    """Return how many scans there were, and how many a network has learnt from, for people."""
    if data.num_learnt is None:
        return f"{data.num_cases} scans"
    lowest, highest = data.num_learnt
    return f"{data.num_cases} scans, each network learnt from {lowest}{'' if lowest == highest else f' to {highest}'}"


def chosen_by_text(model: ModelDescription) -> str:
    """Return by which score the configurations were chosen, for people, with the weights of classes if they differ."""
    score = f"mean {WORDS[model.metric or 'dice']}"
    if not model.weights:
        return score
    weights = ", ".join(f"{name} {weight:g}" for name, weight in model.weights.items())
    return f"weighted {score} (weights: {weights})"


def epochs_text(network: NetworkDescription) -> str:
    """Return the length of the trainings, for people."""
    lowest, highest = network.num_epochs
    return str(lowest) if lowest == highest else f"{lowest} to {highest}"


def network_rows(model: ModelDescription) -> list[tuple[str, ...]]:
    """Return a row per configuration: name, folds, kind, parameters of each, spacing, patch, epochs."""
    return [
        (
            network.configuration,
            folds_text(network.folds),
            network.kind,
            f"{network.num_parameters:,}",
            size_text(network.spacing_mm),
            size_text(network.patch_size),
            epochs_text(network),
        )
        for network in model.networks
    ]


def values_text(target: Target) -> str:
    """Return the values of a class or region, for people."""
    return " + ".join(map(str, target.values))


def _head(model: ModelDescription) -> Iterator[str]:
    names = ", ".join(target.name for target in model.targets)
    channels = ", ".join(channel.name for channel in model.channels)
    yield f"# {_safe(model.dataset)}"
    yield ""
    yield f"Segments {_safe(names)} in scans with the channels {_safe(channels)}."
    yield ""
    yield from _table(
        ("label value", "is", "training cases that have it", "median volume there"),
        [(str(model.background), "background", "", "")]
        + [
            (values_text(target), target.name, share_text(target.case_share), volume_text(target.median_volume_ml))
            for target in model.targets
        ],
    )
    if model.ignored is not None:
        yield ""
        yield f"Voxels of value {model.ignored} were not annotated in the training data; they are never predicted."


def _use(model: ModelDescription, file_name: str) -> Iterator[str]:
    several = len(model.channels) > 1
    yield "## Use"
    yield "```"
    yield f"autoseg predict --model {file_name} SCANS OUT"
    yield f"autoseg info {file_name}"
    yield "```"
    yield (
        "The file is all that is needed besides autoseg. SCANS is a scan, a folder of scans, a table of cases or a"
        " DICOM series; OUT gets a label map for each, on its grid."
    )
    yield ""
    yield "Channels" + (", in this order:" if several else ":")
    yield ""
    yield from _table(
        ("channel", "intensities become"), [(channel.name, SCHEMES[channel.scheme]) for channel in model.channels]
    )


def _training_data(data: TrainingData | None) -> Iterator[str]:
    yield "## Training data"
    if data is None:
        yield "Not known: the model came without a description of them."
        return
    runs = ", ".join(f"{orientation}: {count}" for orientation, count in data.orientations.items())
    yield f"{cases_text(data)}. Axes are z, y, x; orientations (sides that these run to): {runs}."
    yield ""
    rows = [("spacing (mm)", data.spacing_mm), ("size (voxels)", data.size_voxels), ("size (mm)", data.size_mm)]
    yield from _table(("per axis", "lowest", "median", "highest"), [(name, *range_texts(row)) for name, row in rows])
    yield ""
    yield "Names of cases are not in this file: they are numbered in the order of their names."


def _networks(model: ModelDescription) -> Iterator[str]:
    yield "## Networks"
    yield "U-Nets, one per fold; the mean of their outputs decides."
    if len(model.configurations) > 1:
        yield f"The probabilities of {' and '.join(model.configurations)} are averaged."
    for network in model.networks:
        if network.previous_stage is not None:
            yield f"{network.configuration} refines what {network.previous_stage} finds."
    yield ""
    header = ("configuration", "folds", "kind", "parameters of each", "spacing (mm)", "patch (voxels)", "epochs")
    yield from _table(header, network_rows(model))


def _scores(model: ModelDescription) -> Iterator[str]:
    yield "## Scores on held-out cases"
    found = model.held_out
    if found is None:
        yield "None come with this model."
        return
    groups = "" if found.num_groups == found.num_cases else f" ({found.num_groups} groups, such as patients)"
    yield (
        f"{found.num_cases} cases of the training data{groups}, each predicted by the fold that has not seen it, before"
        " postprocessing. In brackets, the 95 % interval of the mean. New scans are segmented by the folds together,"
        " which these scores cannot measure."
    )
    yield ""
    header = ("", "Dice", f"surface Dice ({found.tolerance_mm:g} mm)", "HD95 (mm)", "cases that have it")
    rows = [
        (
            entry.name,
            _mean(entry.dice),
            _mean(entry.surface_dice),
            _mean(entry.hd95_mm),
            str(entry.num_cases),
        )
        for entry in found.classes
    ]
    mean = ("mean of classes", _with_interval(found.mean_dice, found.interval), "", "", "")
    yield from _table(header, [*rows, mean])
    if len(model.compared) > 1:
        yield ""
        yield f"Chosen by the {_safe(chosen_by_text(model))} out of:"
        yield ""
        yield from _table(
            ("", "score"), [(one.name, _with_interval(one.score, one.interval)) for one in model.compared]
        )


def _postprocessing(model: ModelDescription) -> Iterator[str]:
    yield "## Postprocessing"
    if not model.postprocessing:
        yield "None."
        return
    yield from (f"- {_safe(step)}" for step in model.postprocessing)
    if model.gain is not None:
        yield ""
        yield f"Change of the score on cases that had no part in choosing it: {uncertainty(model.gain)}."


def _limits(model: ModelDescription) -> Iterator[str]:
    yield "## Intended use and limits"
    yield (
        "- For research. It is no medical device: nobody has approved it for diagnosis or treatment. Check each result"
        " before you rely on it."
    )
    if model.training_data is not None:
        yield (
            "- Nothing is known about scans unlike those that it has learnt from: other scanners, protocols, ages,"
            " diseases. `predict` warns where spacing, field of view, intensities or volumes lie far from those above;"
            " no warning is no proof."
        )
    if model.held_out is None:
        yield "- No measure of how good it is comes with it."
    else:
        yield (
            "- The intervals say how the scores would vary with other cases of the same source. Cases from elsewhere"
            " can score far lower."
        )
    rare = [target.name for target in model.targets if target.case_share is not None and target.case_share < 1]
    if rare:
        yield f"- Not in every training case: {_safe(', '.join(rare))}."
    yield "- Whom the training data represent (age, sex, origin, disease) is not recorded in this file."


def _licence(model: ModelDescription) -> Iterator[str]:
    yield "## Licence"
    lines = model.licence.text.splitlines()
    if len(lines) == 1:
        yield f"{_safe(lines[0])}. {LICENCE_SOURCES[model.licence.source]}".replace("..", ".")
        return
    yield LICENCE_SOURCES[model.licence.source]
    if lines:
        yield "```"
        yield from (line.replace("```", "'''") for line in lines)
        yield "```"


def _versions(model: ModelDescription) -> Iterator[str]:
    yield "## Made with"
    yield f"Planned with the preset {model.preset}" + (
        f", packed by autoseg {model.autoseg}." if model.autoseg else "."
    )
    yield ""
    rows = [
        (network.configuration, ", ".join(network.devices), ", ".join(f"{k} {v}" for k, v in network.versions.items()))
        for network in model.networks
    ]
    yield from _table(("networks", "trained on", "with"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Give a Markdown table."""
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(map(_safe, row))} |"


def _safe(text: str) -> str:
    """Return a text that Markdown shows as it is, whatever people call their classes."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def _mean(spread: Spread) -> str:
    return "" if spread.mean is None else _with_interval(spread.mean, spread.interval)


def _with_interval(score: float | None, interval: Interval | None) -> str:
    return score_text(score) if interval is None else f"{score_text(score)} ({interval_text(interval)})"
