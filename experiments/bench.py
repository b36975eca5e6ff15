"""Measures how fast training is, and how far from as fast as it could be.

    python bench.py                    # some minutes on two CPU cores; writes results/bench.csv
    python bench.py --quick            # under a minute, and noisier
    python bench.py --device cuda --compile
    python bench.py --profile          # where the time of a training step goes

Every mode lives in a process of its own, as in a run of its own: how memory is allocated and how
much of it is used belong to a process. They take turns, one at a time, so that a machine that is
slow for a while is slow for all; the figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from pathlib import Path

import artifacts
import evidence
from cli import Parser, UserError, add_batch_size_flag, add_data_flags, add_device_flags, run
from evidence import BenchRow
from storage import write_table

from recipe import Recipe


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Measure the speed of training; see README.md.")
    add_data_flags(parser)
    add_batch_size_flag(parser)
    add_device_flags(parser)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument(
        "--profile", action="store_true", help="print where a step's time goes, and nothing else"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("results"), help="where bench.csv goes"
    )
    args = parser.parse_args()
    artifacts.check_writable(args.out)
    return args


if __name__ == "__main__":
    run(parse_arguments)  # main does it again: mistakes are told before these slow imports

import contextlib
import multiprocessing
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice, repeat

import numpy as np
import plain
import sources
import torch
from sources import ImageData
from torch import Tensor
from tqdm import tqdm
from trainer import Trainer, describe, keep_freed_memory, pick_device

from data import DeviceBatches, check_batch_size, training_batches, worker_count
from model import Net

CEILING, PLAIN = "ceiling", "plain"


@dataclass(frozen=True)
class Setup:
    """What all modes share."""

    data: ImageData | None  # each process loads it for itself
    recipe: Recipe
    device: torch.device
    workers: int
    compiled: bool
    start_method: str  # of this platform's processes

    def trainer(self) -> Trainer:
        keep_freed_memory()  # as train.py does; a plain script does not
        model = Net(len(self.data.classes)).to(self.device, memory_format=torch.channels_last)
        steps = 1_000_000  # longer than any measurement
        return Trainer(model, self.device, self.data, self.recipe, steps, self.compiled)


Batch = tuple[Tensor, Tensor]
Runner = Callable[[int], int]  # takes so many training steps, returns on how many images


def runner(train: Callable[[Iterable[Batch]], object], batches: Iterable[Batch]) -> Runner:
    """Has `train` take its steps on `batches`, from which each call goes on."""
    batches = iter(batches)

    def run_steps(steps: int) -> int:
        images = 0

        def counted() -> Iterator[Batch]:
            nonlocal images
            for batch in islice(batches, steps):
                images += len(batch[1])
                yield batch

        train(counted())
        return images

    return run_steps


def ceiling(setup: Setup) -> Runner:
    """The training step alone, on one batch that stays on the device."""
    trainer = setup.trainer()
    batch = next(DeviceBatches(setup.data, setup.recipe, setup.device).epoch(1))
    return runner(trainer.train, repeat(batch))


def loader_alone(setup: Setup) -> Runner:
    """Albumentations' batches, brought to the device and thrown away."""
    return runner(deque(maxlen=0).extend, all_epochs(setup))


def albumentations(setup: Setup) -> Runner:
    """`train.py --augment albumentations`"""
    return runner(setup.trainer().train, all_epochs(setup))


def device(setup: Setup) -> Runner:
    """`train.py --augment device`"""
    return albumentations(replace(setup, recipe=replace(setup.recipe, augment="device")))


def plain_script(make_transform: Callable[[ImageData], plain.Transform], setup: Setup) -> Runner:
    """A straightforward script: float32 NCHW, augmented image by image."""
    transform = make_transform(setup.data)
    batches = plain.endless_batches(setup.data, transform, setup.recipe.batch_size, setup.workers)
    return runner(plain.training_loop(setup.data, setup.device, setup.recipe), batches)


def plain_step(setup: Setup) -> Runner:
    """The plain script's step on one batch that stays on the device."""
    size, side = setup.recipe.batch_size, setup.data.train_images.shape[1]
    images = torch.randn(size, 3, side, side, device=setup.device)
    labels = torch.arange(size, device=setup.device) % len(setup.data.classes)
    train = plain.training_loop(setup.data, setup.device, setup.recipe)
    return runner(train, repeat((images, labels)))


MODES: dict[str, Callable[[Setup], Runner]] = {
    CEILING: ceiling,
    "albumentations": albumentations,
    "device": device,
    "loader alone": loader_alone,
    PLAIN: partial(plain_script, plain.AlbumentationsTransform),
    "plain, torchvision": partial(plain_script, plain.torchvision_transform),
    "plain step": plain_step,
}


def all_epochs(setup: Setup) -> Iterator[Batch]:
    batches = training_batches(setup.data, setup.recipe, setup.device, setup.workers)
    for epoch in count(1):
        yield from batches.epoch(epoch)


