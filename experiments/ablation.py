"""Measures what each ingredient of the recipe is worth, on held-out training images.

    python ablation.py --dataset data/cifar10.npz                 # all changes, three seeds each
    python ablation.py --dataset data/cifar10.npz --only mixup    # one of them

Every run trains the default recipe with one change (and --augment device, which is quicker), on the
training set but 5,000 images, and is judged by those; the test set is not looked at. A row is added
to results/ablation.csv as soon as its run is finished, and what has a row there is not run again:
move the file away when the recipe itself has changed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import artifacts
import augment
import evidence
import numpy as np
import sources
import torch
import torch.nn.functional as F
from cli import Parser, add_data_flags, add_device_flag, number, run
from evidence import UNCHANGED, AblationRow
from muon import Muon
from sources import ImageData
from storage import read_rows, write_table
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from trainer import Trainer, describe, keep_freed_memory, make_schedule, pick_device

from data import DeviceBatches, as_tensor, epoch_rng
from model import Net
from recipe import Recipe

HOLDOUT = 5000


@dataclass(frozen=True)
class Change:
    """What is different: fields of the recipe, entries of AUGMENTATION, or what `apply` does."""

    recipe: dict = field(default_factory=dict)
    augmentation: dict = field(default_factory=dict)
    apply: Callable[[Trainer, DeviceBatches], None] = lambda trainer, batches: None


def optimize_all_with(kind: type[torch.optim.Optimizer], **settings) -> Change:
    def apply(trainer: Trainer, _batches: DeviceBatches) -> None:
        set_optimizers(trainer, [kind(trainer.model.parameters(), **settings)])

    return Change(apply=apply)


def set_optimizers(trainer: Trainer, optimizers: list[torch.optim.Optimizer]) -> None:
    trainer.optimizers = optimizers
    trainer.schedules = [make_schedule(optimizer, trainer.steps) for optimizer in optimizers]


def spare_norms_and_biases(trainer: Trainer, _batches: DeviceBatches) -> None:
    """No weight decay on vectors."""
    filters, sgd = trainer.optimizers
    (group,) = sgd.param_groups
    vectors = [p for p in group["params"] if p.ndim < 2]
    group["params"] = [p for p in group["params"] if p.ndim >= 2]
    sgd.add_param_group({"params": vectors, "weight_decay": 0.0})
    set_optimizers(trainer, [filters, sgd])


def follow_a_cosine(trainer: Trainer, _batches: DeviceBatches) -> None:
    """torch's default one-cycle: up for three tenths of the run, along cosines."""
    trainer.schedules = [
        OneCycleLR(o, o.defaults["lr"], total_steps=trainer.steps, cycle_momentum=False)
        for o in trainer.optimizers
    ]


def average_weights(trainer: Trainer, _batches: DeviceBatches) -> None:
    """Evaluates an exponential moving average (0.999) of weights and batch norm's statistics."""
    average = AveragedModel(
        trainer.model, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True
    )
    take_step, evaluate = trainer.step, trainer.evaluate

    def step(images: Tensor, labels: Tensor) -> Tensor:
        logits = take_step(images, labels)
        average.update_parameters(trainer.model)
        return logits

    def evaluate_average():
        trained, trainer.model = trainer.model, average.module
        try:
            return evaluate()
        finally:
            trainer.model = trained

    trainer.step, trainer.evaluate = step, evaluate_average


