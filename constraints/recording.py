"""A forward pass recorded as the list of its ATen operations.

Every way to write a layer ends there: a module, a functional call, a slice with a step.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from console.errors import UserError, described
from recipe import IMAGE_SIZE


class Step:
    """One operation.

    `op` is its name in ATen ("convolution", "max_pool2d_with_indices", "mean"), `module` the
    innermost module in whose forward it ran ("c2a.dw").
    """

    def __init__(self, func: Any, args: tuple, kwargs: dict[str, Any], result: Any, module: str):
        self.func, self.args, self.kwargs, self.module = func, args, kwargs, module
        self.op: str = func.overloadpacket.__name__
        self.inputs, self.outputs = tensors((args, kwargs)), tensors(result)
        self.is_in_place: bool = func._schema.is_mutable
        # the mean and the variance that a norm divides by count as constants
        self.is_norm = "norm" in self.op and self.outputs[0].shape == self.inputs[0].shape
        self.is_pointwise = torch.Tag.pointwise in func.tags

    def run(self, values: dict[int, Tensor]) -> list[Tensor]:
        """Runs it again, with `values` in place of the recorded tensors that have these ids."""
        args, kwargs = tree_map_only(
            Tensor, lambda tensor: values.get(id(tensor), tensor), (self.args, self.kwargs)
        )
        return tensors(self.func(*args, **kwargs))


class Recording(TorchDispatchMode):
    """The steps of a forward pass of `count` images with `size` pixels.

    It keeps all tensors, so that no two have the same id or memory. An exception in the forward
    pass ends it and becomes its `error`.

    Args:
        network: from `private_copy`, because its mode, hooks and buffers change.
    """

    def __init__(
        self, network: nn.Module, training: bool = False, size: int = IMAGE_SIZE, count: int = 2
    ):
        super().__init__()
        self.images = _a_parameter(network).new_ones(count, 3, size, size)
        self.steps: list[Step] = []
        self.logits, self.error = None, None
        self._running_modules = ["forward"]
        try:
            for name, module in network.named_modules():
                module.register_forward_pre_hook(self._enter(name or "forward"))
                module.register_forward_hook(self._leave)
            with torch.no_grad(), self:
                self.logits = network.train(training)(self.images)
        except Exception as error:  # whatever the user's code raises
            self.error = error

    def _enter(self, name: str):
        return lambda *_: self._running_modules.append(name)

    def _leave(self, *_) -> None:
        self._running_modules.pop()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports torch._dynamo, which takes seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.steps.append(Step(func, args, kwargs or {}, result, self._running_modules[-1]))
        return result

    def live_steps(self) -> list[Step]:
        """Those on which the logits depend; a branch whose output is thrown away is left out."""
        needed, live = {memory(self.logits)}, []
        for step in reversed(self.steps):
            if not needed.isdisjoint(map(memory, step.outputs)):
                needed.update(map(memory, step.inputs))
                live.append(step)
        return live[::-1]


def record(network: nn.Module, num_classes: int | None = None) -> list[Recording]:
    """Forward passes of 32x32 images through `private_copy`: in evaluation and in training mode.

    Raises:
        UserError: one of them, or that of a single image, fails or does not return logits
            (B, num_classes), or uses a parameter that `network.parameters()` lacks; or the
            backward pass fails; or a layer is lazy.
    """
    for name, parameter in network.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise UserError(
                f"the network has a lazy layer, and {name} has no shape yet; use a layer with a "
                "given input size, nn.Linear for example"
            )
    recordings = []
    for mode, count in (("evaluation", 2), ("training", 2), ("evaluation", 1)):
        recording = Recording(network, training=mode == "training", count=count)
        logits, error = recording.logits, recording.error
        shape = list(logits.shape) if isinstance(logits, Tensor) else []
        classes = num_classes or (shape[1] if len(shape) == 2 else "classes")
        found = ""
        if error:
            found = f"raises {described(error, __file__)}"
        elif shape != [count, classes]:
            found = f"returns a {type(logits).__name__} {shape or ''}"
        elif _are_probabilities(logits):
            found = "returns probabilities; leave out the softmax, which is part of the loss"
        if found:
            raise UserError(
                f"the network must turn images {list(recording.images.shape)} into logits "
                f"[{count}, {classes}], but in {mode} mode it {' '.join(found.split())[:300]}"
            )
        _check_registered(recording, network)
        recordings.append(recording)
    _check_backward(network, recordings[0].images)
    return recordings[:2]


def _are_probabilities(logits: Tensor) -> bool:
    sums = logits.sum(1)
    return bool((logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4))


def _check_backward(network: nn.Module, images: Tensor) -> None:
    """Raises UserError if gradients cannot be computed, as after some in-place operations."""
    try:
        with torch.enable_grad():
            logits = network.train()(images)
            if logits.requires_grad:
                logits.sum().backward()
    except Exception as error:  # whatever the user's code raises
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the backward pass of the network fails: {reason}") from error


def _check_registered(recording: Recording, network: nn.Module) -> None:
    """Raises UserError if a layer is used that `network.parameters()` does not know."""
    known = set(map(memory, network.parameters()))
    used = [x for step in recording.steps for x in step.inputs if isinstance(x, nn.Parameter)]
    for each in used:
        if memory(each) not in known:
            raise UserError(
                f"the network uses a parameter {list(each.shape)} that is not registered, so it "
                "would not be trained; make layers in __init__, and keep several of them in "
                "nn.Sequential or nn.ModuleList, not in a list"
            )


@contextmanager
def private_copy(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of `model` to experiment with; the state of random numbers is restored."""
    parameter, fused = _a_parameter(model), torch.backends.mha.get_fastpath_enabled()
    # deepcopy refuses a result with a gradient, which a module may have kept
    results = [x for module in model.modules() for x in tensors(vars(module)) if not x.is_leaf]
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # the fused operation has no gradient
        with (
            torch.random.fork_rng([parameter.device] if parameter.is_cuda else []),
            torch.backends.cudnn.flags(enabled=False),  # its fast algorithms round where 0 is due
        ):
            yield copy.deepcopy(model, {id(x): x.detach().clone() for x in results})
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _a_parameter(model: nn.Module) -> Tensor:
    return next(model.parameters(), torch.zeros(()))


def tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def memory(tensor: Tensor) -> int:
    """Identifies the memory that a tensor shares with its views."""
    return tensor.untyped_storage()._cdata
