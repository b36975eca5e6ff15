"""Trains a network of model.py on CIFAR-10 or other images.

    python train.py                                                        # CIFAR-10, 25 epochs
    python train.py --epochs 25 --batch-size 128 --lr 0.001 --device auto  # the same, spelt out
    python train.py --augment device --compile                             # for a GPU
    python train.py --dataset digits --epochs 8 --out results/digits       # needs no download
    python train.py --resume            # continue a run, or draw a finished one's pictures again
    torchrun --nproc_per_node=2 train.py --augment device   # on two GPUs

Leaves a log, checkpoints and pictures in the folder --out (records/names.py lists them).
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from console.errors import (
    UserError,
    command_line,
    is_writing_process,
    print_error,
    run,
    stop_delayed,
)
from console.flags import (
    Parser,
    a_path,
    add_setting_flags,
    add_speed_flags,
    as_flags,
    as_typed,
    number,
    settings_from,
)
from inputs.sources import add_data_flags
from recipe import Recipe
from records import names
from records.files import check_writable, existing, sole_writer
from training.progress import (
    explained_peak,
    how_to_resume,
    print_data,
    print_epoch,
    print_summary,
    warn_of_a_high_loss,
    warn_of_a_slow_precision,
)

if TYPE_CHECKING:  # at run time they are imported after the flags are checked
    import torch
    from torch import Tensor

    from data import DeviceBatches, HostBatches
    from inputs.image_data import ImageData
    from records.checkpoints import Checkpoint
    from records.run import Config, LogRow
    from report.tensorboard import Board
    from training.processes import World
    from training.trainer import Trainer


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Train a network of model.py; see README.md.")
    data = parser.add_argument_group("data")
    add_data_flags(data)
    data.add_argument(
        "--limit-train", metavar="N", type=number(int, at_least=1),
        help="use N random training images only, for a quick look (default: all)",
    )  # fmt: skip
    data.add_argument(
        "--holdout", metavar="N", type=number(int, at_least=1),
        help="evaluate on N of the training images, stratified by class, in place of the test set; "
        "use it to choose settings. The images are the same for every seed",
    )  # fmt: skip
    recipe = parser.add_argument_group("recipe (settings that affect the result)")
    add_setting_flags(recipe, Recipe)
    recipe.add_argument(
        "--teacher", metavar="FILE.pt", type=a_path,
        help="checkpoint of a trained network; the loss also has the divergence from its "
        "probabilities (--teacher-weight), and labels are not smoothed",
    )  # fmt: skip
    run_flags = parser.add_argument_group("run")
    add_speed_flags(run_flags)
    run_flags.add_argument(
        "--out", metavar="DIR", type=a_path, default=names.RESULTS,
        help="folder of the run; after the first epoch, an earlier run in it is moved to "
        "DIR/archive/",
    )  # fmt: skip
    run_flags.add_argument(
        "--tensorboard", action="store_true", help="also log for TensorBoard, in DIR/tensorboard/"
    )
    one_of = run_flags.add_mutually_exclusive_group()
    one_of.add_argument(
        "--resume", action="store_true",
        help="continue the run in --out, with the same flags; draw a finished one's pictures again",
    )  # fmt: skip
    one_of.add_argument(
        "--find-lr", action="store_true",
        help="in place of a run, take up to 200 steps at a rising learning rate and draw the loss "
        "in DIR/plots/",
    )  # fmt: skip
    return parser.parse_args()


def check_flags(args: argparse.Namespace, recipe: Recipe) -> None:
    """Refuses flags that contradict each other or the files in --out."""
    for name in ("teacher_weight", "temperature"):
        if not args.teacher and getattr(recipe, name) != getattr(Recipe, name):
            raise UserError(f"--{name.replace('_', '-')} needs --teacher FILE.pt", status=2)
    if args.teacher and recipe.label_smoothing != Recipe.label_smoothing:
        raise UserError("--label-smoothing has no effect with --teacher; leave it out", status=2)
    if not is_writing_process():
        return
    check_writable(args.out)
    moved_away = [] if args.find_lr else [(args.out / name).resolve() for name in names.RUN_FILES]
    if args.teacher and existing(args.teacher).resolve() in moved_away:
        raise UserError(
            f"--teacher {args.teacher} belongs to the run in --out, which this run would move "
            "to archive/; give another --out"
        )
    if args.resume and not (args.out / names.LAST).exists():
        raise UserError(f"{args.out / names.LAST} is missing: leave out --resume to start anew")


def main() -> None:
    args = parse_arguments()
    recipe = settings_from(Recipe, args)
    check_flags(args, recipe)

    if args.tensorboard:
        import tensorboard  # noqa: F401, without it the run is refused here

    from constraints.trace import trace
    from data import check_batch_size, load, training_batches
    from model import build_network
    from training.devices import keep_freed_memory, pick_device
    from training.failures import explained_failures
    from training.processes import join, this_process

    world = this_process()
    log = []  # the finished epochs
    device = pick_device(args.device, world)
    quiet = nullcontext() if world.is_first else redirect_stdout(None)
    with explained_failures(lambda: how_to_resume(args, world, log), world), quiet:
        # tells what an edit broke before data is downloaded
        trace(build_network(num_classes=10, **asdict(recipe.network)))
        data = load(args.dataset, args.data_dir, args.limit_train, args.holdout)
        keep_freed_memory()
        print_data(data)
        check_batch_size(recipe.batch_size, len(data.train_labels), world.size)
        join(world, device)  # after the download: joined processes wait for TIMEOUT at most
        batches = training_batches(data, recipe, device, args.workers, world.local_size)
        trainer = make_trainer(args, recipe, data, device, world)
        with sole_writer(args.out) if world.is_first else nullcontext():
            if args.find_lr:
                find_learning_rate(args.out / names.RANGE_TEST, trainer, batches)
            else:
                train(args, trainer, batches, log)
        world.wait_for_all()  # until the first one has drawn the pictures


def make_trainer(
    args: argparse.Namespace, recipe: Recipe, data: ImageData, device: torch.device, world: World
) -> Trainer:
    """Builds the network and its trainer."""
    import torch

    from constraints.checks import check
    from constraints.tables import count_parameters
    from constraints.trace import trace
    from model import build_network
    from training.devices import device_description
    from training.distillation import distillation, fingerprint, load_teacher
    from training.find_lr import rising_schedule
    from training.trainer import Trainer

    torch.manual_seed(recipe.seed)
    network = build_network(num_classes=len(data.classes), **asdict(recipe.network))
    # before the trainer puts other convolutions in place of slow ones
    checks = check(trace(network, len(data.classes)))
    options, teacher = {}, None  # those of Trainer that differ from their defaults
    if args.find_lr:
        options["schedule"] = rising_schedule
    if args.teacher:
        teacher = load_teacher(args.teacher, data, device)
        options["loss"] = distillation(teacher)
        print(f"teacher: {args.teacher}, {teacher.network.name}", flush=True)
    trainer = Trainer(network, data, recipe, device, compiled=args.compile, world=world, **options)
    trainer.checks = checks
    trainer.settings |= {
        "--limit-train": args.limit_train,
        "--holdout": args.holdout,
        "teacher": fingerprint(teacher) if teacher else None,
    }
    size = f"{network.name}, {count_parameters(network):,} parameters"
    print(f"network: {size}, on {device_description(device)}", flush=True)
    warn_of_a_slow_precision(trainer)
    return trainer


def train(
    args: argparse.Namespace,
    trainer: Trainer,
    batches: HostBatches | DeviceBatches,
    log: list[LogRow],
) -> None:
    """Trains the epochs that are left, adds each to `log` and keeps it; then draws pictures."""
    from records.run import best_epoch, save_epoch, start_run

    world, board = trainer.world, None
    print(f"learning rate: {explained_peak(trainer.recipe)}", flush=True)
    config, best = start_or_resume(args, trainer, log)
    if world.is_first and args.tensorboard:
        from report.tensorboard import Board

        board = Board(args.out, len(log))
    for epoch in range(len(log) + 1, args.epochs + 1):
        row = trainer.run_epoch(epoch, batches)
        is_best = best_epoch([*log, row]) is row
        with stop_delayed():  # an epoch is kept as a whole or not at all
            if world.is_first:
                if epoch == 1 and (archived := start_run(args.out, config)):
                    print(f"the earlier run in {args.out} is now in {archived}", flush=True)
                checkpoint = trainer.checkpoint([*log, row])
                save_epoch(args.out, config, [*log, row], checkpoint)
                best = checkpoint if is_best else best
            log.append(row)
        if board:
            board.add_epoch(row)
        print_epoch(row, args.epochs, trainer.data.evaluated, is_best)
        warn_of_a_high_loss(row, trainer)
    if world.is_first:
        draw(args, trainer, best, log, next(batches.epoch(1)), board)
    print_summary(args, trainer.data.evaluated, log)


def start_or_resume(
    args: argparse.Namespace, trainer: Trainer, log: list[LogRow]
) -> tuple[Config | None, Checkpoint | None]:
    """With --resume, adds the epochs of the run in --out to `log` and goes on with its files.

    Returns:
        In the process that writes, the run's config and its best checkpoint so far.
    """
    from records.checkpoints import load_checkpoint
    from records.run import best_checkpoint, continue_run

    world, last = trainer.world, args.out / names.LAST
    if args.resume:
        checkpoint = world.from_first(lambda: load_checkpoint(last))
        log += trainer.resume(checkpoint, last)
        print(f"resumed after epoch {len(log)} of {args.epochs}", flush=True)
    if not world.is_first:
        return None, None
    checks = trainer.checks
    if broken := ", ".join(each.constraint for each in checks if not each.passed):
        flags = as_typed(as_flags(trainer.recipe.network))
        print_error(
            f"warning: the network breaks constraints ({broken}); see python model.py {flags}"
        )
    config = trainer.config(command_line(), vars(args), checks)
    if not args.resume:
        return config, None
    best = best_checkpoint(args.out, checkpoint, log)
    return continue_run(args.out, config, log), best


def draw(
    args: argparse.Namespace,
    trainer: Trainer,
    best: Checkpoint,
    log: list[LogRow],
    first_batch: tuple[Tensor, Tensor],
    board: Board | None,
) -> None:
    """Writes the tables and pictures of the finished run; an error says how to do it later."""
    from report.results import draw_results

    try:
        figures = draw_results(args.out, trainer, best, log, first_batch)
        if board:
            board.add_figures(figures, len(log))
    except (UserError, OSError) as error:
        raise UserError(f"{error}; {how_to_resume(args, trainer.world, log)}") from error


def find_learning_rate(path: Path, trainer: Trainer, batches: HostBatches | DeviceBatches) -> None:
    """Draws the loss against the learning rate at `path`."""
    from report.pictures import draw_range_test
    from training.find_lr import STEPS, find_lr

    if trainer.world.size > 1:
        raise UserError("--find-lr is for one process: leave out torchrun")
    print(f"--find-lr takes up to {STEPS} training steps, at a rising learning rate", flush=True)
    result = find_lr(trainer, batches)
    draw_range_test(*result, path)
    print(f"the loss fell fastest at --lr {result.steepest:.1g}; {path} shows it")


if __name__ == "__main__":
    run(main)
