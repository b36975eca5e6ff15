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

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from console.errors import UserError, rank, run
from console.files import check_file, check_writable
from console.flags import Device, parse, read_workers, setting
from inputs.sources import DataFlags
from recipe import Recipe
from records import names

if TYPE_CHECKING:  # at run time they are imported after the flags are checked
    import torch

    from constraints.trace import Trace
    from data import DeviceBatches, HostBatches
    from inputs.image_data import ImageData
    from records.results import Config
    from training.engine import TrainingStep


@dataclass(frozen=True)
class Options(DataFlags, Device):
    """options: what does not decide the result, or changes the data"""

    limit_train: int | None = setting(
        None, "use N random training images only, for a quick look (default: all)", int, at_least=1
    )
    holdout: int | None = setting(
        None,
        "evaluate on N of the training images, stratified by class, in place of the test set; use "
        "it to choose settings. The images are the same for every seed",
        int,
        at_least=1,
    )
    teacher: Path | None = setting(
        None,
        "checkpoint of a trained network; the loss also has the divergence from its "
        "probabilities (--teacher-weight), and labels are not smoothed",
        Path,
        metavar="FILE.pt",
    )
    workers: str | int = setting(
        "auto",
        "processes that run Albumentations; with 0 it runs between the training steps. auto is 0 "
        "on one or two CPU cores without a GPU. The result is the same",
        read_workers,
        metavar="N",
    )
    compile: bool = setting(
        False, "compile the network with torch.compile, which takes a minute or so; for GPUs"
    )
    out: Path = setting(
        names.RESULTS,
        "folder of the run; after the first epoch, an earlier run in it is moved to DIR/archive/",
        metavar="DIR",
    )
    tensorboard: bool = setting(False, "also log for TensorBoard, in DIR/tensorboard/")
    resume: bool = setting(
        False,
        "continue the run in --out, with the same flags; draw a finished one's pictures again",
    )
    find_lr: bool = setting(
        False,
        "in place of a run, take up to 200 steps at a rising learning rate and draw the loss in "
        "DIR/plots/",
    )


def main() -> None:
    recipe, options = parse("Train a network of model.py; see README.md.", Recipe, Options)
    check_flags(recipe, options)

    import torch  # this and what follows takes seconds, so a mistyped flag is told before

    from constraints.checks import check
    from constraints.trace import trace
    from data import check_batch_size, evaluation_batches, load, training_batches
    from model import Normalised, build_network
    from records.results import make_config
    from records.trained_net import load_teacher
    from report.results import print_network
    from training import devices, losses, processes
    from training.engine import TrainingStep
    from training.optimizers import make_optimizers, make_schedules

    # ---- process and device
    world = processes.World.from_torchrun()
    device = devices.pick_device(options.device, world)

    # ---- data: uint8 images in memory, with their mean and standard deviation
    data = load(options.dataset, options.data_dir, options.limit_train, options.holdout)
    check_batch_size(recipe.batch_size, len(data.train_labels), world.size)
    world.join(device)  # after the download, for which joined processes would have to wait
    batches = training_batches(data, recipe, device, options.workers, world.share, world.local_size)
    test_batches = evaluation_batches(data, device, world.share)

    # ---- network: a wrong output is an error, a broken constraint a warning
    torch.manual_seed(recipe.seed)
    network = build_network(num_classes=len(data.classes), **asdict(recipe.network))
    traced = trace(network, len(data.classes))
    checks = check(traced)
    print_network(network, data, recipe, checks)
    forward = Normalised(network, data.mean, data.std).to(device)
    precision = devices.prepare(forward, recipe.precision, device)

    # ---- loss, optimizers, schedules: together they are a training step
    recipe, teacher = load_teacher(recipe, options.teacher, data, device)
    loss = losses.make_loss(recipe, teacher)
    optimizers = make_optimizers(network, recipe)
    schedules = make_schedules(optimizers, recipe, recipe.epochs * batches.steps)
    step = TrainingStep(forward, loss, optimizers, schedules, precision, options.compile, world)
    if options.find_lr:
        find_learning_rate(options.out, step, batches, recipe)
        return
    place, command = devices.describe_device(device, world.size), world.command()
    config = make_config(recipe, options, data, network, checks, teacher, place, command)
    train(config, options, step, batches, test_batches, data, traced)


