"""Measures the time to 85 % on the test set: train.py and a plain script, in turns.

    python -m experiments.time_to_85 --dataset cifar10
    python -m experiments.time_to_85 --dataset cifar10 --epochs 7 8 --plain-epochs 50
    python -m experiments.time_to_85 --dataset cifar10 -- --augment device --precision bfloat16

Each script trains for each number of epochs, in the given order, until the last epoch is above
85 % for every seed. The plain script (experiments/plain.py) trains with AdamW; its learning rate
peaks at 0.001. A row is added to results/time_to_85.csv when its run is finished. A run that has a
row is not repeated: move the file away when the recipe has changed. Other work on the machine makes
the times useless.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from console.errors import command_line, run
from console.flags import Parser, a_path, add_device_flag, number
from experiments.campaign import add_flags_for_train_py, train
from inputs.sources import add_data_flags, unambiguous_name
from recipe import Recipe
from records import names
from records.evidence import TARGET, TimeRow, current_commit
from records.files import check_writable

if TYPE_CHECKING:  # at run time it is imported after the flags are checked
    from inputs.image_data import ImageData


def parse_arguments() -> argparse.Namespace:
    count = number(int, at_least=1)
    parser = Parser("Measure the time to 85 % on the test set; see docs/speed.md.")
    add_data_flags(parser)
    parser.add_argument(
        "--epochs", metavar="N", type=count, nargs="+", default=[6, 7, 8, 9, 10],
        help="epochs of train.py to try (default: 6 7 8 9 10)",
    )  # fmt: skip
    parser.add_argument(
        "--plain-epochs", metavar="N", type=count, nargs="+", default=[25, 50],
        help="epochs of the plain script to try (default: 25 50)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", metavar="N", type=count, default=3, help="seeds for each number of epochs"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=a_path, default=Path("runs/time-to-85"),
        help="folder of the runs of train.py",
    )  # fmt: skip
    parser.add_argument(
        "--results", metavar="DIR", type=a_path, default=names.RESULTS,
        help="folder of time_to_85.csv",
    )  # fmt: skip
    add_device_flag(parser)
    own = ("--dataset", "--data-dir", "--device", "--epochs", "--seed", "--out", "--resume")
    add_flags_for_train_py(parser, own)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    check_writable(args.out)
    check_writable(args.results, "--results")

    from data import load

    data = load(args.dataset, args.data_dir)
    train_py = shlex.join(["train.py", *args.flags])
    for _ in zip_longest(
        search(train_py, args.epochs, run_train_py, args, data),
        search("plain script", args.plain_epochs, run_plain_script, args, data),
    ):
        pass  # both scripts have finished a run


def search(
    script: str, epochs: list[int], run_script: Callable, args: argparse.Namespace, data: ImageData
) -> Iterator[None]:
    """Trains for each of `epochs` until all seeds end above TARGET; yields after each run."""
    from records.tables import read_rows, update_rows
    from training.devices import device_description, pick_device

    table, device = args.results / names.TIME_TO_85, device_description(pick_device(args.device))
    dataset = unambiguous_name(data.name, data.fingerprint)
    commit = current_commit()  # of the code that runs, so before the first run
    earlier = {row.run: row for row in read_rows(table, TimeRow)}
    for count in epochs:
        for seed in range(args.seeds):
            key = (script, count, seed, dataset, device)
            row = earlier.get(key)
            if row is None:
                recipe = Recipe(epochs=count, seed=seed)
                accuracy, seconds = run_script(args, recipe, data)
                row = TimeRow(
                    script=script,
                    epochs=count,
                    seed=seed,
                    dataset=dataset,
                    test_acc=round(accuracy, 3),
                    seconds=round(seconds, 3),
                    device=device,
                    command=command_line(),
                    commit=commit,
                )
                update_rows(table, TimeRow, lambda rows, row=row: [*rows, row])
            known = f" (has a row in {table} already)" * (key in earlier)
            figures = f"{row.test_acc:.2f} % in {row.seconds / 60:.1f} min{known}"
            print(f"{script}, {count} epochs, seed {seed}: {figures}", flush=True)
            if key not in earlier:
                yield
            if row.test_acc <= TARGET:
                break
        else:
            return


def run_train_py(args: argparse.Namespace, recipe: Recipe, _data: ImageData) -> tuple[float, float]:
    """The test accuracy of the last epoch in percent, and the seconds of all epochs."""
    from records.run import read_log

    out = args.out / f"{recipe.epochs}-epochs-seed{recipe.seed}"
    flags = [*args.flags, f"--dataset={args.dataset}", f"--data-dir={args.data_dir}"]
    flags += [f"--device={args.device}", f"--epochs={recipe.epochs}", f"--seed={recipe.seed}"]
    if status := train(*flags, f"--out={out}"):
        sys.exit(status)
    log = read_log(out)
    return float(log.test_acc.iloc[-1]), float(log.seconds.sum())


def run_plain_script(
    args: argparse.Namespace, recipe: Recipe, data: ImageData
) -> tuple[float, float]:
    """The same two figures, from a run of the plain script."""
    from data import worker_count
    from experiments.plain import train_and_evaluate
    from training.devices import pick_device

    device = pick_device(args.device)
    start = time.perf_counter()
    for accuracy in train_and_evaluate(data, recipe, device, worker_count("auto", device)):
        seconds = time.perf_counter() - start
        print(f"plain script: {accuracy:.2f} % after {seconds:.0f} s", flush=True)
    return accuracy, seconds


if __name__ == "__main__":
    run(main)
