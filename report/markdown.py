"""Pieces of Markdown: counts and image links."""

import os
from pathlib import Path
from urllib.parse import quote

from console.files import check_file
from console.markdown import without_markup


def format_count(count: int, noun: str) -> str:
    """The count and the noun: "1 epoch", "3 epochs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def image(path: Path, readme_folder: Path, alt: str, width: int) -> str:
    """An `<img>` of the file `path` for a README in `readme_folder`; UserError if it is missing."""
    relative = os.path.relpath(check_file(path).resolve(), readme_folder)
    url = quote(Path(relative).as_posix())
    quoted = without_markup(alt).replace('"', "&quot;")
    return f'<img src="{url}" alt="{quoted}" width="{width}">'
