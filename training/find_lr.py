"""The learning-rate finder: the loss while the learning rate rises exponentially.

The range test of Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017. The
loss is smoothed by an exponential moving average with bias correction.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch.optim.lr_scheduler import LambdaLR

from console.errors import UserError
from recipe import Recipe
from training.engine import Batch, TrainingStep

LOWEST, HIGHEST = 1e-7, 1e-1  # --lr, per image of a batch
STEPS = 200
GROWTH = (HIGHEST / LOWEST) ** (1 / (STEPS - 1))
SMOOTHING = 0.95
SETTLED = round(1 / (1 - SMOOTHING))  # steps, until the average is one of many losses
STOP_ABOVE = 1.5  # times the lowest loss so far


class RangeTest(NamedTuple):
    """The result of `find_lr`."""

    rates: list[float]  # values of --lr
    losses: list[float]  # smoothed cross-entropy at each
    steepest: float  # the rate at which the loss fell fastest


def find_lr(step: TrainingStep, batches: Iterable[Batch], recipe: Recipe) -> RangeTest:
    """Takes STEPS steps from LOWEST to HIGHEST, in place of the step's schedules; prints progress.

    Raises:
        UserError: the loss rises or is NaN from the start.
    """

    def share_of_peak(number: int) -> float:
        return GROWTH**number * LOWEST / recipe.lr_per_image

    step.schedules = [LambdaLR(optimizer, share_of_peak) for optimizer in step.optimizers]
    step.forward.train()
    rates, losses, average = [], [], 0.0
    for number, (images, labels, batch_size) in enumerate(islice(batches, STEPS)):
        rate = recipe.lr_per_image * share_of_peak(number)
        loss = F.cross_entropy(step(images, labels, batch_size), labels).item()
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smooth = average / (1 - SMOOTHING ** (number + 1))
        if not math.isfinite(loss) or (losses and smooth > STOP_ABOVE * min(losses)):
            break
        rates.append(rate)
        losses.append(smooth)
        if len(rates) % 20 == 0:
            print(f"step {len(rates):>3}: --lr {rates[-1]:.1e}, loss {smooth:.4f}", flush=True)
    if len(losses) < SETTLED + 2:
        raise UserError(
            f"the loss rose or became NaN in the first {len(losses) + 1} steps, at a learning rate "
            f"of nearly zero (--lr {rate:.1g}); look for the cause in the network or the images"
        )
    return RangeTest(rates, losses, find_steepest(rates, losses))


def find_steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate at which the smoothed loss fell fastest, of SETTLED + 2 rates or more."""
    falls = [before - after for before, after in pairwise(losses)]
    return rates[max(range(SETTLED, len(falls)), key=falls.__getitem__)]
