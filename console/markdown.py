"""Markdown: escaped text and tables."""

import html
import re
from collections.abc import Iterable, Sequence


def escape(text: str) -> str:
    """`text` for a table cell: it is shown as it is, whatever markup or addresses it contains."""
    # GitHub looks for e-mail addresses after it has replaced entities, so a comment splits them
    return escape_markup(text).replace("@", "@<!-- -->")


def escape_markup(text: str) -> str:
    """`text` on one line, with entities in place of what Markdown or HTML would read as markup."""
    quoted = html.escape(" ".join(text.splitlines()), quote=False)
    markup = r"[\\`*_~|$\[\]]|:(?=//)|(?<=www)\."
    return re.sub(markup, lambda found: f"&#{ord(found[0])};", quoted, flags=re.IGNORECASE)


def table(titles: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; a column is right-aligned if its title ends in a colon."""
    rules = ("---:" if title.endswith(":") else "---" for title in titles)
    head = (row(*(title.rstrip(":") for title in titles)), f"|{'|'.join(rules)}|")
    return "\n".join([*head, *(row(*cells) for cells in rows)])


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
