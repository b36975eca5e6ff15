"""What a network is made of, read from a forward pass: receptive-field tally and constraints.

`trace` runs one image through any network for (B, 3, 32, 32) images and records what every
operation does to the feature map, functional calls (`F.max_pool2d` in a `forward`, a slice with
a step) included. The tally and the checks are computed from that record, never from a table
written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from model import IMAGE_SIZE, count_parameters

MAX_PARAMETERS = 200_000
MIN_RECEPTIVE_FIELD = 44


@dataclass(frozen=True)
class Layer:
    """One operation on a feature map, with the receptive field (pixels) before and after it.

    `op` is ATen's name of it ("convolution", "max_pool2d_with_indices", "mean" ...), `name` the
    module in whose forward it ran ("c2a.dw"). Sizes are (height, width), (1, 1) if pooled away.
    """

    name: str
    op: str
    kernel: int
    stride: int
    dilation: int
    groups: int
    in_channels: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    rf_in: int
    rf_out: int
    jump_in: int
    jump_out: int

    def __str__(self) -> str:
        return self.name if self.is_convolution else f"{self.name} ({self.op})"

    @property
    def block(self) -> str:
        """ "c4" for the module "c4a.dw"; "" outside of the numbered blocks."""
        match = re.match(r"c\d+", self.name)
        return match.group() if match else ""

    @property
    def is_convolution(self) -> bool:
        return self.op == "convolution"

    @property
    def is_depthwise(self) -> bool:
        return self.is_convolution and self.kernel > 1 and self.groups == self.in_channels > 1

    @property
    def is_pointwise(self) -> bool:
        return self.is_convolution and self.kernel == 1 and self.groups == 1

    @property
    def is_global_pooling(self) -> bool:
        return self.out_size == (1, 1) != self.in_size

    @property
    def downsamples(self) -> bool:
        shrinks = any(out < size for out, size in zip(self.out_size, self.in_size, strict=True))
        return self.stride > 1 or (shrinks and not self.is_convolution)


def trace(model: nn.Module) -> list[Layer]:
    """The convolutions, poolings and resizings that one 32x32 RGB image meets in `model`."""
    was_training = model.training
    images = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE, device=next(model.parameters()).device)
    recorder = _Recorder(images)
    with torch.no_grad(), recorder.watching(model.eval()), recorder:
        model(images)
    model.train(was_training)
    return recorder.layers


class _Recorder(TorchDispatchMode):
    """Sees every ATen operation and follows the receptive field from tensor to tensor.

    RF_out = RF_in + (k-1) * d * jump_in and jump_out = jump_in * stride, from RF 1, jump 1
    (Araujo, Norris, Sim: "Computing Receptive Fields of Convolutional Neural Networks",
    Distill 2019). Where branches meet, the larger field and jump hold.
    """

    def __init__(self, images: Tensor):
        super().__init__()
        self.layers: list[Layer] = []
        self.running_modules = ["forward"]
        self.field_of = {id(images): (1, 1)}
        self.alive = [images]  # an id is a tensor's own only while the tensor lives

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """While it lasts, the innermost module of `model` that runs is `running_modules[-1]`."""

        def enter(name: str):
            return lambda *_: self.running_modules.append(name)

        def leave(*_) -> None:
            self.running_modules.pop()

        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(name or "forward")))
            handles.append(module.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        inputs = [tensor for tensor in _tensors(args) if id(tensor) in self.field_of]
        outputs = list(_tensors([result]))
        if inputs and outputs:
            op = func.overloadpacket.__name__
            kernel, stride, dilation, groups = _geometry(op, args)
            fields, jumps = zip(*(self.field_of[id(tensor)] for tensor in inputs), strict=True)
            rf_in, jump_in = max(fields), max(jumps)
            rf_out, jump_out = rf_in + (kernel - 1) * dilation * jump_in, jump_in * stride
            for tensor in outputs:
                self.field_of[id(tensor)] = rf_out, jump_out
                self.alive.append(tensor)
            if op == "convolution" or "pool" in op or _is_resized(inputs[0], outputs[0]):
                self.layers.append(
                    Layer(
                        name=self.running_modules[-1],
                        op=op,
                        kernel=kernel,
                        stride=stride,
                        dilation=dilation,
                        groups=groups,
                        in_channels=inputs[0].shape[1],
                        in_size=_size(inputs[0]),
                        out_size=_size(outputs[0]),
                        rf_in=rf_in,
                        rf_out=rf_out,
                        jump_in=jump_in,
                        jump_out=jump_out,
                    )
                )
        return result


def _tensors(values: Iterable) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _size(tensor: Tensor) -> tuple[int, int]:
    return (tensor.shape[2], tensor.shape[3]) if tensor.dim() == 4 else (1, 1)


def _is_resized(before: Tensor, out: Tensor) -> bool:
    """Whether a feature map came out with another height or width (a flatten does not count)."""
    if before.dim() != 4 or _size(before) == _size(out):
        return False
    return out.dim() == 4 or out.numel() < before.numel()


def _geometry(op: str, args: tuple) -> tuple[int, int, int, int]:
    """kernel, stride, dilation (of the larger side), groups, from ATen's positional arguments."""
    if op == "convolution":  # input, weight, bias, stride, padding, dilation, transposed, _, groups
        return max(args[1].shape[2:]), max(args[3]), max(args[5]), args[8]
    if op in ("max_pool2d_with_indices", "avg_pool2d"):  # input, kernel, stride, padding, dilation
        kernel = max(args[1])
        stride = max(args[2]) if len(args) > 2 and args[2] else kernel
        dilation = max(args[4]) if op.startswith("max") and len(args) > 4 else 1
        return kernel, stride, dilation, 1
    return 1, 1, 1, 1


