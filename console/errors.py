"""One-line errors, exit statuses and signals, the same for every script.

A user's mistake is one line on stderr that says what is wrong and what to do, without a
traceback. Exit status: 2 for a bad flag, 1 for any other error, 130 for Ctrl-C, 143 for SIGTERM.
"""

import io
import multiprocessing
import os
import re
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; a scheduler, `kill`, a shutdown
PATIENCE = 3  # seconds after a signal until a main thread that does not handle it counts as blocked
FIRST_PRINTS = 10  # seconds that other ranks wait, so that rank 0 can print the error
# which a terminal obeys, and surrogates, which stand for bytes that are not UTF-8
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"
INSTALL = {  # import name -> what to give to pip, unless requirements.txt has the same name
    **dict.fromkeys(("cv2", "PIL", "sklearn"), "-r requirements.txt"),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "-r requirements-export.txt"),
    "tensorboard": "tensorboard",
}


class UserError(Exception):
    """A user's mistake or a fault of the machine; the message is the line to show."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message, status)  # both, so that it can be pickled between processes
        self.status = status

    def __str__(self) -> str:
        return self.args[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch raised `error` because memory ran out."""
    words = "out of memory|can't allocate memory|ALLOC_FAILED"
    return isinstance(error, MemoryError) or bool(re.search(words, str(error)))


def described(error: Exception, *skipped_files: str) -> str:
    """The type and message of `error`, and the line of the project that raised it.

    Lines of installed packages and of `skipped_files` are skipped.
    """
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "-packages" not in frame.filename and frame.filename not in skipped_files
    ]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    message = " ".join(str(error).split())  # on one line
    return f"{type(error).__name__}: {message}{place}"


class Stopped(KeyboardInterrupt):
    """One of STOP_SIGNALS was received; `status` is the exit status for it."""

    def __init__(self, status: int):
        super().__init__()
        self.status, self.advice = status, ""


_delayed: list[int] | None = None  # signals received inside of `stop_delayed`; None outside of it


@contextmanager
def stop_delayed() -> Iterator[None]:
    """Delays a signal that would end the script until the context ends.

    torch's error about a worker process that has ended waits for the next batch, because the
    signal that ended the worker may have been sent to this process as well.
    """
    global _delayed
    _delayed = []
    on_ended_child = _ignore_ended_children()
    try:
        yield
    finally:
        received, _delayed = _delayed, None
        for number in received[:1]:
            _stop(number, None)
        if on_ended_child:
            signal.signal(signal.SIGCHLD, on_ended_child)


def _stop(number: int, _frame) -> None:
    if _delayed is not None:
        _delayed.append(number)
        return
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_DFL)  # a second signal ends the process at once
    _ignore_ended_children()
    raise Stopped(128 + number)


def _ignore_ended_children() -> Any:
    """Stops torch from raising an error as soon as a worker ends; returns the handler before."""
    if hasattr(signal, "SIGCHLD"):  # not on Windows
        # no SIG_DFL: of a signal that has already come, Python would print that it was ignored
        return signal.signal(signal.SIGCHLD, lambda *_: None)
    return None


