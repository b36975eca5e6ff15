"""What test_distributed.py runs in each of several processes: a step, then an epoch."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import sources
import torch
from distributed import ALONE, Ranks, joined, this_process
from trainer import Trainer

from data import training_batches
from model import Net
from recipe import Recipe

CPU = torch.device("cpu")


def train(dataset: Path, augment: str, ranks: Ranks = ALONE) -> dict:
    """Gradients of the first step (batch norm as in evaluation), weights after an epoch."""
    data = sources.load(str(dataset))
    recipe = Recipe(epochs=1, batch_size=37, augment=augment)  # 96 = 37 + 37 + 22
    torch.manual_seed(0)
    net = Net(len(data.classes), width=0.3)
    batches = training_batches(data, recipe, CPU, workers=0, ranks=ranks)
    trainer = Trainer(net, CPU, data, recipe, len(batches), ranks=ranks)
    net.eval()
    images, labels = next(batches.epoch(1))
    trainer.step(images, labels)
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    trainer = Trainer(net, CPU, data, recipe, len(batches), ranks=ranks)
    row = trainer.run_epoch(1, batches)
    return {
        "gradients": gradients,
        "weights": [parameter.detach() for parameter in net.parameters()],
        "evaluated": [row.test_loss, row.test_acc],
        "images": torch.cat([images for images, _ in batches.epoch(1)]),
    }


if __name__ == "__main__":
    dataset, out, augment = sys.argv[1:]
    ranks = this_process()
    with joined(ranks, CPU):
        torch.save(train(Path(dataset), augment, ranks), Path(out) / f"{ranks.rank}.pt")
