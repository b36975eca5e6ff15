"""What a training run prints."""

from __future__ import annotations

import argparse
import math
import shlex
from typing import TYPE_CHECKING

from console.errors import command_line, print_error
from recipe import Recipe
from records import names

if TYPE_CHECKING:  # at run time train.py imports them after the flags are checked
    from inputs.image_data import ImageData
    from records.run import LogRow
    from training.processes import World
    from training.trainer import Trainer


def print_data(data: ImageData) -> None:
    mean, std = ("/".join(f"{value:.4f}" for value in values) for values in (data.mean, data.std))
    kind = names.EVALUATED[data.evaluated]
    print(
        f"data: {data.name}, {len(data.train_labels):,} training and {len(data.test_labels):,} "
        f"{kind} images, {len(data.classes)} classes, RGB mean {mean} std {std}",
        flush=True,
    )


def print_epoch(row: LogRow, epochs: int, evaluated: str, is_best: bool) -> None:
    print(
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  "
        f"train loss {row.train_loss:.4f} acc {row.train_acc:5.2f} %  "
        f"{evaluated} loss {row.evaluated_loss:.4f} acc {row.evaluated_acc:5.2f} %  "
        f"{row.seconds:.1f} s, {row.images_per_second:,.0f} images/s{'  best' * is_best}",
        flush=True,
    )


def explained_peak(recipe: Recipe) -> str:
    return f"peaks at {recipe.peak_lr:g} (--lr {recipe.lr:g} x --batch-size {recipe.batch_size})"


def warn_of_a_slow_precision(trainer: Trainer) -> None:
    from training.devices import is_slow

    if is_slow(trainer.precision, trainer.device):
        print_error(
            "warning: this CPU has no instructions for bfloat16, so training takes longer than "
            "with --precision float32"
        )


def warn_of_a_high_loss(row: LogRow, trainer: Trainer) -> None:
    guessing = math.log(len(trainer.data.classes))  # equal probabilities for all classes
    if row.train_loss > 1.2 * guessing:  # an untrained network is somewhat above it
        print_error(
            f"warning: the training loss, {row.train_loss:.4g}, is above that of guessing, "
            f"{guessing:.4g}. The learning rate {explained_peak(trainer.recipe)}; try a lower --lr"
        )


def how_to_resume(args: argparse.Namespace, world: World, log: list[LogRow]) -> str:
    if args.find_lr:
        return "repeat the command to start anew"
    if not (log or args.resume):
        return "the first epoch was not finished, so there is nothing to resume"
    command = command_line().removesuffix(" --resume").replace(" --resume ", " ")
    saved = f"epochs 1 to {len(log)} of {args.epochs} are saved in {args.out}. " if log else ""
    what = "Draw the pictures" if len(log) == args.epochs else "Go on"
    return f"{saved}{what} with: {world.command(command)} --resume"


def print_summary(args: argparse.Namespace, evaluated: str, log: list[LogRow]) -> None:
    from records.run import best_epoch

    best = best_epoch(log)
    minutes, seconds = divmod(round(sum(row.seconds for row in log)), 60)
    print(
        f"{names.EVALUATED[evaluated]} accuracy: last {log[-1].evaluated_acc:.2f} % (epoch "
        f"{log[-1].epoch}), best {best.evaluated_acc:.2f} % (epoch {best.epoch}); "
        f"{minutes} min {seconds} s of training; pictures in {args.out / names.PLOTS}"
    )
    if args.out == names.RESULTS:
        print("next: python update_readme.py")
    else:
        best_pt, tiles = (shlex.quote(str(args.out / x)) for x in (names.BEST, names.TEST_TILES))
        print(f"next: python predict.py --checkpoint {best_pt} {tiles}")
