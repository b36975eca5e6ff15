"""Pieces of Markdown: escaped text, counts, table rows, image links."""

import html
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from records.files import existing


def escaped(text: str) -> str:
    """`text` for a table cell: it is shown as it is, whatever markup or addresses it contains."""
    # GitHub looks for e-mail addresses after it has replaced entities, so a comment splits them
    return _without_markup(text).replace("@", "@<!-- -->")


def _without_markup(text: str) -> str:
    quoted = html.escape(" ".join(text.splitlines()), quote=False)
    markup = r"[\\`*_~|$\[\]]|:(?=//)|(?<=www)\."
    return re.sub(markup, lambda found: f"&#{ord(found[0])};", quoted, flags=re.IGNORECASE)


def counted(count: int, noun: str) -> str:
    """The count and the noun: "1 epoch", "3 epochs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def table(titles: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; a column is right-aligned if its title ends in a colon."""
    rules = ("---:" if title.endswith(":") else "---" for title in titles)
    head = (row(*(title.rstrip(":") for title in titles)), f"|{'|'.join(rules)}|")
    return "\n".join([*head, *(row(*cells) for cells in rows)])


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def image(path: Path, readme_folder: Path, alt: str, width: int) -> str:
    """An `<img>` of the file `path` for a README in `readme_folder`; UserError if it is missing."""
    relative = os.path.relpath(existing(path).resolve(), readme_folder)
    url = quote(Path(relative).as_posix())
    quoted = _without_markup(alt).replace('"', "&quot;")
    return f'<img src="{url}" alt="{quoted}" width="{width}">'
