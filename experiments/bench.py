"""Measures the speed of training, and its share of the speed of the training step alone.

    python -m experiments.bench                    # some minutes; writes results/bench.csv
    python -m experiments.bench --quick            # under a minute, and noisier
    python -m experiments.bench --device cuda --compile
    python -m experiments.bench --profile          # where the time of a training step goes

Every mode has a process of its own, since memory allocation and peak memory belong to a process.
The modes take turns, one at a time, so that a slow phase of the machine slows all of them; the
figures are medians over the rounds.
"""

import io
import multiprocessing
import signal
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from tqdm import tqdm

from console.errors import UserError, command_line, run
from console.files import check_writable
from console.flags import Device, parse, read_workers, setting
from data import check_batch_size, endless, load, training_batches, worker_count
from experiments import plain
from inputs.image_data import ImageData
from inputs.sources import DataFlags
from model import Normalised, build_network
from recipe import PRECISIONS, Recipe
from records import names
from records.results import read_commit
from records.run import move_to_archive
from records.runs import BenchRow
from records.tables import as_table, write_table
from training.devices import describe_device, pick_device, prepare
from training.engine import TrainingStep, train_steps
from training.losses import make_loss
from training.optimizers import make_optimizers, make_schedules

Runner = Callable[[int], int]  # takes so many training steps; returns the number of images


@dataclass(frozen=True)
class Options(DataFlags, Device):
    """options"""

    batch_size: int = setting(Recipe.batch_size, "images per optimizer step", at_least=1)
    precision: str = setting(
        Recipe.precision, "number format of the training steps", choices=PRECISIONS
    )
    workers: str | int = setting(
        "auto", "processes that run Albumentations", read_workers, metavar="N"
    )
    compile: bool = setting(False, "compile the network with torch.compile")
    quick: bool = setting(False, "fewer and shorter rounds")
    profile: bool = setting(False, "print where a step's time goes, and nothing else")
    out: Path = setting(names.RESULTS, "folder of bench.csv", metavar="DIR")


def main() -> None:
    options = parse("Measure the speed of training; see docs/speed.md.", Options)
    check_writable(options.out)
    device = pick_device(options.device)
    data = load(options.dataset, options.data_dir)
    check_batch_size(options.batch_size, len(data.train_labels))
    if options.profile:
        print(profile(options, data))
        return
    rounds, seconds = (3, 0.2) if options.quick else (20, 1.2)
    setup = f"{data.name}, batches of {options.batch_size}, torch {torch.__version__}"
    print(f"{setup}, on {describe_device(device)}; {rounds} rounds", flush=True)
    rows = as_table(measure(options, rounds, seconds))
    print(rows.drop(columns=["device", "command", "commit"]).to_string(index=False))
    if (options.out / names.BENCH).exists():
        measured = datetime.fromtimestamp((options.out / names.BENCH).stat().st_mtime)
        move_to_archive(options.out, (names.BENCH,), measured.strftime("%Y-%m-%dT%H-%M-%S"))
    options.out.mkdir(parents=True, exist_ok=True)
    write_table(options.out / names.BENCH, rows)
    print(f"wrote {options.out / names.BENCH}")


# ---- the modes: each is prepared once, then takes training steps when it is its turn


def train_py(augment: str, options: Options, data: ImageData) -> Runner:
    """`train.py --augment AUGMENT`; with "" the step alone, on a batch that stays on the device."""
    recipe = Recipe(
        batch_size=options.batch_size, precision=options.precision, augment=augment or "device"
    )
    network, device = build_network(num_classes=len(data.classes)), pick_device(options.device)
    forward = Normalised(network, data.mean, data.std).to(device)
    precision = prepare(forward, recipe.precision, device)
    optimizers = make_optimizers(network, recipe)
    schedules = make_schedules(optimizers, recipe, steps=10**9)  # longer than any measurement
    step = TrainingStep(
        forward, make_loss(recipe), optimizers, schedules, precision, options.compile
    )
    batches = endless(training_batches(data, recipe, device, options.workers))
    if not augment:
        batches = repeat(next(batches))
    return lambda steps: train_steps(step, islice(batches, steps)).images