@contextmanager
def stopped_while_blocked(advice: Callable[[], str]) -> Iterator[None]:
    """Lets a stop signal end this process also while its main thread is blocked in C++ code.

    Python calls a signal handler in the main thread, between two of its instructions. While that
    thread waits for another process in a collective operation, no handler is called. A thread,
    which `signal.set_wakeup_fd` informs, ends the process then, with the line that `run` prints.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while number := int.from_bytes(os.read(reader, 1), "big"):  # 0 at the context's end
            if number in STOP_SIGNALS:
                time.sleep(PATIENCE)
                if signal.getsignal(number) is _stop and _delayed is None:
                    _print_stop(advice())
                    _exit_at_once(128 + number)
        os.close(reader)

    threading.Thread(target=watch, daemon=True).start()
    former = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        os.close(writer)


def ranks() -> dict[str, int]:
    """RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE from torchrun.

    If one of them is missing, torchrun has not started this process, and it is on its own.
    """
    alone = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    if not alone.keys() <= os.environ.keys():
        return alone
    return {name: int(os.environ[name]) for name in alone}


def is_printing_process() -> bool:
    """Whether this process prints errors; of several started by torchrun, the first one does."""
    return ranks()["LOCAL_RANK"] == 0


def is_writing_process() -> bool:
    """Whether this process writes files; of several started by torchrun, rank 0 does."""
    return ranks()["RANK"] == 0


def program() -> list[str]:
    """What follows `python` on the command line: ["train.py"] or ["-m", "experiments.bench"]."""
    script = Path(sys.argv[0])
    if (script.parent / "__init__.py").exists():  # started by `python -m`
        return ["-m", f"{script.parent.name}.{script.stem}"]
    return [sys.argv[0]]


def command_line() -> str:
    """The command that started this process, as it can be typed again."""
    return shlex.join(["python", *program(), *sys.argv[1:]])


def print_error(message: str) -> None:
    if is_printing_process():
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)


def _print_failure(message: str) -> None:
    """Prints why this process ends, unless the first of several does and says it.

    If the first one fails too, torchrun ends this one in the meantime.
    """
    if not is_printing_process():
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        time.sleep(FIRST_PRINTS)
        message = f"rank {ranks()['RANK']}: {message}"
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)


def _print_stop(advice: str) -> None:
    print_error(f"stopped; {advice}" if advice else "stopped")


def _exit_at_once(status: int) -> None:
    """Exits without the interpreter's shutdown, in which torch can wait for other processes."""
    for worker in multiprocessing.active_children():
        worker.terminate()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def run(main: Callable[[], None]) -> None:
    """Calls `main`; turns errors and signals that a user can cause into a line and a status."""
    # `nohup` and a shell's `&` make a process ignore signals; these stay ignored
    former = {each: signal.getsignal(each) for each in STOP_SIGNALS}
    handled = [each for each, handler in former.items() if handler != signal.SIG_IGN]
    try:
        for each in handled:
            signal.signal(each, _stop)
        status = _status_of(main)
    except Stopped as stop:  # in `main`, or while its error was being printed
        status = stop.status
        _print_stop(stop.advice)
    finally:
        for each in handled:
            if signal.getsignal(each) is _stop:
                signal.signal(each, former[each])
    if ranks()["WORLD_SIZE"] > 1:
        _exit_at_once(status)
    if status:
        sys.exit(status)


def _how_to_install(error: ModuleNotFoundError) -> str | None:
    """How to install the missing package; None if the project does not require it."""
    package = (error.name or "").partition(".")[0]
    required = re.findall(r"^[\w-]+", REQUIREMENTS.read_text("utf-8"), re.MULTILINE)
    wanted = "-r requirements.txt" if package in required else INSTALL.get(package)
    return wanted and f"{package} is not installed: pip install {wanted}"


def _status_of(main: Callable[[], None]) -> int:
    """Calls `main`, prints an error that it raises as a line, and returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for a console that lacks some letter
    try:
        main()
        return 0
    except UserError as error:
        _print_failure(str(error))
        return error.status
    except SyntaxError as error:  # in a file that the user has edited
        _print_failure(f"{error.filename}, line {error.lineno}: {error.msg}")
    except ModuleNotFoundError as error:
        _print_failure(_how_to_install(error) or described(error))
    except (ImportError, NameError) as error:  # in a file that the user has edited
        _print_failure(described(error))
    except BrokenPipeError:  # the reader of a pipe, `head` for example, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a deleted folder, a lack of permission
        _print_failure(str(error))
    except Exception as error:
        if not _is_of_an_import(error):
            raise
        _print_failure(described(error))  # in a file that the user has edited
    return 1


def _is_of_an_import(error: Exception) -> bool:
    """Whether it was raised while a file was being imported."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_name == "<module>" for frame, _ in frames)
