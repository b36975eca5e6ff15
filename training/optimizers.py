"""The optimizers, Muon and SGD, and the schedule of their learning rate."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from recipe import Recipe

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the Newton-Schulz iteration, from Jordan's Muon
ITERATIONS = 5


def make_optimizers(network: nn.Module, recipe: Recipe) -> list[Optimizer]:
    """Muon for the filters of dense and pointwise convolutions, SGD for all other parameters.

    Both have the same peak of the learning rate, and shrink weights equally fast. A depthwise
    filter is not for Muon: it sees one channel only, so there is no matrix to orthogonalise.
    """
    dense = (m for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups == 1)
    # layers may share a weight, and weight_norm computes it from other parameters
    filters = list({m.weight: None for m in dense if isinstance(m.weight, nn.Parameter)})
    rest = [p for p in network.parameters() if not any(p is weight for weight in filters)]
    peak, decay, momentum = recipe.peak_lr, recipe.weight_decay, recipe.momentum
    optimizers = []
    if filters:  # SGD's decay goes through its momentum, which amplifies it by 1 / (1 - momentum)
        optimizers.append(Muon(filters, peak, decay / (1 - momentum), recipe.muon_momentum))
    if rest:
        optimizers.append(
            torch.optim.SGD(
                rest, peak, momentum=momentum, nesterov=momentum > 0, weight_decay=decay, fused=True
            )
        )
    return optimizers


def make_schedules(optimizers: Sequence[Optimizer], recipe: Recipe, steps: int) -> list[LambdaLR]:
    """A schedule for each optimizer, over all `steps` of a run; its learning rate is the peak."""

    def share_of_peak(step: int) -> float:
        """Rises to 1 over the first `warmup` of the steps and falls to 0 over the rest, linearly.

        No step has a rate of zero.
        """
        rising = steps * recipe.warmup
        return min(1, (step + 1) / rising, (steps - step) / (steps - rising))

    return [LambdaLR(optimizer, share_of_peak) for optimizer in optimizers]


class Muon(Optimizer):
    """Steps along the nearest orthogonal matrix to a filter bank's momentum.

    After Keller Jordan's Muon (https://kellerjordan.github.io/posts/muon/). `torch.optim.Muon`
    takes matrices only, and rounds them to bfloat16, which is slow on a CPU without instructions
    for it; here they stay in float32.

    For weights (out, in, h, w), each taken as a matrix with a row per filter.

    The momentum is Nesterov's. Weight decay is decoupled from the gradient: a step shrinks weights
    by lr * weight_decay.
    """

    def __init__(
        self, weights: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95
    ):
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["average"] = torch.zeros_like(weight)
                average = state["average"]
                average.lerp_(weight.grad, 1 - group["momentum"])
                direction = orthogonalise(weight.grad.lerp(average, group["momentum"]).flatten(1))
                rows, columns = direction.shape
                step_size = group["lr"] * math.sqrt(max(1, rows / columns))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(direction.view_as(weight), alpha=step_size)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Nearly the nearest (semi-)orthogonal matrix.

    Singular values above 0.2 % of the matrix's Frobenius norm become 0.68 to 1.20, smaller ones
    stay below.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
