import pytest
import typer

from autoseg.cli.options import parse_axes


@pytest.mark.parametrize(
    ("text", "axes"), [("none", ()), ("x", ("x",)), ("x,y", ("y", "x")), ("z,y,x", ("z", "y", "x"))]
)
def test_parse_axes(text: str, axes: tuple[str, ...]) -> None:
    assert parse_axes(text) == axes


@pytest.mark.parametrize("text", ["", "all", "x,x", "0", "z y", "none,x"])
def test_parse_axes_refuses(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="must be different axes out of z,y,x, or none"):
        parse_axes(text)
