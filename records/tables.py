"""CSV tables whose columns are the fields of a dataclass, and validation of what files hold."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import pandas as pd
from pydantic import TypeAdapter

from console.errors import UserError
from records.files import existing, replacing

Row = TypeVar("Row")


def validated(kind: type[Row], values: Any) -> Row:
    """An instance of the dataclass `kind` from the dict `values`.

    Raises:
        ValueError: an entry is missing, unknown or not of its field's type.
    """
    return TypeAdapter(kind).validate_python(values)


def as_table(rows: Sequence[Any]) -> pd.DataFrame:
    """A row for each instance of a dataclass; a field that is None in all is left out."""
    return pd.DataFrame([asdict(row) for row in rows]).dropna(axis="columns", how="all")


def write_table(path: Path, rows: Sequence[Any]) -> None:
    """Writes `as_table(rows)` as a CSV file."""
    with replacing(path) as beside:
        as_table(rows).to_csv(beside, index=False, lineterminator="\n")


def read_table(path: Path, kind: type) -> pd.DataFrame:
    """A table of the dataclass `kind` that has a row at least.

    Text is read as text; columns of optional fields may be absent.

    Raises:
        UserError: the file or a column is missing, or a number is not one.
    """
    hints = get_type_hints(kind)
    dtypes = {name: hint if hint in (int, str) else float for name, hint in hints.items()}
    try:
        table = pd.read_csv(existing(path), keep_default_na=False, dtype=dtypes)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is unreadable: {error}") from error
    optional = {name for name, hint in hints.items() if type(None) in get_args(hint)}
    missing = [name for name in hints if name not in table and name not in optional]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}")
    if table.empty or table.isna().to_numpy().any():
        raise UserError(f"{path} has no rows, or a number that is NaN")
    return table


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a table as instances of `kind`; none if there is no file."""
    if not path.exists():
        return []
    return [kind(**row) for row in read_table(path, kind).to_dict("records")]
