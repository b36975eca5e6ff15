"""CSV tables whose columns are the fields of a dataclass, and validation of what files hold."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from console.errors import UserError
from records.files import replacing

Row = TypeVar("Row")
# pydantic's types of errors, in words about a file
REASONS = {"missing": "missing", "unexpected_keyword_argument": "unknown"}


def validated(kind: type[Row], values: Any) -> Row:
    """`values` as an instance of `kind`: a dataclass from a dict, or a list of them.

    Raises:
        ValueError: an entry is missing, unknown or not of its field's type; a line says which.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = (f"row {x + 1}" if isinstance(x, int) else str(x) for x in first["loc"])
        reason = REASONS.get(first["type"], first["msg"])
        raise ValueError(f"{', '.join(place)}: {reason}") from error


def as_table(rows: Sequence[Any]) -> pd.DataFrame:
    """A row for each instance of a dataclass; a field that is None in all is left out."""
    return pd.DataFrame([asdict(row) for row in rows]).dropna(axis="columns", how="all")


def write_table(path: Path, rows: Sequence[Any]) -> None:
    """Writes `as_table(rows)` as a CSV file."""
    with replacing(path) as beside:
        as_table(rows).to_csv(beside, index=False, lineterminator="\n")


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a table as instances of `kind`; none if there is no file.

    Text is read as text; columns of fields with a default may be absent.

    Raises:
        UserError: a column is missing or unknown, or a value is not of its field's type.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return validated(list[kind], list(csv.DictReader(file, strict=True)))
    except (ValueError, csv.Error, OSError) as error:
        raise UserError(f"{path} is unreadable: {error}") from error


def update_rows(path: Path, kind: type[Row], change: Callable[[list[Row]], list[Row]]) -> None:
    """Writes what `change` makes of the rows of a table.

    Of several processes that do so, one waits for the other, so that no row is lost.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        write_table(path, change(read_rows(path, kind)))
