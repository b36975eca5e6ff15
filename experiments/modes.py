"""The ways of training that experiments.bench compares, and their measurement in turns."""

import multiprocessing
import signal
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from console.errors import UserError
from data import DeviceBatches, endless, load, training_batches
from experiments import plain
from experiments.plain import Batch
from inputs.image_data import ImageData
from inputs.npz import KEYS
from model import build_network
from recipe import Recipe
from records.evidence import BenchRow
from training.devices import device_description, keep_freed_memory, pick_device
from training.optimizers import make_optimizers
from training.trainer import Trainer

Runner = Callable[[int], int]  # runs so many training steps; returns the number of images


@dataclass(frozen=True)
class Setup:
    """What all modes have in common."""

    recipe: Recipe
    device: torch.device
    workers: int
    compiled: bool


def make_trainer(setup: Setup, data: ImageData) -> Trainer:
    keep_freed_memory()  # as train.py does; a plain script does not
    network = build_network(num_classes=len(data.classes))
    return Trainer(network, data, setup.recipe, setup.device, compiled=setup.compiled)


def all_epochs(setup: Setup, data: ImageData) -> Iterator[Batch]:
    return endless(training_batches(data, setup.recipe, setup.device, setup.workers))


def runner(train: Callable[[Iterable[Batch]], object], batches: Iterable[Batch]) -> Runner:
    """A function that calls `train` on the next `steps` of `batches`."""
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


def ceiling(setup: Setup, data: ImageData) -> Runner:
    """The training step alone, on one batch that stays on the device."""
    batch = next(DeviceBatches(data, setup.recipe, setup.device).epoch(1))
    return runner(make_trainer(setup, data).train, repeat(batch))


def albumentations(setup: Setup, data: ImageData) -> Runner:
    """`train.py --augment albumentations`"""
    return runner(make_trainer(setup, data).train, all_epochs(setup, data))


def device(setup: Setup, data: ImageData, precision: str = "auto") -> Runner:
    """`train.py --augment device --precision PRECISION`"""
    recipe = replace(setup.recipe, augment="device", precision=precision)
    return albumentations(replace(setup, recipe=recipe), data)


def loader_alone(setup: Setup, data: ImageData) -> Runner:
    """Albumentations' batches, brought to the device and thrown away."""
    return runner(deque(maxlen=0).extend, all_epochs(setup, data))


def plain_script(setup: Setup, data: ImageData, transform=plain.albumentations_transform) -> Runner:
    """A straightforward script: float32 NCHW, augmented image by image."""
    loader = plain.make_loader(
        data, transform(data, setup.recipe.augmentation), setup.recipe.batch_size, setup.workers
    )
    return runner(plain_loop(setup, data), chain.from_iterable(repeat(loader)))


def plain_step(setup: Setup, data: ImageData) -> Runner:
    """The plain script's step alone, on one batch that stays on the device."""
    size, side = setup.recipe.batch_size, data.train_images.shape[1]
    images = torch.randn(size, 3, side, side, device=setup.device)
    labels = torch.arange(size, device=setup.device) % len(data.classes)
    return runner(plain_loop(setup, data), repeat((images, labels)))


def plain_loop(setup: Setup, data: ImageData) -> Callable[[Iterable[Batch]], None]:
    """The plain script's training loop with the optimizers of train.py, without a schedule."""
    network = build_network(num_classes=len(data.classes)).to(setup.device)
    # the first steps at the peak of a schedule might diverge; the speed is the same
    optimizers = make_optimizers(network, replace(setup.recipe, lr=setup.recipe.lr / 10))
    return partial(plain.train, network, optimizers)


CEILING, PLAIN = "ceiling", "plain"
MODES: dict[str, Callable[[Setup, ImageData], Runner]] = {
    CEILING: ceiling,
    "albumentations": albumentations,
    "device": device,
    "device, bfloat16": partial(device, precision="bfloat16"),
    "loader alone": loader_alone,
    PLAIN: plain_script,
    "plain, torchvision": partial(plain_script, transform=plain.torchvision_transform),
    "plain step": plain_step,
}


