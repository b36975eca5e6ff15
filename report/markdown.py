"""Pieces of Markdown: escaped text, table rows, image links."""

import html
import os
from pathlib import Path
from urllib.parse import quote

from records.files import existing


def escaped(text: str) -> str:
    """`text` for a table cell: it is shown as it is, whatever markup it contains."""
    result = html.escape(text, quote=False)
    for character in "|`[]":
        result = result.replace(character, f"&#{ord(character)};")
    return " ".join(result.splitlines())


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def heading(*titles: str) -> str:
    """The first two lines of a table; a column is right-aligned if its title ends in a colon."""
    rules = ("---:" if title.endswith(":") else "---" for title in titles)
    return f"{row(*(title.rstrip(':') for title in titles))}\n|{'|'.join(rules)}|"


def image(path: Path, readme_folder: Path, alt: str, width: int) -> str:
    """An `<img>` of the file `path` for a README in `readme_folder`; UserError if it is missing."""
    relative = os.path.relpath(existing(path).resolve(), readme_folder)
    url = quote(Path(relative).as_posix())
    quoted = escaped(alt).replace('"', "&quot;")
    return f'<img src="{url}" alt="{quoted}" width="{width}">'
