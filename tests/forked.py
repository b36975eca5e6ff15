"""train.py in processes of its own that start at once: forked from one that has imported all."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"

from conftest import Outcome

import report.results  # noqa: F401, which train.py imports late and slowly
import train
from console import errors
from records import names
from training.trainer import Trainer

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir")


@cache
def _forks() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["forked"])
    path = os.pathsep.join(filter(None, sys.path))  # which it would ignore otherwise
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        forkserver.ensure_running()
    return context


@dataclass
class Run:
    """A running `train.py`, the leader of a session and process group of its own."""

    process: multiprocessing.process.BaseProcess
    out: Path
    err: Path

    def wait_for_epochs(self, count: int) -> None:
        while self.epochs() < count:
            assert self.process.is_alive(), self.err.read_text()
            time.sleep(0.01)

    def epochs(self) -> int:
        """How many epochs the log has."""
        log = self.out / names.TRAIN_LOG
        return log.read_text().count("\n") - 1 if log.exists() else 0

    def outcome(self) -> Outcome:
        self.process.join()
        return Outcome(self.process.exitcode, "", self.err.read_text())


def start(
    argv: list[str],
    out: Path,
    die_at: int | None = None,
    prepare: Callable[[], None] | None = None,
) -> Run:
    """Starts `train.py argv --out out`.

    Args:
        die_at: it kills itself by SIGKILL at its so many-th change in `out`, half written if
            that is the writing of a file.
        prepare: what its process does first; a function of this module.
    """
    err = out.with_name(f"{out.name}.stderr")
    process = _forks().Process(
        target=_run, args=([*argv, "--out", str(out)], out, err, die_at, prepare)
    )
    process.start()
    return Run(process, out, err)


def run(*args, **kwargs) -> Outcome:
    """Starts a run as `start` does, and waits for its end."""
    return start(*args, **kwargs).outcome()


def _run(
    argv: list[str], out: Path, err: Path, die_at: int | None, prepare: Callable | None
) -> None:
    changes = 0

    def watch(event: str, args: tuple) -> None:
        nonlocal changes
        if event not in CHANGES or not str(args[0]).startswith(str(out)):
            return
        writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)
        if event == "open" and not writes:
            return
        changes += 1
        if changes == die_at:
            if writes and ".partial" in str(args[0]):
                os.write(os.open(args[0], os.O_WRONLY | os.O_CREAT), b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    os.setsid()
    usual, *_ = multiprocessing.get_all_start_methods()  # for workers, as in a run by hand
    multiprocessing.set_start_method(usual, force=True)
    with err.open("w") as file, Path(os.devnull).open("w") as nowhere:
        os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr, sys.argv = nowhere, file, ["train.py", *argv]
        if prepare:
            prepare()
        sys.addaudithook(watch)
        errors.run(train.main)


def limit_file_size() -> None:
    """As on a disk that is nearly full: a file of more than 20 kB cannot be written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def obey_permissions() -> None:
    """Gives up root's right to write where nobody may (CAP_DAC_OVERRIDE; see capset(2))."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, the lower 32 and so on
    libc.capget(header, sets)
    sets[0] &= ~(1 << 1)
    assert libc.capset(header, sets) == 0


def limit_memory() -> None:
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (400 << 20),) * 2)


def stop_in_the_first_epoch() -> None:
    """By a SIGTERM at the first training step."""

    def train_step(*_):
        signal.raise_signal(signal.SIGTERM)

    Trainer.train_step = train_step
