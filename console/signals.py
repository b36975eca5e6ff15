"""Ctrl-C and SIGTERM: an exception that can be delayed while an epoch is being saved."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; a scheduler, `kill`, a shutdown

_delayed: list[int] | None = None  # signals received inside of `stop_delayed`; None outside of it


class Stopped(KeyboardInterrupt):
    """One of STOP_SIGNALS was received; `status` is the exit status for it."""

    def __init__(self, status: int):
        super().__init__()
        self.status = status


@contextmanager
def handled() -> Iterator[None]:
    """Raises `Stopped` for STOP_SIGNALS until the context ends."""
    former = {each: signal.getsignal(each) for each in STOP_SIGNALS}
    # `nohup` and a shell's `&` make a process ignore signals; these stay ignored
    replaced = {each: handler for each, handler in former.items() if handler != signal.SIG_IGN}
    try:
        for each in replaced:
            signal.signal(each, _stop)
        yield
    finally:
        for each, handler in replaced.items():
            if signal.getsignal(each) is _stop:
                signal.signal(each, handler)


@contextmanager
def stop_delayed() -> Iterator[None]:
    """Delays a signal that would end the script until the context ends."""
    global _delayed
    _delayed = []
    try:
        yield
    finally:
        received, _delayed = _delayed, None
        for number in received[:1]:
            _stop(number, None)


def _stop(number: int, _frame: Any) -> None:
    if _delayed is not None:
        _delayed.append(number)
        return
    restore_defaults()  # a second signal ends the process at once
    raise Stopped(128 + number)


def restore_defaults() -> None:
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_DFL)


def exit_at_once(status: int) -> None:
    """Exits without the interpreter's shutdown, in which torch can wait for other processes."""
    for worker in multiprocessing.active_children():
        worker.terminate()
    for stream in (sys.__stdout__, sys.stdout, sys.stderr):
        if stream:
            stream.flush()
    os._exit(status)
