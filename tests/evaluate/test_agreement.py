"""Metrics against independent implementations; those that are not installed are left out, SciPy never is."""

import importlib.util
from collections.abc import Callable

import pytest

from tools.compare_metrics import THEIRS, Shapes, all_shapes, ours

MODULES = {"scikit-image": "skimage", "surface-distance": "surface_distance"}
"""Of packages whose name differs."""

EVERY = 9
"""Of all shapes and spacings, each so many-th is compared here; `make agreement-metrics` compares all."""


@pytest.mark.parametrize("name", THEIRS)
def test_agrees_to_a_millionth(name: str) -> None:
    package, score = THEIRS[name]
    if importlib.util.find_spec(MODULES.get(package, package)) is None:
        pytest.skip(f"{package} is not installed")
    assert _compared(score) >= 1


def _compared(score: Callable[[Shapes], dict[str, float]]) -> int:
    """Return how many scores were compared; all agree."""
    num_compared = 0
    for shapes in list(all_shapes())[::EVERY]:
        found = score(shapes)
        own = ours(shapes)
        assert {name: own[name] for name in found} == pytest.approx(found, rel=1e-6, abs=1e-6), shapes.kind
        num_compared += len(found)
    return num_compared


def test_a_wrong_spacing_would_be_noticed() -> None:
    """The comparison can fail: the same shapes with two axes of their spacing exchanged differ."""
    _, score = THEIRS["all pairs of surface voxels (SciPy)"]
    shapes = next(shapes for shapes in all_shapes() if shapes.spacing[0] > 2 * shapes.spacing[1])
    turned = Shapes(shapes.kind, shapes.prediction, shapes.reference, shapes.spacing[::-1])
    assert score(turned)["hd95_mm"] != pytest.approx(ours(shapes)["hd95_mm"], rel=1e-3)
