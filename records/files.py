"""Files that are never seen half written, folders that one run at a time writes to, and CSV
tables of a dataclass's rows."""

from __future__ import annotations

import csv
import os
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, get_args, get_origin, get_type_hints

from cli import UserError

try:
    import fcntl
except ImportError:  # Windows has no such locks, and two runs in one folder go unnoticed there
    fcntl = None

if TYPE_CHECKING:  # read_table imports it: scripts check their flags before that
    import pandas as pd


LOCK = ".lock"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and moves it over `path` if all went well.

    Raises:
        UserError: it cannot be written; what was at `path` before is still there.
    """
    beside = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    except OSError as error:
        kept = f"; the {path.name} from before is kept" if path.exists() else ""
        gone = not path.parent.exists()
        reason = f"{path.parent} is gone" if gone else error.strerror or error
        raise UserError(f"{path} cannot be written: {reason}{kept}") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keeps every other process out of `folder` that asks the same way.

    However this process ends, the next one may write there: the lock is the process's own, and
    neither a file that has to be removed nor inherited by workers.

    Raises:
        UserError: another process is at it; the message says which.
    """
    if fcntl is None:
        yield
        return
    path = folder / LOCK
    file = _lock(path)
    try:
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()},", shlex.join(sys.argv), file=file)
        file.flush()
        for unfinished in folder.rglob(".*.partial.*"):  # of a process that was killed
            unfinished.unlink()
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # before the lock is gone: nobody else's file is removed
        file.close()


def _lock(path: Path) -> TextIO:
    while True:
        file = path.open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{path.parent} is in use by a run that goes on ({holder}); wait for it, or give "
                "another --out"
            ) from None
        except OSError:  # a network's file system without locks
            return file
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()  # that run has just ended and removed the file; lock its successor


def as_dataclass(kind: type, values: Any, **names: Any) -> Any:
    """An instance of the dataclass `kind`, whose type hints may use `names`.

    Raises:
        ValueError: `values` is no dict, or an entry is missing, unknown or not of its field's type.
    """
    if not isinstance(values, dict) or values.keys() != {field.name for field in fields(kind)}:
        raise ValueError(f"its entries are not those of a {kind.__name__}")
    for name, hint in get_type_hints(kind, localns=names).items():
        if not _fits(values[name], hint):
            raise ValueError(f"{name} is {values[name]!r:.60}")
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if hint is float:
        return type(value) in (int, float)
    if hint is int:
        return type(value) is int
    if origin is list:
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, args[0]) and _fits(item, args[1]) for key, item in value.items()
        )
    if args:  # one of several
        return any(_fits(value, arg) for arg in args)
    return isinstance(value, hint)


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
        what = "is no file" if path.exists() else "is missing"
        raise UserError(f"{path} {what}; train.py writes it")
    return path
