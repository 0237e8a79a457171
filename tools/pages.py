"""Tables in pages of docs/, between marks that name them."""

import re
from pathlib import Path


def put_table(page: Path, name: str, table: str) -> None:
    """Put a table between the marks `<!-- name -->` and `<!-- end of name -->`, in place of what is there.

    Raises:
        ValueError: If the page lacks the marks.
    """
    marks = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    text, num_found = re.subn(marks, lambda found: f"{found[1]}{table}\n{found[2]}", page.read_text(), flags=re.DOTALL)
    if num_found != 1:
        raise ValueError(f"{page}: marks of {name} must be there once, got {num_found}.")
    page.write_text(text)
