"""Files that are never seen half written, and CSV tables of a dataclass's rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from cli import UserError

if TYPE_CHECKING:  # read_table imports it: scripts check their flags before that
    import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and moves it over `path` if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_table(path: Path, kind: type, rows: Sequence[Any]) -> None:
    """A CSV file with a column for each field of the dataclass `kind` that some row fills."""
    unfilled = {name for name in _optional(kind) if all(getattr(row, name) is None for row in rows)}
    columns = [field.name for field in fields(kind) if field.name not in unfilled]
    with replacing(path) as beside, beside.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([getattr(row, name) for name in columns] for row in rows)


def _optional(kind: type) -> set[str]:
    """The fields of the dataclass `kind` that may be None."""
    return {name for name, hint in get_type_hints(kind).items() if type(None) in get_args(hint)}


def read_table(path: Path, kind: type) -> pd.DataFrame:
    """A CSV file of rows of the dataclass `kind`; UserError unless every number is one."""
    import pandas as pd

    hints = get_type_hints(kind)
    try:
        table = pd.read_csv(existing(path), keep_default_na=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is unreadable: {error}") from error
    missing = [name for name in hints if name not in table and name not in _optional(kind)]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}")
    numbers = table[[name for name, hint in hints.items() if hint is not str and name in table]]
    numeric = all(pd.api.types.is_numeric_dtype(dtype) for dtype in numbers.dtypes)
    if table.empty or not numeric or numbers.isna().to_numpy().any():
        raise UserError(f"{path} has no rows, or something else than numbers in them")
    return table


def read_rows(path: Path, kind: type) -> list[Any]:
    """The rows of a table as `kind`; none if there is no file yet."""
    if not path.exists():
        return []
    return [kind(**row) for row in read_table(path, kind).to_dict("records")]


def existing(path: Path) -> Path:
    """`path` itself; UserError if no file is there."""
    if not path.is_file():
        raise UserError(f"{path} is missing; train.py writes it")
    return path
