"""A forward pass recorded as the list of its ATen operations, and what is known of a layer in it.

Every way to write a layer ends there: a module, a functional call, a slice with a step.
"""

import copy
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from recipe import IMAGE_SIZE

Pair = tuple[int, int]  # of (height, width)
AVERAGES = ("mean", "sum", "avg_pool2d", "_adaptive_avg_pool2d")


@dataclass(eq=False)
class Step:
    """One operation.

    `op` is its name in ATen ("convolution", "max_pool2d_with_indices", "mean"), `arguments` are
    named as in its schema, `module` is the innermost module in whose forward it ran ("c2a.dw"),
    `block` is the number of its block, 1 to 4.
    """

    op: str
    arguments: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    module: str
    is_in_place: bool
    block: int = 0


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


class MapState(NamedTuple):
    """A feature map: the receptive field of a position, the distance to the next one's, its size.

    Field and distance are in pixels.
    """

    rf: Pair
    jump: Pair
    size: Pair


@dataclass
class Layer:
    """A matrix product or convolution on a map, or what mixes or removes positions of a map.

    `source` is the map that it gets.
    """

    step: Step = field(compare=False, repr=False)
    source: Tensor = field(compare=False, repr=False)
    name: str
    op: str
    kernel: Pair
    stride: Pair
    dilation: Pair
    before: MapState
    after: MapState
    mixes: bool  # its results depend on several positions
    is_learned: bool  # its weights, if any, are or are computed from parameters

    def __str__(self) -> str:
        return self.name if self.is_convolution else f"{self.name} ({self.op})"

    @property
    def is_convolution(self) -> bool:
        return self.op == "convolution"

    @property
    def block(self) -> int:
        return self.step.block

    @property
    def has_map(self) -> bool:
        """Whether its result is a map; if not, it pools."""
        return self.is_convolution or 1 not in self.after.size

    @property
    def is_spatial(self) -> bool:
        return self.kernel != (1, 1)

    @property
    def groups(self) -> int:
        return self.step.arguments["groups"] if self.is_convolution else 1

    @property
    def is_depthwise(self) -> bool:
        return self.is_spatial and self.groups == self.source.shape[1] > 1

    @property
    def is_product(self) -> bool:
        return self.is_convolution or self.op in ("mm", "addmm")

    @property
    def is_pointwise(self) -> bool:
        return self.is_product and not self.is_spatial and self.groups == 1

    @property
    def is_maximum(self) -> bool:
        """Whether it takes a maximum (or minimum) over positions, not only over channels."""
        return self.mixes and bool(re.search("(?<!soft)(?<!arg)(max|min)", self.op))

    @property
    def is_dilated(self) -> bool:
        return any(k > 1 and d > 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def is_strided(self) -> bool:
        """Whether it is a 3x3 stride-2 convolution; one with fixed weights is a pooling."""
        is_3x3 = self.is_convolution and (self.kernel, self.stride) == ((3, 3), (2, 2))
        return is_3x3 and self.is_learned

    @property
    def downsamples(self) -> bool:
        return self.stride != (1, 1) and not self.pools_globally

    @property
    def crops(self) -> bool:
        """Whether it is a convolution without a stride that is padded by less than its extent."""
        shrinks = any(b > a for b, a in zip(self.before.size, self.after.size, strict=True))
        return self.is_convolution and shrinks and not self.downsamples

    @property
    def pools_globally(self) -> bool:
        """Whether it leaves one row or column of a map; a convolution that does is no pooling.

        After such a convolution, a pooling of one position is one.
        """
        was_map = 1 not in self.before.size or self.before.size == (1, 1)
        return 1 in self.after.size and was_map and not self.is_convolution
