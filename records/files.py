"""Files that are never seen half written, and folders that one run at a time writes to."""

import errno
import os
import re
import shlex
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from console.errors import UserError
from records import names

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, two runs in one folder are not noticed
    fcntl = None

LOCK = ".lock"


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and moves that file over `path` at the end.

    Args:
        durable: whether to wait until the content is on the disk, so that a power failure does
            not cost the file either.

    Raises:
        UserError: it cannot be written; what was at `path` before is still there.
    """
    beside = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield beside
        if durable:
            _flush(beside)
        beside.replace(path)
        if durable:
            _flush(path.parent)
    except OSError as error:
        kept = f"; the {path.name} from before is kept" if path.exists() else ""
        reason = error.strerror or error if path.parent.exists() else f"{path.parent} is gone"
        raise UserError(f"{path} cannot be written: {reason}{kept}") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def copy_file(source: Path, target: Path) -> None:
    """Copies `source` over `target`; makes the folder of `target` if there is none."""
    content = source.read_bytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as beside:
        beside.write_bytes(content)


def _flush(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk."""
    if os.name == "nt":  # which cannot flush what is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some shared file systems, such as VirtualBox's, cannot flush a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Locks `folder`, which is created if needed, against other processes that lock it.

    The lock ends with the process, however that ends. Worker processes do not inherit it. The
    lock file stays in the folder. What the process that had the lock before was writing when it
    was killed is removed.

    Raises:
        UserError: another process has the lock; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    with (folder / LOCK).open("a+", errors="replace") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{folder} is in use by a running process ({holder}); wait for its end, or give "
                "another --out"
            ) from None
        except OSError:  # a network file system without locks
            pass
        file.seek(0)
        if killed := re.match(r"process (\d+) on", file.read()):
            for place in (".", names.PLOTS, names.TEST_TILES, names.AUGMENTED_TILES):
                for unfinished in (folder / place).glob(f".*.{killed[1]}.partial.*"):
                    unfinished.unlink()
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()},", shlex.join(sys.argv), file=file)
        file.flush()
        yield


def check_writable(folder: Path, flag: str = "--out") -> None:
    """Raises UserError unless `folder`, the value of `flag`, can be written to or created."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise UserError(f"{flag}: {folder} cannot be written: {error.strerror}") from error


def existing(path: Path) -> Path:
    """`path` itself; UserError if no file is there."""
    if not path.is_file():
        what = "is a folder, and no file" if path.is_dir() else "is missing; train.py writes it"
        raise UserError(f"{path} {what}")
    return path
