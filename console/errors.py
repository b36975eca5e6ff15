"""One-line errors and exit statuses, the same for every script.

A user's mistake in flags, files or data is one line on stderr that says what is wrong and what to
do. An error in Python code shows its traceback. Exit status: 2 for a bad flag, 1 for any other
error, 130 for Ctrl-C, 143 for SIGTERM.
"""

import io
import os
import re
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from console import signals

FIRST_PRINTS = 10  # seconds that other processes wait, so that the first can print the error
# which a terminal obeys, and surrogates, which stand for bytes that are not UTF-8
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
STARTED = time.time()
ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"cv2": "opencv-python-headless", "PIL": "pillow", "sklearn": "scikit-learn"}


class UserError(Exception):
    """A user's mistake or a fault of the machine; the message is the line to show."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message, status)  # both, so that it can be pickled between processes
        self.status = status

    def __str__(self) -> str:
        return self.args[0]


def rank(name: str = "RANK") -> int:
    """RANK, LOCAL_RANK, WORLD_SIZE or LOCAL_WORLD_SIZE from torchrun; as if alone without it."""
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} <= os.environ.keys():
        return 1 if name.endswith("SIZE") else 0
    return int(os.environ[name])


def program() -> list[str]:
    """What follows `python` on the command line: ["train.py"] or ["-m", "experiments.bench"]."""
    script = Path(sys.argv[0])
    if (script.parent / "__init__.py").exists():  # started by `python -m`
        return ["-m", f"{script.parent.name}.{script.stem}"]
    return [sys.argv[0]]


def command_line() -> str:
    """The command that started this process, as it can be typed again."""
    return join_command(["python", *program(), *sys.argv[1:]])


def join_command(words: Iterable[object], windows: bool = os.name == "nt") -> str:
    """Words of a command, quoted for the shell of this system, in which it can be typed."""
    join = subprocess.list2cmdline if windows else shlex.join
    return join(map(str, words))


def print_error(message: str) -> None:
    """Prints a line on stderr, with the script's name; of several processes, one per machine."""
    if rank("LOCAL_RANK") == 0:
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)


def run(main: Callable[[], None]) -> None:
    """Calls `main`; turns errors and signals that a user can cause into a line and a status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for a console that lacks some letter
    os.environ["MPLBACKEND"] = "agg"  # a notebook's may be missing here, and none is needed
    warn_of_stale_modules()
    # of several processes, the first one prints
    printed = redirect_stdout(None) if rank() > 0 else nullcontext()
    with signals.handled(), printed:
        try:
            status = _status_of(main)
        except signals.Stopped as stop:  # in `main`, or while its error was being printed
            status = stop.status
            print_error("; ".join(["stopped", *(notes(stop) or notes(stop.__context__))]))
    if rank("WORLD_SIZE") > 1:
        signals.exit_at_once(status)
    if status:
        sys.exit(status)


def warn_of_stale_modules() -> None:
    """Names the files that changed since a notebook imported them, so that their old code runs."""
    files = {getattr(module, "__file__", None) for module in [*sys.modules.values()]}
    ours = sorted(Path(file) for file in files if file and ROOT in Path(file).parents)
    if stale := [x.name for x in ours if x.exists() and x.stat().st_mtime > STARTED]:
        print_error(
            f"warning: {', '.join(stale)} changed after the import, and the old code runs; restart "
            "the notebook's kernel, or run the script with !python"
        )


def _status_of(main: Callable[[], None]) -> int:
    """Calls `main`, prints an error that it raises as a line, and returns the exit status."""
    try:
        main()
    except BrokenPipeError:  # the reader of a pipe, `head` for example, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        line = _line(error)
        if line is None:
            if rank("WORLD_SIZE") > 1:
                traceback.print_exc()
                return 1
            raise
        _print_failure("; ".join([line, *notes(error)]))
        return error.status if isinstance(error, UserError) else 1
    return 0


def notes(error: BaseException | None) -> list[str]:
    """What was added to `error` by its method `add_note`, how to resume a run for example."""
    return getattr(error, "__notes__", [])


def _line(error: Exception) -> str | None:
    """The line that explains `error`; None if it is a fault in code, to be shown as it is."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return _how_to_install((error.name or "").partition(".")[0])
    return _known_failure(error) or (str(error) if isinstance(error, OSError) else None)


def _how_to_install(module: str) -> str | None:
    """How to install a missing module; None if it is none that the project requires."""
    package = PACKAGES.get(module, module)
    for name in ("requirements.txt", "requirements-export.txt", "requirements-dev.txt"):
        if re.search(rf"^{re.escape(package)}\b", (ROOT / name).read_text("utf-8"), re.MULTILINE):
            return f"{module} is not installed: pip install -r {name}"
    return None


def _known_failure(error: Exception) -> str | None:
    """What ended training through no fault in the code; None for any other error."""
    text, kinds = str(error), {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, MemoryError) or re.search(
        "out of memory|can't allocate memory|ALLOC_FAILED", text
    ):
        return "memory ran out; use a smaller --batch-size or --width"
    if text.startswith("Expected more than 1 value per channel"):
        return "a batch of one image is too small for a batch norm; use another --batch-size"
    if "TorchDynamoException" in kinds:
        return f"--compile failed, run without it: {text.splitlines()[0]}"
    if "BrokenProcessPool" in kinds or "DataLoader worker" in text:
        reason = "an augmenting process was killed; if memory is short, use fewer --workers"
    elif "DistError" in kinds or (
        rank("WORLD_SIZE") > 1
        and re.search("gloo|NCCL|Connection reset|Connection closed|Broken pipe", text)
    ):
        reason = "another process of this run has ended"
    else:
        return None
    time.sleep(1)  # if a signal ended that process, this one receives it too, and reports it
    return reason


def _print_failure(message: str) -> None:
    """Prints why this process ends, unless the first of several does and says it.

    If the first one fails too, torchrun ends this one in the meantime.
    """
    if rank("LOCAL_RANK") > 0:
        signals.restore_defaults()
        time.sleep(FIRST_PRINTS)
        message = f"rank {rank()}: {message}"
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