def plain_script(options: Options, data: ImageData) -> Runner:
    """A straightforward script with the optimizers of train.py: float32, image by image."""
    device = pick_device(options.device)
    network = build_network(num_classes=len(data.classes)).to(device)
    # the first steps at the peak of a schedule might diverge; the speed is the same
    recipe = Recipe(batch_size=options.batch_size, lr_per_image=Recipe.lr_per_image / 10)
    optimizers = make_optimizers(network, recipe)
    loader = plain.make_loader(data, recipe, worker_count(options.workers, device))
    batches = chain.from_iterable(repeat(loader))
    return lambda steps: plain.train(network, optimizers, islice(batches, steps))[1]


MODES: dict[str, Callable[[Options, ImageData], Runner]] = {
    "ceiling": partial(train_py, ""),
    "albumentations": partial(train_py, "albumentations"),
    "device": partial(train_py, "device"),
    "plain": plain_script,
}


# ---- the measurement, in turns


def measure(options: Options, rounds: int, seconds: float) -> list[BenchRow]:
    """Measures all modes in turns, `rounds` times for about `seconds` each."""
    rates, steps = {mode: [] for mode in MODES}, {}
    bar = tqdm(total=len(MODES) * (rounds + 1), desc="measuring", disable=None, leave=False)
    with ExitStack() as stack:
        processes = {mode: stack.enter_context(start_process()) for mode in MODES}
        stack.enter_context(bar)
        try:
            for mode, process in processes.items():
                rate = process.submit(measure_rate, mode, options, 3).result()  # warms up
                steps[mode] = max(3, round(seconds * rate / options.batch_size))
                bar.update()
            for _ in range(rounds):
                for mode, process in processes.items():
                    measured = process.submit(measure_rate, mode, options, steps[mode])
                    rates[mode].append(measured.result())
                    bar.update()
            memory = {mode: x.submit(peak_memory_mb).result() for mode, x in processes.items()}
        except BrokenProcessPool as error:
            raise UserError(f"the process of mode {mode!r} ended unexpectedly") from error
    return make_rows(rates, memory, describe_device(pick_device(options.device)))


def make_rows(
    rates: dict[str, list[float]], memory: dict[str, float], device: str
) -> list[BenchRow]:
    medians = {mode: statistics.median(each) for mode, each in rates.items()}
    return [
        BenchRow(
            mode=mode,
            images_per_second=round(median, 1),
            slowest=round(min(rates[mode]), 1),
            fastest=round(max(rates[mode]), 1),
            share_of_ceiling=round(median / medians["ceiling"], 4),
            ratio_to_plain=round(median / medians["plain"], 4),
            peak_memory_mb=round(memory[mode]),
            device=device,
            command=command_line(),
            commit=read_commit(),
        )
        for mode, median in medians.items()
    ]


def start_process() -> ProcessPoolExecutor:
    spawn, usual = multiprocessing.get_context("spawn"), multiprocessing.get_start_method()
    return ProcessPoolExecutor(1, spawn, prepare_process, (usual,))


def prepare_process(start_method: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    multiprocessing.set_start_method(start_method, force=True)  # for workers, as in train.py
    sys.stdout = io.StringIO()  # train.py prints its device


@cache
def make_mode(mode: str, options: Options) -> Runner:
    return MODES[mode](options, load(options.dataset, options.data_dir))


def measure_rate(mode: str, options: Options, steps: int) -> float:
    """Images per second of so many training steps."""
    run_steps = make_mode(mode, options)
    # until no batch is left that workers made during a pause; a loader prefetches 4 at most
    run_steps(4 * worker_count(options.workers, pick_device(options.device)) + 1)
    wait_for_device()
    start = time.perf_counter()
    images = run_steps(steps)
    wait_for_device()
    return images / (time.perf_counter() - start)


def wait_for_device() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak_memory_mb() -> float:
    """Of this process; 0 on Windows, where the standard library has no such figure."""
    if sys.platform == "win32":
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def profile(options: Options, data: ImageData) -> str:
    """A table of the operators that take the time of the ceiling's step."""
    run_steps = MODES["ceiling"](options, data)
    run_steps(10)
    with torch.profiler.profile() as profiler:
        run_steps(3)  # with more, the profiler's records would slow the steps
    on_cpu = pick_device(options.device).type == "cpu"
    key = "self_cpu_time_total" if on_cpu else "self_device_time_total"
    return profiler.key_averages().table(sort_by=key, row_limit=15, max_name_column_width=40)


if __name__ == "__main__":
    run(main)
