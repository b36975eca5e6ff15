"""CSV tables whose columns are the fields of a dataclass, and validation of what files hold."""

import csv
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from console.errors import UserError
from console.files import replacing

Row = TypeVar("Row")


class Strict:
    """A dataclass that is read from a file: without unknown entries, NaN and infinity."""

    __pydantic_config__: ClassVar = {
        "extra": "forbid",
        "allow_inf_nan": False,
        "arbitrary_types_allowed": True,
    }


def validate(kind: type[Row], values: Any) -> Row:
    """`values` as an instance of `kind`: a dataclass from a dict, or a list of them.

    Raises:
        ValueError: an entry is missing, unknown or not of its field's type; a line says which.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = (f"row {x + 1}" if isinstance(x, int) else str(x) for x in first["loc"])
        raise ValueError(f"{', '.join(place)}: {first['msg']}") from error


def as_table(rows: Sequence[Any]) -> pd.DataFrame:
    """A row for each instance of a dataclass."""
    return pd.DataFrame([asdict(row) for row in rows])


def write_table(path: Path, rows: Sequence[Any] | pd.DataFrame) -> None:
    """Writes instances of a dataclass, or a table without its index, as a CSV file."""
    table = rows if isinstance(rows, pd.DataFrame) else as_table(rows)
    with replacing(path) as beside:
        table.to_csv(beside, index=False, lineterminator="\n")


def read_rows(path: Path, kind: type[Row], rename: dict[str, str] | None = None) -> list[Row]:
    """The rows of a table as instances of `kind`; none if there is no file.

    Text is read as text; fields with a default may be absent or empty. Columns may be called by
    the keys of `rename`.

    Raises:
        UserError: a column is missing or unknown, or a value is not of its field's type.
    """
    if not path.exists():
        return []
    optional = {each.name for each in fields(kind) if each.default is not MISSING}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if ";" in (reader.fieldnames or [""])[0]:
                raise ValueError("its columns are separated by semicolons; save it with commas")
            rows = [
                {
                    (rename or {}).get(name, name): value
                    for name, value in row.items()
                    if value != "" or name not in optional
                }
                for row in reader
            ]
        return validate(list[kind], rows)
    except (ValueError, csv.Error, OSError) as error:
        raise UserError(f"{path} is unreadable: {error}") from error
