"""A forward pass recorded as the list of its ATen operations.

Every way to write a layer ends there: a module, a functional call, a slice with a step.
"""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from recipe import IMAGE_SIZE


@dataclass(eq=False)
class Step:
    """One operation.

    `op` is its name in ATen ("convolution", "max_pool2d_with_indices", "mean"), `arguments` are
    named as in its schema, `module` is the innermost module in whose forward it ran ("c2a.dw").
    """

    op: str
    arguments: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    module: str
    is_in_place: bool


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.steps: list[Step] = []
        self.running = ["forward"]  # the modules in whose forward an operation runs

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports torch._dynamo, which takes seconds

    def leave(self, *_) -> None:
        self.running.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        names = (argument.name for argument in func._schema.arguments)
        self.steps.append(
            Step(
                func.overloadpacket.__name__,
                dict(zip(names, args, strict=False)) | (kwargs or {}),
                tensors([args, kwargs]),
                tensors(result),
                self.running[-1],
                func._schema.is_mutable,
            )
        )
        return result


def record(
    network: nn.Module, images: Tensor, parameters: dict[str, Tensor]
) -> tuple[Any, list[Step]]:
    """What `network` returns for `images`, and the steps on which that depends.

    A branch whose output is thrown away is left out. All tensors are kept in the steps, so that no
    two have the same memory, and all have their gradient's graph.

    Args:
        parameters: used in place of those of `network`, by name.
    """
    recorder, hooks = _Recorder(), []
    for name, module in network.named_modules():
        enter = partial(lambda name, *_: recorder.running.append(name), name or "forward")
        hooks += (
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(recorder.leave),
        )
    with torch.enable_grad(), recorder:
        logits = functional_call(network, parameters, images)
    for hook in hooks:
        hook.remove()
    needed, live = set(map(memory, tensors(logits))), []
    for step in reversed(recorder.steps):
        if not needed.isdisjoint(map(memory, step.outputs)):
            needed.update(map(memory, step.inputs))
            live.append(step)
    return logits, live[::-1]


def private_copy(network: nn.Module) -> nn.Module:
    """A copy on the CPU, to experiment with."""
    # deepcopy refuses a result with a gradient, which a module may have kept
    kept = [x for module in network.modules() for x in tensors(vars(module)) if not x.is_leaf]
    return copy.deepcopy(network, {id(x): x.detach().clone() for x in kept}).cpu()


def random_images(network: nn.Module, count: int, size: int = IMAGE_SIZE) -> Tensor:
    """(count, 3, size, size), of the type of the parameters."""
    dtype = next((x.dtype for x in network.parameters()), torch.float32)
    return torch.rand(count, 3, size, size, dtype=dtype)


def tensors(values: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (list, tuple)):
        return []
    return [tensor for value in values for tensor in tensors(value)]


def memory(tensor: Tensor) -> int:
    """Identifies the memory that a tensor shares with its views."""
    return tensor.untyped_storage()._cdata
