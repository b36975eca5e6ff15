"""Optimizers and the schedule of the learning rate."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from recipe import Recipe
from training.muon import Muon


def make_optimizers(network: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
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


class JointOptimizer:
    """Several optimizers as one, for `torch.amp.GradScaler`.

    GradScaler decides for each optimizer it is given whether to step. If a gradient of any of
    these overflows in float16, none of them steps.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]):
        self.optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> bool:
        """Steps all of them and returns True; for a skipped step, GradScaler.step returns None."""
        for optimizer in self.optimizers:
            optimizer.step()
        return True


def restore(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Loads the state `saved` into `optimizer`, which has taken no step.

    Before the call, each parameter that is trained must have a gradient. The call changes the
    parameters, so load the weights afterwards.

    Raises:
        ValueError: `saved` has other settings or tensors of other shapes, or is not finite.
            Optimizers raise other errors for content that is no state at all.
    """
    optimizer.step()  # after which it has a state, to compare `saved` with
    expected = tree_map(_described, optimizer.state_dict())
    optimizer.load_state_dict(saved)
    restored = tree_map(_described, optimizer.state_dict())
    for group in (*expected["param_groups"], *restored["param_groups"]):
        del group["lr"]  # which follows the schedule
    if restored != expected:
        raise ValueError("an optimizer's state that does not fit the network")


def _described(value: Any) -> Any:
    return (value.shape, value.isfinite().all().item()) if isinstance(value, Tensor) else value


def linear_schedule(step: int, steps: int, recipe: Recipe) -> float:
    """The learning rate of a step, as a share of its peak.

    It rises to 1 over the first `recipe.warmup` of all `steps` and falls towards 0 over the rest,
    both linearly. No step has a rate of zero.
    """
    rising = steps * recipe.warmup
    return min(1, (step + 1) / rising, (steps - step) / (steps - rising))
