"""Which learning rate: the loss while the rate rises from step to step, until it no longer falls.

The range test of Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017; the
smoothing is an exponential moving average without the bias of its start.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice, pairwise
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

import plots
from data import DeviceBatches, HostBatches
from trainer import Trainer

LOWEST, HIGHEST = 1e-7, 1e-1  # --lr, per image of a batch
STEPS = 200
SMOOTHING = 0.95
BEYOND_HOPE = 1.5  # times the lowest loss so far


def find_lr(trainer: Trainer, batches: HostBatches | DeviceBatches, path: Path) -> float:
    """Draws the loss against --lr at `path`; returns the rate at which it fell fastest.

    The network is spoilt by it.
    """
    growth = (HIGHEST / LOWEST) ** (1 / (STEPS - 1))
    trainer.schedules = [
        LambdaLR(optimizer, lambda step: growth**step * LOWEST / trainer.recipe.lr)
        for optimizer in trainer.optimizers
    ]
    rates, losses, average = [], [], 0.0
    trainer.model.train()
    for step, (images, labels) in enumerate(islice(endless(batches), STEPS)):
        loss = F.cross_entropy(trainer.step(images, labels), labels).item()
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smooth = average / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(loss) or (losses and smooth > BEYOND_HOPE * min(losses)):
            break
        rates.append(LOWEST * growth**step)
        losses.append(smooth)
    falls = [before - after for before, after in pairwise(losses)]
    steepest = rates[falls.index(max(falls))] if falls else LOWEST
    plots.draw_range_test(rates, losses, steepest, path)
    return steepest


def endless(batches: HostBatches | DeviceBatches) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in count(1):
        yield from batches.epoch(epoch)
