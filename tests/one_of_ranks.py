"""What test_distributed.py runs in each of several processes: a step, then an epoch."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from data import load, training_batches
from model import build_network
from recipe import Recipe
from training.processes import ALONE, World, join, this_process
from training.trainer import Trainer, cross_entropy

CPU = torch.device("cpu")


def train(dataset: Path, augment: str, world: World = ALONE) -> dict:
    """Gradients of the first step (batch norm as in evaluation), weights after an epoch."""
    data = load(str(dataset))
    recipe = Recipe(epochs=1, batch_size=37, augment=augment)  # 96 = 37 + 37 + 22
    torch.manual_seed(0)
    net = build_network(num_classes=len(data.classes), width=0.3)
    batches = training_batches(data, recipe, CPU, workers=0)
    drawn = []

    def loss(*args) -> tuple[Tensor, Tensor]:
        drawn.append(torch.rand(()).item())  # as dropout does
        return cross_entropy(*args)

    trainer = Trainer(net, data, recipe, CPU, world=world)
    net.eval()
    images, labels = next(batches.epoch(1, world.share))
    trainer.train_step(images, labels)
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    trainer = Trainer(net, data, recipe, CPU, world=world, loss=loss)
    row = trainer.run_epoch(1, batches)
    return {
        "gradients": gradients,
        "weights": [parameter.detach() for parameter in net.parameters()],
        "evaluated": [row.test_loss, row.test_acc],
        "images": torch.cat([images for images, _ in batches.epoch(1, world.share)]),
        "drawn": drawn,
    }


def save(dataset: Path, augment: str, out: Path, place: dict[str, str]) -> None:
    """Trains as one of several processes, at `place` of them; leaves what `train` returns."""
    os.environ.update(place)
    world = this_process()
    join(world, CPU)
    torch.save(train(dataset, augment, world), out / f"{world.rank}.pt")
    world.wait_for_all()
    os._exit(0)
