"""A selection in words: what was decided, from what, and what it was chosen over."""

from collections.abc import Iterator

from autoseg.evaluate.compare import Difference
from autoseg.select.choose import Candidate, Selection

WORDS = {"dice": "Dice", "nsd": "surface Dice"}


def explain_selection(selection: Selection) -> str:
    """Return the story of a selection."""
    return "\n".join([*_winner(selection), "", *_alternatives(selection), "", *_postprocessing(selection)])


def uncertainty(difference: Difference) -> str:
    """Return a difference with its interval, for people."""
    if difference.difference is None:
        return "not defined"
    text = f"{difference.difference:+.4f}"
    return text if difference.interval is None else f"{text} ({_range(difference)})"


def _range(difference: Difference) -> str:
    interval = difference.interval
    return "" if interval is None else f"{interval.low:+.4f} to {interval.high:+.4f}"


def _winner(selection: Selection) -> Iterator[str]:
    winner = selection.candidates[0]
    what = WORDS[selection.metric]
    tolerance = f" within {selection.tolerance_mm:g} mm" if selection.metric == "nsd" else ""
    yield f"Configuration: {winner.name}"
    mean = "Weighted mean" if selection.is_weighted else "Mean"
    highest = max(candidate.score for candidate in selection.candidates)
    if highest > winner.score:
        yield (
            f"  {mean} {what}{tolerance} over classes is {winner.score:.4f}; {highest:.4f} is the highest, but no"
            f" more than {selection.tie_margin:g} above it, and of equals the simpler one wins."
        )
    else:
        yield f"  Its {mean.lower()} {what}{tolerance} over classes is the highest: {winner.score:.4f}."
    grouped = f" of {selection.num_groups} groups" if selection.num_groups != selection.num_cases else ""
    folds = ", ".join(map(str, selection.folds))
    yield f"  From {selection.num_cases} held-out cases{grouped}, each predicted by the fold that has not seen it."
    yield f"  The networks of the folds {folds} predict new scans together."
    weights = ", ".join(f"{name}: {weight:g}" for name, weight in selection.weights.items())
    if selection.is_weighted:
        yield f"  Weights of the classes: {weights}."
    yield "  Constants (rules/): selection.tie_margin, evaluation.confidence, evaluation.num_resamples, evaluation.seed"


def _alternatives(selection: Selection) -> Iterator[str]:
    yield "Chosen over"
    others = selection.candidates[1:]
    if not others:
        yield "  nothing: one configuration is trained."
    for candidate in others:
        yield f"  {candidate.name}: {candidate.score:.4f}, {uncertainty(candidate.behind)}. {_verdict(candidate)}"


def _verdict(candidate: Candidate) -> str:
    interval = candidate.behind.interval
    if interval is None:
        return "Too few cases to say how certain that is."
    if interval.low <= 0 <= interval.high:
        return "The interval holds 0: other cases could have turned that round."
    return "The interval leaves out 0: more than the choice of cases explains."


def _postprocessing(selection: Selection) -> Iterator[str]:
    steps = selection.postprocessing.summary
    yield f"Postprocessing: {'; '.join(steps) or 'none'}"
    if steps:
        yield (
            f"  Cases that had no part in choosing it gain {uncertainty(selection.gain)}: decided on all folds but one,"
            " checked on that one."
        )
    elif dropped := selection.dropped.summary:
        yield (
            f"  Left out: {'; '.join(dropped)}. Each helped on cases that it was not chosen on; one after another they"
            " gain nothing on all held-out cases."
        )
    elif (selection.gain.difference or 0) != 0:
        yield (
            "  None helped on cases that it was not chosen on, over all folds. Decided on all folds but one, some were"
            f" accepted, and changed the score on that one by {uncertainty(selection.gain)}."
        )
    else:
        yield "  None helped on cases that it was not chosen on."
    yield "  Constants (rules/): postprocessing.min_gain, postprocessing.min_volumes_mm3"