def measure(
    setup: Setup, data: ImageData, rounds: int, seconds: float, command: str, commit: str
) -> list[BenchRow]:
    """Measures all modes in turns, `rounds` times for about `seconds` each."""
    rates = {mode: [] for mode in MODES}
    bar = tqdm(total=len(MODES) * (rounds + 1), desc="measuring", disable=None, leave=False)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        npz = save_npz(folder / "images.npz", data)  # each process loads it for itself
        processes = {mode: stack.enter_context(start_process(setup.device)) for mode in MODES}
        stack.enter_context(bar)
        try:
            for mode, process in processes.items():
                process.submit(prepared, mode, setup, npz).result()  # one at a time warms up
                bar.update()
            for _ in range(rounds):
                for mode, process in processes.items():
                    rates[mode].append(process.submit(rate, mode, setup, npz, seconds).result())
                    bar.update()
            memory = {
                m: process.submit(peak_memory_mb).result() for m, process in processes.items()
            }
        except BrokenProcessPool as error:
            raise UserError(f"the process of mode {mode!r} ended unexpectedly") from error
    medians = {mode: statistics.median(rates[mode]) for mode in MODES}
    return [
        BenchRow(
            mode=mode,
            images_per_second=round(median, 1),
            slowest=round(min(rates[mode]), 1),
            fastest=round(max(rates[mode]), 1),
            share_of_ceiling=round(median / medians[CEILING], 4),
            ratio_to_plain=round(median / medians[PLAIN], 4),
            peak_memory_mb=round(memory[mode]),
            device=device_description(setup.device),
            command=command,
            commit=commit,
        )
        for mode, median in medians.items()
    ]


def save_npz(path: Path, data: ImageData) -> Path:
    arrays = {key: getattr(data, key) for key in KEYS}
    np.savez(path, **arrays, classes=np.array(data.classes))
    return path


def start_process(device: torch.device) -> ProcessPoolExecutor:
    """A process that is forked from one that has imported what takes seconds, and run nothing."""
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    context.set_forkserver_preload(["experiments.modes", "torch._dynamo"])
    usual = multiprocessing.get_start_method()
    return ProcessPoolExecutor(1, context, prepare_process, (usual, device))


def prepare_process(start_method: str, device: torch.device) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    multiprocessing.set_start_method(start_method, force=True)  # for workers, as in train.py
    pick_device(str(device))


@cache
def runner_of(mode: str, setup: Setup, npz: Path) -> Runner:
    return MODES[mode](setup, load(str(npz)))


@cache
def prepared(mode: str, setup: Setup, npz: Path) -> float:
    """Warms a mode up; returns its seconds per step."""
    run_steps = runner_of(mode, setup, npz)
    timed(run_steps, prefetched(setup), setup.device)
    return timed(run_steps, 3, setup.device)[1] / 3


def rate(mode: str, setup: Setup, npz: Path, seconds: float) -> float:
    """Images per second in a measurement of about `seconds`."""
    run_steps = runner_of(mode, setup, npz)
    timed(run_steps, prefetched(setup), setup.device)
    steps = max(3, round(seconds / prepared(mode, setup, npz)))
    images, elapsed = timed(run_steps, steps, setup.device)
    return images / elapsed


def prefetched(setup: Setup) -> int:
    """The number of steps after which no batch is left that workers made during a pause."""
    return 4 * setup.workers + 1  # the largest prefetch_factor of the modes


def timed(run_steps: Runner, steps: int, device: torch.device) -> tuple[int, float]:
    """The number of images trained on, and the seconds that it took."""
    start = time.perf_counter()
    images = run_steps(steps)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return images, time.perf_counter() - start


def peak_memory_mb() -> float:
    if sys.platform == "win32":
        return 0.0  # the standard library has no such figure on Windows
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def profile(setup: Setup, data: ImageData) -> str:
    """A table of the operators that take the time of the ceiling's step."""
    run_steps = ceiling(setup, data)
    run_steps(10)
    with torch.profiler.profile() as profiler:
        run_steps(3)  # with more, the profiler's records would slow the steps
    key = "self_cpu_time_total" if setup.device.type == "cpu" else "self_device_time_total"
    return profiler.key_averages().table(sort_by=key, row_limit=15, max_name_column_width=40)
