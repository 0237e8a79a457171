import pytest

from autoseg.pipeline.packing.texts import harmful_text


@pytest.mark.parametrize(
    "text",
    [
        "CC BY 4.0 \N{COPYRIGHT SIGN}\N{NO-BREAK SPACE}Uni",
        "\N{CJK UNIFIED IDEOGRAPH-816B}\N{IDEOGRAPHIC SPACE}left",
        "10\N{NARROW NO-BREAK SPACE}mm",
        "zero\N{ZERO WIDTH NON-JOINER}width",
        "soft\N{SOFT HYPHEN}hyphen",
        "\N{ZERO WIDTH NO-BREAK SPACE}mark",
        "a\ttab",
        "",
    ],
)
def test_spaces_and_joiners_do_no_harm(text: str) -> None:
    assert harmful_text(["organ", text]) is None


@pytest.mark.parametrize(
    "character",
    [
        *"\0\a\b\n\r\x1b\x7f\x85\x9b",
        *"\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}",
        "\ud800",
        *"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    ],
)
def test_what_a_terminal_obeys_is_harmful(character: str) -> None:
    assert harmful_text(["organ", f"a{character}b", "lesion"]) == f"a{character}b"