def mix_images(trainer: Trainer, _batches: DeviceBatches) -> None:
    """Mixup of each image with another of its batch, alpha 0.2, ramped up over half of the run.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    rng = np.random.default_rng(trainer.recipe.seed)
    schedule = trainer.schedules[0]

    def step(images: Tensor, labels: Tensor) -> Tensor:
        ramp = min(1, 2 * schedule.last_epoch / trainer.steps)
        drawn = rng.beta(0.2, 0.2)
        share = 1 - ramp * min(drawn, 1 - drawn)
        inputs = trainer.normalise(images)
        logits = trainer.model(share * inputs + (1 - share) * inputs.flip(0))
        smoothing = trainer.recipe.label_smoothing
        loss = share * F.cross_entropy(logits, labels, label_smoothing=smoothing)
        other = F.cross_entropy(logits, labels.flip(0), label_smoothing=smoothing)
        loss = loss + (1 - share) * other
        trainer.descend(loss)
        return logits.detach()

    trainer.step = step


def alternate_flips(trainer: Trainer, batches: DeviceBatches) -> None:
    """An image that is flipped in one epoch is not in the next, after Jordan's airbench."""
    count, seed = len(batches.labels), trainer.recipe.seed
    flipped_first = epoch_rng(seed, 0).random(count) < 0.5
    draw, epochs = augment.draw, batches.epoch

    def epoch(number: int):
        order = epoch_rng(seed, number).permutation(count)  # as the epoch itself will draw it
        flip = flipped_first[order] ^ (number % 2 == 1)
        augment.draw = lambda *args: draw(*args)._replace(flip=flip)
        try:
            yield from epochs(number)
        finally:
            augment.draw = draw

    batches.epoch = epoch


def end_on_plain_images(trainer: Trainer, batches: DeviceBatches) -> None:
    """In the last fifth of the run images are flipped, and nothing else."""
    epochs = batches.epoch

    def epoch(number: int):
        plain = number > 0.8 * trainer.recipe.epochs
        kept = dict(augment.AUGMENTATION)
        augment.AUGMENTATION.update({"affine_p": 0, "hole_p": 0} if plain else {})
        batches_of_epoch = epochs(number)
        yield next(batches_of_epoch)  # it draws the whole epoch before its first batch
        augment.AUGMENTATION.update(kept)
        yield from batches_of_epoch

    batches.epoch = epoch


def initialise_by_fan_in(trainer: Trainer, _batches: DeviceBatches) -> None:
    """He et al.'s normal initialisation, in place of PyTorch's uniform one."""
    for module in trainer.model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)


def whiten_first_layer(trainer: Trainer, _batches: DeviceBatches) -> None:
    """It starts as the principal components of the patches that it sees, the largest first, after
    Jordan's airbench (https://arxiv.org/abs/2404.00498)."""
    filters = trainer.model.c1a.conv.weight
    images = trainer.normalise(as_tensor(trainer.data.train_images[:2000]).to(trainer.device))
    patches = F.unfold(images, 3)[:, :, ::7].permute(0, 2, 1).flatten(0, 1)
    _, components = torch.linalg.eigh(patches.T @ patches)  # in columns, the largest last
    with torch.no_grad():
        filters.copy_(components.T.flip(0)[: len(filters)].view_as(filters))


def step_depthwise_by_muon(trainer: Trainer, _batches: DeviceBatches) -> None:
    filters, sgd = trainer.optimizers
    settings = filters.param_groups[0]
    all_filters = [p for p in trainer.model.parameters() if p.ndim == 4]
    others = [p for p in trainer.model.parameters() if p.ndim != 4]
    muon = Muon(all_filters, filters.defaults["lr"], settings["weight_decay"])
    set_optimizers(trainer, [muon, torch.optim.SGD(others, **sgd.defaults)])


