"""A forward pass recorded as the list of its ATen operations.

Every way to write a layer ends there: a module, a functional call, a slice with a step.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from recipe import IMAGE_SIZE


@dataclass(frozen=True, eq=False)
class Step:
    """One operation. `module` is the innermost module in whose forward it ran ("c2a.dw")."""

    func: Any
    args: tuple
    kwargs: dict[str, Any]
    result: Any
    module: str

    @property
    def op(self) -> str:
        """Its name in ATen: "convolution", "max_pool2d_with_indices", "mean"."""
        return self.func.overloadpacket.__name__

    @property
    def inputs(self) -> list[Tensor]:
        return tensors((self.args, self.kwargs))

    @property
    def outputs(self) -> list[Tensor]:
        return tensors(self.result)

    @property
    def is_in_place(self) -> bool:
        return self.func._schema.is_mutable

    @property
    def is_norm(self) -> bool:
        """Whether it normalises. Mean and variance, which it divides by, count as constants."""
        return "norm" in self.op and self.outputs[0].shape == self.inputs[0].shape

    def run(self, values: dict[int, Tensor]) -> list[Tensor]:
        """Runs it again, with `values` in place of the recorded tensors that have these ids."""
        args, kwargs = tree_map_only(
            Tensor, lambda tensor: values.get(id(tensor), tensor), (self.args, self.kwargs)
        )
        return tensors(self.func(*args, **kwargs))


class Recording(TorchDispatchMode):
    """The steps of a forward pass of `model`.

    All tensors are kept, so that no two have the same id or memory. An exception in the forward
    pass ends the recording and becomes its `error`.

    Args:
        model: from `private_copy`, because its mode and its buffers change.
        size: height and width of the images.
    """

    def __init__(self, model: nn.Module, training: bool = False, size: int = IMAGE_SIZE):
        super().__init__()
        self.images = _a_parameter(model).new_ones(2, 3, size, size)
        self.steps: list[Step] = []
        self.logits: Any = None
        self.error: Exception | None = None
        self._running_modules = ["forward"]
        try:
            with torch.no_grad(), self._names_of(model.train(training)), self:
                self.logits = model(self.images)
        except Exception as error:  # whatever the user's code raises
            self.error = error

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports torch._dynamo, which takes seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.steps.append(Step(func, args, kwargs, result, self._running_modules[-1]))
        return result

    @contextmanager
    def _names_of(self, model: nn.Module) -> Iterator[None]:
        """Keeps the name of the running module of `model` in `_running_modules[-1]`."""

        def enter(name: str):
            return lambda *_: self._running_modules.append(name)

        def leave(*_) -> None:
            self._running_modules.pop()

        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(name or "forward")))
            handles.append(module.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def is_live(self) -> list[bool]:
        """For every step, whether the logits depend on it."""
        needed, live = {memory(self.logits)}, []
        for step in reversed(self.steps):
            live.append(not needed.isdisjoint(map(memory, step.outputs)))
            if live[-1]:
                needed.update(map(memory, step.inputs))
        return live[::-1]

    def signature(self) -> list[tuple]:
        """What ran, to tell whether another forward pass ran the same."""
        steps = zip(self.steps, self.is_live(), strict=True)
        return [
            (step.op, step.module, [x.shape for x in step.outputs]) for step, live in steps if live
        ]


@contextmanager
def private_copy(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of `model` to experiment with; the state of random numbers is restored."""
    parameter = _a_parameter(model)
    fused_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused operation has no gradient
    try:
        with (
            torch.random.fork_rng([parameter.device] if parameter.is_cuda else []),
            torch.backends.cudnn.flags(enabled=False),  # its fast algorithms round where 0 is due
        ):
            yield copy.deepcopy(model, _detached_results(model))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_attention)


def _detached_results(model: nn.Module) -> dict[int, Tensor]:
    """Copies of tensors with a gradient history that modules keep, which deepcopy cannot copy."""
    kept = [value for module in model.modules() for value in tensors(vars(module))]
    return {id(x): x.detach().clone() for x in kept if not x.is_leaf}


def _a_parameter(model: nn.Module) -> Tensor:
    return next(model.parameters(), torch.zeros(()))


def tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def memory(tensor: Tensor) -> int:
    """Identifies the memory that a tensor shares with its views."""
    return tensor.untyped_storage()._cdata