def tally(layers: list[Layer]) -> list[Layer]:
    """The layers that make the receptive field: all but the global pooling."""
    return [layer for layer in layers if not layer.is_global_pooling]


def receptive_field(layers: list[Layer]) -> int:
    """Receptive field, in pixels, of one place of the feature map before the global pooling."""
    return max((layer.rf_out for layer in tally(layers)), default=1)


def tally_markdown(model: nn.Module) -> str:
    """The receptive-field tally of `model` as a Markdown table, a row a layer."""
    rows = [
        "| layer | k | s | d | RF in | RF out | jump in | jump out |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for x in tally(trace(model)):
        figures = (x.kernel, x.stride, x.dilation, x.rf_in, x.rf_out, x.jump_in, x.jump_out)
        rows.append(f"| {x} | {' | '.join(map(str, figures))} |")
    return "\n".join(rows)


@dataclass(frozen=True)
class Check:
    """One constraint of the assignment, as found in a network."""

    constraint: str
    passed: bool
    found: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.constraint}: {self.found}"


def check(model: nn.Module) -> list[Check]:
    """Measures every constraint of the assignment on `model` as it is."""
    layers = trace(model)
    convolutions = [x for x in layers if x.is_convolution]
    max_pools = [x for x in layers if "max" in x.op]
    strided = [x for x in convolutions if x.kernel == 3 and x.stride == 2]
    global_pools = [x for x in layers if x.is_global_pooling]
    otherwise_smaller = [
        x for x in layers if x.downsamples and x not in strided and x not in global_pools
    ]
    separable = [a for a, b in pairwise(convolutions) if a.is_depthwise and b.is_pointwise]
    depthwise_in_c1 = [x for x in convolutions if x.is_depthwise and x.block == "c1"]
    dilated = [x for x in convolutions if x.dilation > 1]
    averages = [x for x in global_pools if x.op in ("mean", "avg_pool2d")]
    parameters = count_parameters(model)
    field = receptive_field(layers)
    return [
        Check("no max-pooling", not max_pools, _listed(max_pools)),
        Check(
            "exactly three 3x3 stride-2 convolutions and no other downsampling",
            len(strided) == 3 and not otherwise_smaller,
            f"{_listed(strided)}; other: {_listed(otherwise_smaller)}",
        ),
        Check(
            "depthwise-separable convolutions, none in C1",
            bool(separable) and not depthwise_in_c1,
            f"{_listed(separable)}; in C1: {_listed(depthwise_in_c1)}",
        ),
        Check(
            "dilation in C4 and nowhere else",
            bool(dilated) and all(x.block == "c4" for x in dilated),
            _listed(dilated),
        ),
        Check(
            "global average pooling", len(averages) == len(global_pools) == 1, _listed(global_pools)
        ),
        Check(
            f"under {MAX_PARAMETERS:,} parameters", parameters < MAX_PARAMETERS, f"{parameters:,}"
        ),
        Check(
            f"receptive field over {MIN_RECEPTIVE_FIELD}", field > MIN_RECEPTIVE_FIELD, str(field)
        ),
    ]


def _listed(layers: list[Layer]) -> str:
    return ", ".join(map(str, layers)) or "none"
