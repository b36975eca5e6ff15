"""The manners of the command line, the same for every script here.

A user's mistake is one line on stderr that says what is wrong and what to do: exit status 2
for a bad flag, 1 for anything else, 130 for Ctrl-C, 143 for SIGTERM, never a traceback.

Scripts parse their flags before they import torch and Albumentations, which takes seconds, so
that --help and a typo are answered at once. Hence nothing slow is imported here.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from recipe import AUGMENTERS, Recipe

Result = TypeVar("Result")


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; a scheduler, `kill`, a shutdown


class Stopped(KeyboardInterrupt):
    """One of STOP_SIGNALS has come; `status` is the exit status that tells which."""

    def __init__(self, status: int):
        super().__init__()
        self.status = status


_held: list[int] | None = None  # signals that came while `stops_held`; None outside of it


@contextmanager
def stops_held() -> Iterator[None]:
    """Has the signal that would end the script wait for the end of the context."""
    global _held
    _held = []
    try:
        yield
    finally:
        numbers, _held = _held, None
        for number in numbers[:1]:
            _stop(number, None)


def _stop(number: int, _frame) -> None:
    if _held is not None:
        _held.append(number)
        return
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_DFL)  # a second one ends the process at once
    if hasattr(signal, "SIGCHLD"):  # torch's handler would cry over workers that were told as well
        signal.signal(signal.SIGCHLD, lambda *_: None)
    raise Stopped(128 + number)


def _end_quietly_if_interrupted(kind, error, trace) -> None:
    if issubclass(kind, KeyboardInterrupt):  # while a script still imports what it needs
        print(f"{Path(sys.argv[0]).name}: stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _end_quietly_if_interrupted


class UserError(Exception):
    """A mistake of the user's or a fault of the machine: the message is the whole line to show."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message, status)  # both, so that it can be sent between processes
        self.message, self.status = message, status

    def __str__(self) -> str:
        return self.message


class Parser(argparse.ArgumentParser):
    """argparse with every default in --help, no abbreviated flags and one-line errors."""

    def __init__(self, description: str):
        super().__init__(
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str):
        line = f"{self.prog}: {message}; see python {self.prog} --help\n"
        self.exit(2, line if speaks() else None)


def speaks() -> bool:
    """Whether this process is the one of those that torchrun started here to tell mistakes."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def add_data_flags(group, default: str | None = "cifar10") -> None:
    """The flags that choose the images, for every script that loads some."""
    group.add_argument(
        "--dataset",
        metavar="SOURCE",
        type=image_source,
        default=default,
        help="cifar10 (found in --data-dir or downloaded there); digits (scikit-learn's, needs no "
        "network); an .npz file with MedMNIST's keys; or a folder with train/CLASS/* and "
        "test/CLASS/* images",
    )
    group.add_argument(
        "--data-dir", metavar="DIR", type=Path, default=Path("data"), help="where CIFAR-10 lies"
    )


def add_augment_flag(group) -> None:
    group.add_argument(
        "--augment", choices=AUGMENTERS, default=Recipe.augment,
        help="who augments: Albumentations image by image on the CPU, or the training device whole "
        "batches at a time",
    )  # fmt: skip


def add_batch_size_flag(group) -> None:
    group.add_argument(
        "--batch-size", metavar="N", type=number(int, at_least=1), default=Recipe.batch_size,
        help="images a step; an epoch's last batch may be smaller",
    )  # fmt: skip


def add_device_flag(group) -> None:
    group.add_argument(
        "--device", type=device_name, default="auto",
        help="cpu, cuda, cuda:N or mps; auto takes CUDA, else MPS, else the CPU",
    )  # fmt: skip


def add_device_flags(group) -> None:
    """The flags that say on what to train, and how fast; they do not change what is trained."""
    add_device_flag(group)
    group.add_argument(
        "--workers", metavar="N", type=worker_count, default="auto",
        help="processes that run Albumentations; 0 runs it between the training steps, which auto "
        "does on one or two CPU cores without a GPU. The result is the same",
    )  # fmt: skip
    group.add_argument(
        "--compile", action="store_true",
        help="have torch.compile make the steps faster, after a minute or so of compiling",
    )  # fmt: skip


def image_source(text: str) -> str:
    """An argparse type: what --dataset can be, as far as a look at the disk tells."""
    path = Path(text)
    if text in ("cifar10", "digits") or path.is_dir() or (path.suffix == ".npz" and path.exists()):
        return text
    if path.suffix == ".npz":
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    raise argparse.ArgumentTypeError(
        f"{text} is neither cifar10 nor digits, nor an .npz file or a folder here"
    )


def device_name(text: str) -> str:
    """An argparse type: a device by name; whether it is on this machine is found out later."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"use auto, cpu, cuda, cuda:N or mps, not {text!r}")
    return text


def worker_count(text: str) -> str | int:
    """An argparse type: "auto" or a whole number."""
    try:
        return text if text == "auto" else number(int, at_least=0)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; or auto") from None


def number(
    kind: type, at_least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> Callable[[str], int | float]:
    """An argparse type: a finite int or float, `at_least` <= and `above` < it < `below`."""
    bounds = [
        f"{words} {bound}"
        for words, bound in (("at least", at_least), ("above", above), ("below", below))
        if math.isfinite(bound)
    ]
    wanted = f"a {'whole ' if kind is int else ''}number {' and '.join(bounds)}".strip()

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
            fits = math.isfinite(value) and at_least <= value and above < value < below
        except (ValueError, OverflowError):
            fits = False
        if not fits:
            raise argparse.ArgumentTypeError(f"needs {wanted}, not {text!r}")
        return value

    return parse


WIDTH = number(float, above=0, below=100)  # an argparse type: a channel multiplier


def run(main: Callable[[], Result]) -> Result:
    """Calls `main` and turns what the user should hear of into one line and an exit status."""
    script = Path(sys.argv[0]).name
    # `nohup` and a script's `&` have a signal ignored, and it stays so
    former = {each: signal.getsignal(each) for each in STOP_SIGNALS}
    handled = [each for each, handler in former.items() if handler != signal.SIG_IGN]
    for each in handled:
        signal.signal(each, _stop)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # a console without some letter still shows the rest
    try:
        return main()
    except UserError as error:
        if speaks():
            print(f"{script}: {error}", file=sys.stderr)
        sys.exit(error.status)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that is gone or not ours
        print(f"{script}: {error}", file=sys.stderr)
        sys.exit(1)
    except Stopped as stop:
        if speaks():
            print(f"{script}: stopped", file=sys.stderr)
        sys.exit(stop.status)
    finally:
        for each in handled:
            if signal.getsignal(each) is _stop:
                signal.signal(each, former[each])
