"""train.py in processes of its own that start at once: forked from one that has imported all."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from multiprocessing import connection, forkserver
from pathlib import Path
from types import MappingProxyType
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"

import torch._dynamo  # noqa: F401, which the first optimizer imports slowly
from runs import Outcome

import report.results  # noqa: F401, which train.py imports late and slowly
import train
from console import errors
from records import names

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir")
gc.freeze()  # of what is imported, so that the forked processes share it


@cache
def _forks() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["forked"])
    path = os.pathsep.join(filter(None, sys.path))  # which it would ignore otherwise
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        forkserver.ensure_running()
    return context


def process(target: Callable, *args: object) -> multiprocessing.process.BaseProcess:
    """A process that has just started, and calls `target`."""
    started = _forks().Process(target=target, args=args)
    started.start()
    return started


@dataclass
class Run:
    """A running `train.py`, the leader of a session and process group of its own."""

    process: multiprocessing.process.BaseProcess
    out: Path
    streams: Path  # what it prints, with the suffixes .stdout and .stderr

    def wait_for_epochs(self, count: int) -> None:
        """Until its log has so many."""
        log = self.out / names.TRAIN_LOG
        self.wait_until(lambda: log.exists() and log.read_text().count("\n") > count)

    def wait_for_output(self, text: str) -> None:
        self.wait_until(lambda: text in self.streams.read_text())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self.process.is_alive(), self.outcome().err
            time.sleep(0.01)

    def workers(self) -> list[int]:
        """The processes that augment for it."""
        pid = self.process.pid
        return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def outcome(self) -> Outcome:
        self.process.join()
        printed = [
            self.streams.with_suffix(suffix).read_text() for suffix in (".stdout", ".stderr")
        ]
        return Outcome(self.process.exitcode, *printed)


def start(
    argv: list[str],
    out: Path,
    die_at: int | None = None,
    prepare: Callable[[], None] | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Run:
    """Starts `train.py argv --out out`.

    Args:
        die_at: it kills itself by SIGKILL at its so many-th change in `out`, half written if
            that is the writing of a file.
        prepare: what its process does first; a function of this module.
        environment: added to that of its process.
    """
    streams = out.with_name(f"{out.name}-{environment.get('RANK', 0)}.stdout")
    for suffix in (".stdout", ".stderr"):
        streams.with_suffix(suffix).touch()  # it may be ended before it opens them
    argv = [*argv, "--out", str(out)]
    started = process(_run, argv, out, streams, die_at, prepare, dict(environment))
    return Run(started, out, streams)


def run(*args, **kwargs) -> Outcome:
    """Starts a run as `start` does, and waits for its end."""
    return start(*args, **kwargs).outcome()


def places(count: int) -> list[dict[str, str]]:
    """The environment variables that torchrun would give to each of `count` processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    everywhere = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return [
        {
            name: str(value)
            for name, value in {**everywhere, "RANK": rank, "LOCAL_RANK": rank}.items()
        }
        | {"MASTER_ADDR": "127.0.0.1"}
        for rank in range(count)
    ]


def start_ranks(argv: list[str], out: Path, count: int = 2, **kwargs) -> list[Run]:
    """Starts several processes that train together."""
    return [start(argv, out, environment=place, **kwargs) for place in places(count)]


def run_ranks(*args, **kwargs) -> list[Outcome]:
    """Starts processes as `start_ranks` does; as torchrun does, stops all when one has failed."""
    runs = start_ranks(*args, **kwargs)
    while alive := [run for run in runs if run.process.is_alive()]:
        if any(run.process.exitcode for run in runs):
            for run in alive:
                run.process.terminate()
        connection.wait([run.process.sentinel for run in alive])
    return [run.outcome() for run in runs]


def _run(
    argv: list[str],
    out: Path,
    streams: Path,
    die_at: int | None,
    prepare: Callable | None,
    environment: dict[str, str],
) -> None:
    changes = 0
    os.environ.update(environment)

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
    with streams.open("w") as stdout, streams.with_suffix(".stderr").open("w") as stderr:
        os.dup2(stderr.fileno(), 2)
        sys.stdout, sys.stderr, sys.argv = stdout, stderr, ["train.py", *argv]
        if prepare:
            prepare()
        sys.addaudithook(watch)
        errors.run(train.main)


def limit_file_size() -> None:
    """As on a disk that is nearly full: a file of more than 20 kB cannot be written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def limit_memory() -> None:
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (400 << 20),) * 2)