def train(
    config: Config,
    options: Options,
    step: TrainingStep,
    batches: HostBatches | DeviceBatches,
    test_batches: list[tuple[torch.Tensor, torch.Tensor]],
    data: ImageData,
    traced: Trace,
) -> None:
    """Trains, evaluates and saves each epoch that is left, then draws the pictures of the run."""
    import torch

    from inputs.augment import batch_seed
    from records.results import make_row
    from records.run import open_run
    from report import results
    from training.engine import evaluate, train_one_epoch

    recipe, world, forward = config.recipe, step.world, step.forward

    # ---- the run's folder: locked; an earlier run in it is archived at the first save
    with open_run(options.out, config, world.is_first) as run:
        if options.resume:
            step.load_state_dict(run.resume(world.from_first(run.load_last), forward.network))
        results.print_start(run)
        board = results.open_board(run) if options.tensorboard and run.writes else None

        # ---- epochs: train, evaluate, one row, saved as a whole or not at all
        for epoch in run.remaining_epochs:
            # dropout and the like draw others in each process, and the same in a resumed run
            torch.manual_seed(batch_seed(recipe.seed, epoch, world.rank))
            lr, images = step.learning_rate, results.show_progress(batches, epoch, run)
            trained = train_one_epoch(step, images, recipe.batch_size)
            evaluated = evaluate(forward, test_batches, world)
            row = make_row(epoch, lr, trained, evaluated)
            run.save(row, forward.network, step.state_dict())
            results.print_epoch(row, run)
            if board:
                board.add_epoch(row, config.split)

        # ---- tables and pictures of the finished run, with the weights of its best epoch
        if run.writes:
            figures = results.draw_results(run, forward, data, traced, next(batches.epoch(1)))
            if board:
                board.add_figures(figures, len(run.log))
        results.print_summary(run)
        world.wait_for_all()  # until the first process has drawn the pictures


def check_flags(recipe: Recipe, options: Options) -> None:
    """Refuses flags that contradict each other or the files in --out."""
    if options.resume and options.find_lr:
        raise UserError("--resume: not allowed with --find-lr", status=2)
    if options.find_lr and rank("WORLD_SIZE") > 1:
        raise UserError("--find-lr is for one process: leave out torchrun")
    if not options.teacher and recipe.teacher_weight != Recipe.teacher_weight:
        raise UserError("--teacher-weight needs --teacher FILE.pt", status=2)
    if not options.teacher and recipe.temperature != Recipe.temperature:
        raise UserError("--temperature needs --teacher FILE.pt", status=2)
    if options.teacher and recipe.label_smoothing != Recipe.label_smoothing:
        raise UserError("--label-smoothing has no effect with --teacher; leave it out", status=2)
    if options.tensorboard:
        import tensorboard  # noqa: F401, without it the run is refused here
    if rank() > 0:
        return
    check_writable(options.out)
    moved_away = [(options.out / name).resolve() for name in names.RUN_FILES]
    if options.teacher and check_file(options.teacher).resolve() in moved_away:
        raise UserError(
            f"--teacher {options.teacher} belongs to the run in --out, which this run would move "
            "to archive/; give another --out"
        )
    if options.resume and not (options.out / names.LAST).exists():
        raise UserError(f"{options.out / names.LAST} is missing: leave out --resume to start anew")


def find_learning_rate(
    out: Path, step: TrainingStep, batches: HostBatches | DeviceBatches, recipe: Recipe
) -> None:
    """Draws the loss against the learning rate."""
    from data import endless
    from records.run import lock_folder
    from report.pictures import draw_range_test
    from training.find_lr import STEPS, find_lr

    with lock_folder(out):
        print(
            f"--find-lr takes up to {STEPS} training steps, at a rising learning rate", flush=True
        )
        result = find_lr(step, endless(batches), recipe)
        picture = out / names.RANGE_TEST
        draw_range_test(*result, picture)
        print(f"the loss fell fastest at --lr {result.steepest:.1g}; {picture} shows it")


if __name__ == "__main__":
    run(main)
