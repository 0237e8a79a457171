from pathlib import Path

import pytest

from tools.pages import put_table


@pytest.mark.parametrize("before", ["", "| old |\n"])
def test_a_table_takes_the_place_of_what_is_there(tmp_path: Path, before: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n<!-- speed -->\n{before}<!-- end of speed -->\nbelow\n")
    put_table(page, "speed", "| new |")
    assert page.read_text() == "above\n<!-- speed -->\n| new |\n<!-- end of speed -->\nbelow\n"


def test_a_page_without_the_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- speed -->\n")
    with pytest.raises(ValueError, match="marks of speed must be there once, got 0"):
        put_table(page, "speed", "| new |")
