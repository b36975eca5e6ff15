"""Files that are never seen half written."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from console.errors import ROOT as REPOSITORY
from console.errors import UserError


def in_repository(name: str) -> Path:
    """The path of a file or folder of this repository, wherever a script is started.

    Within the working directory it is relative, so that what is kept of a run names no folder
    that other machines lack.
    """
    path = REPOSITORY / name
    try:
        return path.relative_to(Path.cwd())
    except (OSError, ValueError):  # the working directory was deleted, or is another
        return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and moves that file over `path` at the end.

    Its content is on the disk before, so that a power failure does not cost the file either.

    Raises:
        UserError: it cannot be written; what was at `path` before is still there.
    """
    beside = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        kept = f"; the {path.name} from before is kept" if path.exists() else ""
        reason = error.strerror or error if path.parent.exists() else f"{path.parent} is gone"
        raise UserError(f"{path} cannot be written: {reason}{kept}") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def check_writable(folder: Path, flag: str = "--out") -> None:
    """Raises UserError unless `folder`, the value of `flag`, can be written to or created."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise UserError(f"{flag}: {folder} cannot be written: {error.strerror}") from error


def check_file(path: Path) -> Path:
    """Returns `path`; raises UserError if no file is there."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, and no file")
    if not path.is_file():
        raise UserError(f"{path} is missing; train.py writes it")
    return path