CHANGES = {
    UNCHANGED: Change(),
    "SGD alone": optimize_all_with(
        torch.optim.SGD, lr=0.128, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    ),
    "AdamW alone": optimize_all_with(torch.optim.AdamW, lr=0.01, weight_decay=0.05, fused=True),
    "Muon for depthwise filters too": Change(apply=step_depthwise_by_muon),
    "half the learning rate": Change({"lr": Recipe.lr / 2}),
    "cosine schedule": Change(apply=follow_a_cosine),
    "half the weight decay": Change({"weight_decay": Recipe.weight_decay / 2}),
    "twice the weight decay": Change({"weight_decay": Recipe.weight_decay * 2}),
    "no decay of norms and biases": Change(apply=spare_norms_and_biases),
    "EMA of the weights": Change(apply=average_weights),
    "batch of 64": Change({"batch_size": 64}),
    "no label smoothing": Change({"label_smoothing": 0.0}),
    "label smoothing 0.2": Change({"label_smoothing": 0.2}),
    "half the augmentation": Change(augmentation={"affine_p": 0.25, "hole_p": 0.25}),
    "shifts by 4 pixels alone": Change(
        augmentation={"affine_p": 1, "shift_limit": 0.125, "scale_limit": 0, "rotate_limit": 0}
    ),
    "plain images at the end": Change(apply=end_on_plain_images),
    "16x16 hole": Change(augmentation={"hole_size": 16}),
    "mixup": Change(apply=mix_images),
    "alternating flips": Change(apply=alternate_flips),
    "He initialisation": Change(apply=initialise_by_fan_in),
    "whitened first layer": Change(apply=whiten_first_layer),
}


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Measure what each ingredient of the recipe is worth; see README.md.")
    add_data_flags(parser)
    parser.add_argument(
        "--epochs", metavar="N", type=number(int, at_least=1), default=8, help="of each run"
    )
    parser.add_argument(
        "--seeds", metavar="N", type=number(int, at_least=1), default=3, help="runs of each change"
    )
    parser.add_argument("--only", choices=CHANGES, help="this change, and no other")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("results"))
    add_device_flag(parser)
    args = parser.parse_args()
    artifacts.check_writable(args.out)
    return args


def main() -> None:
    args = parse_arguments()
    device = pick_device(args.device)
    data = sources.load(args.dataset, args.data_dir, holdout=HOLDOUT)
    keep_freed_memory()
    table = args.out / evidence.ABLATION
    for seed, name in product(range(args.seeds), [args.only] if args.only else CHANGES):
        rows = read_rows(table, AblationRow)
        finished = {(row.change, row.epochs, row.seed, row.dataset) for row in rows}
        if (name, args.epochs, seed, data.name) in finished:
            print(f"{name}, seed {seed}: has a row in {table} already", flush=True)
            continue
        recipe = Recipe(epochs=args.epochs, seed=seed, augment="device", **CHANGES[name].recipe)
        row = measure(name, recipe, data, device)
        rows = read_rows(table, AblationRow)  # anew: another ablation may have written it
        write_table(table, AblationRow, [*rows, row])
        print(f"{name}, seed {seed}: {row.val_acc:.2f} %", flush=True)


def measure(name: str, recipe: Recipe, data: ImageData, device: torch.device) -> AblationRow:
    """Trains the recipe with the change called `name`."""
    change = CHANGES[name]
    kept = dict(augment.AUGMENTATION)
    augment.AUGMENTATION.update(change.augmentation)
    try:
        batches = DeviceBatches(data, recipe, device)
        torch.manual_seed(recipe.seed)
        model = Net(len(data.classes)).to(device, memory_format=torch.channels_last)
        trainer = Trainer(model, device, data, recipe, recipe.epochs * len(batches))
        change.apply(trainer, batches)
        for epoch in range(1, recipe.epochs + 1):
            last = trainer.run_epoch(epoch, batches)
    finally:
        augment.AUGMENTATION.update(kept)
    return AblationRow(
        change=name,
        epochs=recipe.epochs,
        seed=recipe.seed,
        dataset=data.name,
        val_loss=last.val_loss,
        val_acc=last.val_acc,
        val_acc_flipped=flip_averaged_accuracy(trainer),
        train_loss=last.train_loss,
        device=describe(device),
        command=f"python {shlex.join(sys.argv)}",
    )


def flip_averaged_accuracy(trainer: Trainer) -> float:
    """In percent, of the logits' sum over each image and its mirror image."""
    logits = trainer._logits
    trainer._logits = lambda images: logits(images) + logits(images.flip(3))
    _, accuracy = trainer.evaluate()
    return accuracy


if __name__ == "__main__":
    run(main)
