"""What test_distributed.py runs in each of several processes: a step, then an epoch."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from data import load, training_batches
from model import build_network
from recipe import Recipe
from training.processes import ALONE, World, joined, this_process
from training.trainer import Trainer

CPU = torch.device("cpu")


def train(dataset: Path, augment: str, world: World = ALONE) -> dict:
    """Gradients of the first step (batch norm as in evaluation), weights after an epoch."""
    data = load(str(dataset))
    recipe = Recipe(epochs=1, batch_size=37, augment=augment)  # 96 = 37 + 37 + 22
    torch.manual_seed(0)
    net = build_network(num_classes=len(data.classes), width=0.3)
    batches = training_batches(data, recipe, CPU, workers=0)
    trainer = Trainer(net, data, recipe, CPU, world=world)
    net.eval()
    images, labels = next(batches.epoch(1, world.share))
    trainer.train_step(images, labels)
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    trainer = Trainer(net, data, recipe, CPU, world=world)
    row = trainer.run_epoch(1, batches)
    return {
        "gradients": gradients,
        "weights": [parameter.detach() for parameter in net.parameters()],
        "evaluated": [row.test_loss, row.test_acc],
        "images": torch.cat([images for images, _ in batches.epoch(1, world.share)]),
    }


if __name__ == "__main__":
    dataset, out, augment = sys.argv[1:]
    world = this_process()
    with joined(world, CPU):
        torch.save(train(Path(dataset), augment, world), Path(out) / f"{world.rank}.pt")
