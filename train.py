"""Trains the C1C2C3C4O network on CIFAR-10 or other images.

    python train.py                                                        # CIFAR-10, 25 epochs
    python train.py --epochs 25 --batch-size 128 --lr 0.001 --device auto  # the same, spelt out
    python train.py --augment device --compile                             # made for a GPU
    python train.py --dataset digits --epochs 8 --out results/digits       # needs no network
    python train.py --resume                                # goes on where the run was stopped
    torchrun --nproc_per_node=2 train.py --augment device   # on two GPUs

Leaves a log, checkpoints and pictures in the folder --out (artifacts.py says which).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path

from cli import (
    WIDTH,
    Parser,
    Stopped,
    UserError,
    add_augment_flag,
    add_batch_size_flag,
    add_data_flags,
    add_device_flags,
    number,
    run,
    stops_held,
)

import artifacts
from artifacts import Config, LogRow
from distributed import Ranks, is_loss_of_a_process, joined, this_process
from recipe import Recipe


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Train the C1C2C3C4O network; see README.md.")
    data = parser.add_argument_group("data")
    add_data_flags(data)
    data.add_argument(
        "--limit-train",
        metavar="N",
        type=number(int, at_least=1),
        help="train on N random images only, for a quick look",
    )
    data.add_argument(
        "--holdout",
        metavar="N",
        type=number(int, at_least=1),
        help="hold out N of the training images, each class its share, and evaluate on them in "
        "place of the test set: to choose settings by. The same N for every seed",
    )
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument(
        "--epochs", metavar="N", type=number(int, at_least=1), default=Recipe.epochs,
        help="passes over the training images",
    )  # fmt: skip
    add_batch_size_flag(recipe)
    recipe.add_argument(
        "--lr", metavar="LR", type=number(float, above=0), default=Recipe.lr,
        help="learning rate per image of a batch: what Muon and SGD step by peaks at "
        "LR x batch size, so that another batch size needs no other LR",
    )  # fmt: skip
    recipe.add_argument(
        "--weight-decay", metavar="WD", type=number(float, at_least=0),
        default=Recipe.weight_decay, help="SGD's L2 penalty; Muon's weights shrink as fast",
    )  # fmt: skip
    recipe.add_argument(
        "--label-smoothing", metavar="S", type=number(float, at_least=0, below=1),
        default=Recipe.label_smoothing, help="share of the target that goes to all classes alike",
    )  # fmt: skip
    recipe.add_argument(
        "--width", metavar="W", type=WIDTH, default=Recipe.width, help="channel multiplier"
    )
    add_augment_flag(recipe)
    recipe.add_argument(
        "--seed", metavar="N", type=number(int, at_least=0, below=2**32), default=Recipe.seed,
        help="of initial weights, data order and augmentation",
    )  # fmt: skip
    place = parser.add_argument_group("run")
    add_device_flags(place)
    place.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("results"),
        help="where the run is kept; one that lies there already moves to DIR/archive/",
    )  # fmt: skip
    place.add_argument(
        "--resume", action="store_true", help="go on with the run in --out, under the same flags"
    )
    place.add_argument(
        "--tensorboard", action="store_true", help="log for TensorBoard too, in DIR/tensorboard/"
    )
    place.add_argument(
        "--find-lr", action="store_true",
        help="train nothing; draw the loss while the learning rate rises, in DIR/plots/",
    )  # fmt: skip
    args = parser.parse_args()
    if args.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise UserError("--tensorboard needs a package more: pip install tensorboard")
    if not this_process().is_first:
        return args
    artifacts.check_writable(args.out)
    if args.resume and not (args.out / artifacts.LAST).exists():
        raise UserError(f"{args.out / artifacts.LAST} is missing: leave out --resume to start anew")
    return args


if __name__ == "__main__":
    run(parse_arguments)  # main does it again: mistakes are told before these slow imports

import torch

import sources
from augment import AUGMENTATION
from board import Board
from data import DeviceBatches, HostBatches, check_batch_size, training_batches
from find_lr import find_lr
from model import Net, count_parameters
from report import draw_results
from sources import ImageData
from storage import sole_writer
from trainer import Trainer, describe, keep_freed_memory, pick_device


def main() -> None:
    args = parse_arguments()
    ranks = this_process()
    # of several processes the first alone writes files and speaks
    role = sole_writer(args.out) if ranks.is_first else redirect_stdout(None)
    with joined(ranks, pick_device(args.device)) as device, role:
        train(args, ranks, device)


def train(args: argparse.Namespace, ranks: Ranks, device: torch.device) -> None:
    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    data = ranks.in_turns(
        lambda: sources.load(args.dataset, args.data_dir, args.limit_train, args.holdout)
    )
    keep_freed_memory()
    print_data(data)
    check_batch_size(recipe, data, ranks.count)
    batches = training_batches(data, recipe, device, args.workers, ranks)

    torch.manual_seed(recipe.seed)
    model = Net(len(data.classes), recipe.width).to(device, memory_format=torch.channels_last)
    steps = recipe.epochs * len(batches)
    trainer = Trainer(model, device, data, recipe, steps, args.compile, ranks)
    config = describe_run(args, trainer)
    print(f"network: {count_parameters(model):,} parameters, on {config.device}", flush=True)

    if args.find_lr:
        print_range_test(args.out / artifacts.RANGE_TEST, trainer, batches)
        return
    log = trainer.resume(args.out / artifacts.LAST) if args.resume else []
    if ranks.is_first:
        config = open_folder(args, config, log)
        board = Board(args.out, log) if args.tensorboard else None
    with telling_how_to_resume(args, ranks, log):
        for epoch in range(len(log) + 1, recipe.epochs + 1):
            row = trainer.run_epoch(epoch, batches)
            is_best = all(row.evaluated_acc > earlier.evaluated_acc for earlier in log)
            with stops_held():  # an epoch is kept whole or not at all
                if ranks.is_first:
                    save_epoch(args.out, trainer, config, [*log, row], is_best)
                log.append(row)
            if ranks.is_first and board:
                board.add_epoch(row)
            print_epoch(row, recipe.epochs, data.evaluated, is_best)
        if ranks.is_first:
            draw_results(args.out, trainer, training_batches(data, recipe, device, workers=0))
            if board:
                board.add_pictures(len(log))
    print_summary(args, data.evaluated, log)


def print_range_test(path: Path, trainer: Trainer, batches: HostBatches | DeviceBatches) -> None:
    if trainer.ranks.count > 1:
        raise UserError("--find-lr is for one process: leave out torchrun")
    steepest = find_lr(trainer, batches, path)
    print(f"the loss fell fastest at --lr {steepest:.1g}; {path} shows it")


def open_folder(args: argparse.Namespace, config: Config, log: list[LogRow]) -> Config:
    """Makes room in --out for the run, or takes up the one there; returns what to call it."""
    if args.resume:
        artifacts.load_checkpoint(args.out / artifacts.BEST)  # it is needed at the end
        first = artifacts.read_config(args.out)
        config = replace(config, started=first.started, command=first.command)
        print(f"resumed after epoch {len(log)} of {args.epochs}", flush=True)
    elif archived := artifacts.archive_earlier_run(args.out):
        print(f"the run that lay in {args.out} is now in {archived}", flush=True)
    artifacts.write_config(args.out, config)
    artifacts.write_log(args.out, log)
    return config


def save_epoch(
    out: Path, trainer: Trainer, config: Config, log: list[LogRow], is_best: bool
) -> None:
    """Keeps what the run has come to with the last epoch in `log`."""
    if is_best:
        artifacts.save_checkpoint(out / artifacts.BEST, trainer.checkpoint(log[-1]))
    artifacts.save_checkpoint(out / artifacts.LAST, trainer.checkpoint(log[-1], log))
    artifacts.write_log(out, log)
    artifacts.write_config(out, replace(config, updated=now()))


def describe_run(args: argparse.Namespace, trainer: Trainer) -> Config:
    data, processes = trainer.data, trainer.ranks.count
    packages = ("torch", "torchvision", "albumentations", "opencv-python-headless", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return Config(
        command=trainer.ranks.command(shlex.join(sys.argv)),
        started=now(),
        updated=now(),
        flags={k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        augmentation=AUGMENTATION,
        dataset=data.name,
        fingerprint=data.fingerprint,
        train_images=len(data.train_labels),
        test_images=len(data.test_labels),
        evaluated=data.evaluated,
        classes=list(data.classes),
        mean=list(data.mean),
        std=list(data.std),
        parameters=count_parameters(trainer.model),
        device=describe(trainer.device) + f", {processes} processes" * (processes > 1),
        versions={"python": platform.python_version(), **versions},
    )


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def print_data(data: ImageData) -> None:
    figures = ["/".join(f"{value:.4f}" for value in values) for values in (data.mean, data.std)]
    print(
        f"data: {data.name}, {len(data.train_labels):,} training and {len(data.test_labels):,} "
        f"{artifacts.EVALUATED[data.evaluated]} images, {len(data.classes)} classes, RGB mean "
        f"{figures[0]} std {figures[1]}",
        flush=True,
    )


def print_epoch(row: LogRow, epochs: int, evaluated: str, is_best: bool) -> None:
    loss = getattr(row, f"{evaluated}_loss")
    print(
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  "
        f"train loss {row.train_loss:.4f} acc {row.train_acc:5.2f} %  "
        f"{evaluated} loss {loss:.4f} acc {row.evaluated_acc:5.2f} %  "
        f"{row.seconds:.1f} s, {row.images_per_second:,.0f} images/s{'  best' * is_best}",
        flush=True,
    )


def how_to_resume(args: argparse.Namespace, ranks: Ranks, log: list[LogRow]) -> str:
    if not log:
        return "the first epoch was not finished, so there is nothing to resume"
    script = shlex.join(word for word in sys.argv if word != "--resume")
    return (
        f"epochs 1 to {len(log)} of {args.epochs} are saved in {args.out}. "
        f"Go on with: {ranks.command(script)} --resume"
    )


@contextmanager
def telling_how_to_resume(
    args: argparse.Namespace, ranks: Ranks, log: list[LogRow]
) -> Iterator[None]:
    """Ends a run that is stopped, or that lacks something, in a line that says how to go on."""
    try:
        try:
            yield
        except RuntimeError as error:
            if "DataLoader worker" in str(error):
                time.sleep(1)  # what killed it, if a signal to all processes, arrives here as well
                reason = "an augmenting process was killed; if memory is short, use fewer --workers"
            elif isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                reason = "memory ran out; use a smaller --batch-size or --width"
            elif is_loss_of_a_process(error):
                time.sleep(1)
                reason = "another process of this run is gone"
            else:
                raise
            raise UserError(f"{reason}; {how_to_resume(args, ranks, log)}") from error
    except Stopped as stop:
        if ranks.is_first:
            print(f"train.py: stopped; {how_to_resume(args, ranks, log)}", file=sys.stderr)
        sys.exit(stop.status)


def print_summary(args: argparse.Namespace, evaluated: str, log: list[LogRow]) -> None:
    best = max(log, key=lambda row: row.evaluated_acc)
    minutes, seconds = divmod(round(sum(row.seconds for row in log)), 60)
    command = ["update_readme.py"] + ["--results", str(args.out)] * (args.out != Path("results"))
    print(
        f"{artifacts.EVALUATED[evaluated]} accuracy: last {log[-1].evaluated_acc:.2f} % (epoch "
        f"{log[-1].epoch}), best {best.evaluated_acc:.2f} % (epoch {best.epoch}); "
        f"{minutes} min {seconds} s of training; "
        f"next: python {shlex.join(command)}"
    )


if __name__ == "__main__":
    run(main)
