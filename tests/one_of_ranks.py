"""What test_distributed.py runs in each of several processes: a step, then an epoch."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from data import evaluation_batches, load, training_batches
from model import Normalised, build_network
from recipe import Recipe
from training.engine import TrainingStep, evaluate, train_one_epoch
from training.losses import make_loss
from training.optimizers import make_optimizers, make_schedules
from training.processes import ALONE, World

CPU = torch.device("cpu")


def train(dataset: Path, augment: str, world: World = ALONE) -> dict:
    """Gradients of the first step (batch norm as in evaluation), weights after an epoch."""
    data = load(str(dataset))
    recipe = Recipe(epochs=1, batch_size=37, augment=augment)  # 96 = 37 + 37 + 22
    torch.manual_seed(0)
    net = build_network(num_classes=len(data.classes), width=0.3)
    forward = Normalised(net, data.mean, data.std)
    batches = training_batches(data, recipe, CPU, share=world.share)
    usual, drawn = make_loss(recipe), []

    def loss(*args) -> Tensor:
        drawn.append(torch.rand(()).item())  # as dropout does
        return usual(*args)

    def make_step(loss) -> TrainingStep:
        optimizers = make_optimizers(net, recipe)
        schedules = make_schedules(optimizers, recipe, batches.steps)
        return TrainingStep(forward, loss, optimizers, schedules, world=world)

    step = make_step(usual)
    net.eval()
    step(*next(batches.epoch(1)))
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    torch.manual_seed(world.rank)
    train_one_epoch(make_step(loss), batches.epoch(1), recipe.batch_size)
    evaluated = evaluate(forward, evaluation_batches(data, CPU, world.share), world)
    return {
        "gradients": gradients,
        "weights": [parameter.detach() for parameter in net.parameters()],
        "evaluated": [evaluated.loss, evaluated.accuracy, evaluated.images],
        "images": torch.cat([images for images, *_ in batches.epoch(1)]),
        "drawn": drawn,
    }


def save(dataset: Path, augment: str, out: Path, place: dict[str, str]) -> None:
    """Trains as one of several processes, at `place` of them; leaves what `train` returns."""
    os.environ.update(place)
    world = World.from_torchrun()
    world.join(CPU)
    torch.save(train(dataset, augment, world), out / f"{world.rank}.pt")
    world.wait_for_all()
    os._exit(0)
