"""Texts of a model that people are shown, and what they must not hold."""

import unicodedata
from collections.abc import Iterable, Iterator

from autoseg.plan.schema import Plan

_HARMFUL_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
"""Controls, surrogates, separators of lines and of paragraphs."""

_BIDIRECTIONAL = {
    *"\N{ARABIC LETTER MARK}\N{LEFT-TO-RIGHT MARK}\N{RIGHT-TO-LEFT MARK}",
    *"\N{LEFT-TO-RIGHT EMBEDDING}\N{RIGHT-TO-LEFT EMBEDDING}\N{POP DIRECTIONAL FORMATTING}",
    *"\N{LEFT-TO-RIGHT OVERRIDE}\N{RIGHT-TO-LEFT OVERRIDE}",
    *"\N{LEFT-TO-RIGHT ISOLATE}\N{RIGHT-TO-LEFT ISOLATE}\N{FIRST STRONG ISOLATE}\N{POP DIRECTIONAL ISOLATE}",
}


def harmful_text(texts: Iterable[str]) -> str | None:
    """Return the first text that could make a terminal or a page show something else; None if there is none.

    Such hold control characters other than tabs, separators of lines or paragraphs, halves of surrogate pairs, or
    controls of the direction of writing. Spaces of every width, joiners and soft hyphens do no harm.

    Args:
        texts: Single lines.

    Source:
        The Unicode Standard, general categories, and the property Bidi_Control.
    """
    return next((text for text in texts if any(map(_is_harmful, text))), None)


def names_in(planned: Plan) -> Iterator[str]:
    """Give all texts of a plan that are shown to people."""
    yield planned.dataset
    yield from planned.channels
    yield from (entry.name for entry in planned.labels.classes)
    yield from (entry.name for entry in planned.labels.regions)


def _is_harmful(character: str) -> bool:
    is_control = unicodedata.category(character) in _HARMFUL_CATEGORIES or character in _BIDIRECTIONAL
    return is_control and character != "\t"