def answer(connection, mode: str, setup: Setup, images: Path) -> None:
    """What a mode's process does: for each number of seconds it gets, train about that long and
    send the images per second; at the end, send its peak memory (MB)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells it when to stop
    multiprocessing.set_start_method(setup.start_method, force=True)  # of workers, as in a run
    with contextlib.suppress(EOFError, OSError):  # the parent was stopped
        try:
            run_steps = MODES[mode](replace(setup, data=sources.load(str(images))))
            fill = 2 * setup.workers + 1  # steps until prefetched batches are used up
            timed(run_steps, fill, setup.device)
            per_step = timed(run_steps, 3, setup.device)[1] / 3
            connection.send(None)
        except UserError as error:
            connection.send(error)
            return
        while seconds := connection.recv():
            timed(run_steps, fill, setup.device)
            trained_on, elapsed = timed(
                run_steps, max(3, round(seconds / per_step)), setup.device
            )  # fmt: skip
            connection.send(trained_on / elapsed)
        connection.send(peak_memory_mb())


def timed(run_steps: Runner, steps: int, device: torch.device) -> tuple[int, float]:
    """Images trained on, and seconds that it took."""
    start = time.perf_counter()
    images = run_steps(steps)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return images, time.perf_counter() - start


def peak_memory_mb() -> float:
    if sys.platform == "win32":
        return 0.0  # Windows has no such figure in the standard library
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class Contestant:
    """A mode in its process."""

    def __init__(self, mode: str, setup: Setup, images: Path):
        # forked from a process that has imported what takes seconds, and run nothing
        method = "spawn" if sys.platform == "win32" else "forkserver"
        context = multiprocessing.get_context(method)
        context.set_forkserver_preload(["trainer", "plain", "torch._dynamo"])
        self.mode, self.rates = mode, []
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=answer, args=(theirs, mode, setup, images))
        self.process.start()
        theirs.close()

    def receive(self):
        try:
            received = self.connection.recv()
        except (EOFError, OSError):
            raise UserError(f"the measurement of {self.mode!r} broke off") from None
        if isinstance(received, UserError):
            raise received
        return received

    def measure(self, seconds: float) -> None:
        self.connection.send(seconds)
        self.rates.append(self.receive())

    def finish(self) -> float:
        """Ends the process; its peak memory in MB."""
        self.connection.send(0)
        return self.receive()

    def close(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def main() -> None:
    args = parse_arguments()
    device = pick_device(args.device)
    data = sources.load(args.dataset, args.data_dir)
    recipe = Recipe(batch_size=args.batch_size)
    check_batch_size(recipe, data)
    setup = Setup(
        data, recipe, device, worker_count(args.workers, device), args.compile,
        multiprocessing.get_start_method(),
    )  # fmt: skip
    if args.profile:
        print(profile(setup))
        return
    rounds, seconds = (3, 0.5) if args.quick else (20, 1.2)
    print(
        f"{data.name}, batches of {recipe.batch_size}, {setup.workers} workers, torch "
        f"{torch.__version__}, on {describe(device)}; {rounds} rounds",
        flush=True,
    )
    rows = measure(setup, rounds, seconds)
    print_table(rows)
    evidence.archive_earlier_bench(args.out)
    write_table(args.out / evidence.BENCH, BenchRow, rows)
    shown = "; next: python update_readme.py" if args.out == Path("results") else ""
    print(f"wrote {args.out / evidence.BENCH}{shown}")


def measure(setup: Setup, rounds: int, seconds: float) -> list[BenchRow]:
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"  # a pipe would take a minute
        arrays = {k: v for k, v in vars(setup.data).items() if isinstance(v, np.ndarray)}
        np.savez(images, **arrays, classes=np.array(setup.data.classes))
        return take_turns(replace(setup, data=None), images, rounds, seconds)


def take_turns(setup: Setup, images: Path, rounds: int, seconds: float) -> list[BenchRow]:
    contestants = []
    bar = tqdm(total=len(MODES) * (rounds + 1), desc="measuring", disable=None, leave=False)
    try:
        for mode in MODES:
            contestants.append(Contestant(mode, setup, images))
            contestants[-1].receive()  # one at a time warms up
            bar.update()
        for _ in range(rounds):
            for contestant in contestants:
                contestant.measure(seconds)
                bar.update()
        memory = {contestant.mode: contestant.finish() for contestant in contestants}
    finally:
        bar.close()
        for contestant in contestants:
            contestant.close()
    medians = {c.mode: statistics.median(c.rates) for c in contestants}
    return [
        BenchRow(
            mode=c.mode,
            images_per_second=round(medians[c.mode], 1),
            slowest=round(min(c.rates), 1),
            fastest=round(max(c.rates), 1),
            share_of_ceiling=round(medians[c.mode] / medians[CEILING], 4),
            ratio_to_plain=round(medians[c.mode] / medians[PLAIN], 4),
            peak_memory_mb=round(memory[c.mode]),
            device=describe(setup.device),
            command=f"python {shlex.join(sys.argv)}",
        )
        for c in contestants
    ]


def print_table(rows: list[BenchRow]) -> None:
    print("mode                images/s  (slowest - fastest)  of ceiling  x plain  peak MB")
    for row in rows:
        print(
            f"{row.mode:18} {row.images_per_second:9,.0f} {row.slowest:10,.0f} -{row.fastest:8,.0f}"
            f" {row.share_of_ceiling:11.2f} {row.ratio_to_plain:8.2f} {row.peak_memory_mb:8,.0f}"
        )


def profile(setup: Setup) -> str:
    """A table of the operators that the time of the ceiling's step goes to."""
    run_steps = ceiling(setup)
    run_steps(10)
    with torch.profiler.profile() as profiler:
        run_steps(3)  # with more, its own records would fragment the memory and slow the steps
    key = "self_cpu_time_total" if setup.device.type == "cpu" else "self_device_time_total"
    return profiler.key_averages().table(sort_by=key, row_limit=15, max_name_column_width=40)


if __name__ == "__main__":
    run(main)
