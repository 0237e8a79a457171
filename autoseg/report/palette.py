"""What all pictures share: colours, short names, the file."""

import colorsys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from autoseg.core.artefact import replacing

PALETTE = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#D55E00", "#0072B2", "#F0E442")
"""Colours in order; told apart by the colour-blind too (Okabe and Ito 2008)."""

GOLDEN_ANGLE = 0.381966
"""Of a full turn: hues this far apart fill the circle evenly, however many there are."""

SHADES = ((0.95, 0.85), (0.55, 0.95), (0.90, 0.55))
"""Saturation and brightness of further colours, in turn."""

DOTS_PER_INCH = 130


def colours(count: int) -> Sequence[str]:
    """Return as many colours, all different."""
    more = (
        to_hex(colorsys.hsv_to_rgb(number * GOLDEN_ANGLE % 1.0, *SHADES[number % len(SHADES)]))
        for number in range(max(count - len(PALETTE), 0))
    )
    return (*PALETTE, *more)[:count]


def shortened(name: str, longest: int) -> str:
    """Return a name with its middle left out where it is too long."""
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[: longest - 1 - half]}…{name[-half:]}"


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH)
