"""The trace of a forward pass, and the receptive-field tally computed from it.

`trace` runs one image through any network for (B, 3, 32, 32) images and records what every
operation does to the feature map, including functional calls such as `F.max_pool2d` or a slice
with a step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from recipe import IMAGE_SIZE

AVERAGES = ("mean", "avg_pool2d", "_adaptive_avg_pool2d")  # ATen's names


Pair = tuple[int, int]  # of (height, width)
Geometry = tuple[Pair, Pair, Pair, int]  # kernel, stride, dilation, groups
POINTWISE = ((1, 1), (1, 1), (1, 1), 1)


@dataclass(frozen=True)
class Field:
    """The receptive field of one position of a feature map in pixels, and the map's size."""

    rf: Pair  # receptive field
    jump: Pair  # distance between the receptive fields of neighbouring positions
    size: Pair  # of the last map, kept while it is reshaped
    averaged: bool = False  # over all positions

    @classmethod
    def of(cls, fields: list[Field]) -> Field:
        """The field where branches meet: the larger one; averaged if every branch is."""
        return cls(
            _larger(*(field.rf for field in fields)),
            _larger(*(field.jump for field in fields)),
            _larger(*(field.size for field in fields)),
            all(field.averaged for field in fields),
        )


@dataclass(frozen=True)
class Layer:
    """One operation on a feature map, with the receptive field before and after it.

    `op` is its name in ATen ("convolution", "max_pool2d_with_indices", "mean"), `name` the module
    in whose forward it ran ("c2a.dw").
    """

    name: str
    op: str
    kernel: Pair
    stride: Pair
    dilation: Pair
    groups: int
    in_channels: int
    before: Field
    after: Field

    def __str__(self) -> str:
        return self.name if self.is_convolution else f"{self.name} ({self.op})"

    @property
    def block(self) -> str:
        """ "c4" for the module "c4a.dw"; "" outside of the numbered blocks."""
        match = re.search(r"(?:^|\.)(c\d+)", self.name)
        return match.group(1) if match else ""

    @property
    def is_convolution(self) -> bool:
        return self.op == "convolution"

    @property
    def is_depthwise(self) -> bool:
        return self.is_convolution and self.kernel > (1, 1) and self.groups == self.in_channels > 1

    @property
    def is_pointwise(self) -> bool:
        return self.is_convolution and self.kernel == (1, 1) and self.groups == 1

    @property
    def is_global_pooling(self) -> bool:
        return self.after.size == (1, 1) != self.before.size

    @property
    def downsamples(self) -> bool:
        shrinks = self.after.size != _larger(self.before.size, self.after.size)
        return self.stride != (1, 1) or (shrinks and not self.is_convolution)


def _larger(*pairs: Pair) -> Pair:
    return max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)


def trace(model: nn.Module) -> list[Layer]:
    """The convolutions, poolings and resizings of the forward pass of one 32x32 RGB image."""
    return record(model).layers


def record(model: nn.Module) -> Recorder:
    """A forward pass of one image in evaluation mode, recorded."""
    was_training = model.training
    images = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE, device=next(model.parameters()).device)
    recorder = Recorder(images)
    with torch.no_grad(), recorder.watching(model.eval()), recorder:
        recorder.logits = model(images)
    model.train(was_training)
    return recorder


class Recorder(TorchDispatchMode):
    """Follows the receptive field from tensor to tensor through every ATen operation.

    RF_out = RF_in + (k-1) * d * jump_in and jump_out = jump_in * stride, from RF 1, jump 1
    (Araujo, Norris, Sim: "Computing Receptive Fields of Convolutional Neural Networks",
    Distill 2019), for height and width each.
    """

    def __init__(self, images: Tensor):
        super().__init__()
        self.layers: list[Layer] = []
        self.running_modules = ["forward"]
        self.field_of = {id(images): Field((1, 1), (1, 1), (IMAGE_SIZE, IMAGE_SIZE))}
        self.alive = [images]  # as long as a tensor lives, no other has its id

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Keeps the name of the innermost running module of `model` in `running_modules[-1]`."""

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
            before = Field.of([self.field_of[id(tensor)] for tensor in inputs])
            after, geometry = _step(op, args, before, inputs[0], outputs[0])
            for tensor in outputs:
                self.field_of[id(tensor)] = after
                self.alive.append(tensor)
            if op == "convolution" or "pool" in op or after.size != before.size:
                channels = inputs[0].shape[1]
                name = self.running_modules[-1]
                self.layers.append(Layer(name, op, *geometry, channels, before, after))
        return result


def _tensors(values: Iterable) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _step(
    op: str, args: tuple, before: Field, source: Tensor, result: Tensor
) -> tuple[Field, Geometry]:
    """The field after `op`, and the geometry of `op`."""
    geometry = kernel, stride, dilation, _ = _geometry(op, args)
    size = _map_size(before.size, source, result)
    if size == (1, 1) != before.size:
        return replace(before, size=size, averaged=op in AVERAGES), POINTWISE
    if stride == (1, 1) and size != before.size:  # resized by other means, a slice say
        jump = tuple(
            j * old // new for j, old, new in zip(before.jump, before.size, size, strict=True)
        )
    else:
        jump = tuple(j * s for j, s in zip(before.jump, stride, strict=True))
    growth = ((k - 1) * d * j for k, d, j in zip(kernel, dilation, before.jump, strict=True))
    rf = tuple(r + g for r, g in zip(before.rf, growth, strict=True))
    return Field(rf, jump, size, before.averaged), geometry


def _map_size(before: Pair, source: Tensor, result: Tensor) -> Pair:
    """Height and width of the feature map `result`; (1, 1) once it is reduced to a vector."""
    if result.dim() == 4:
        return tuple(result.shape[2:])
    is_a_vector = result.dim() >= 2 and result.numel() == result.shape[0] * result.shape[1]
    reduced = source.dim() > 2 and source.shape[:2] == result.shape[:2]
    return (1, 1) if is_a_vector and reduced and source.numel() > result.numel() else before


def _geometry(op: str, args: tuple) -> Geometry:
    """The geometry of an operation, from ATen's positional arguments."""
    if op == "convolution":  # input, weight, bias, stride, padding, dilation, transposed, _, groups
        stride = (1, 1) if args[6] else tuple(args[3])
        return tuple(args[1].shape[2:]), stride, tuple(args[5]), args[8]
    if op in ("max_pool2d_with_indices", "avg_pool2d"):  # input, kernel, stride, padding, dilation
        kernel = _pair(args[1])
        stride = _pair(args[2]) if len(args) > 2 and args[2] else kernel
        dilation = _pair(args[4]) if op.startswith("max") and len(args) > 4 else (1, 1)
        return kernel, stride, dilation, 1
    return POINTWISE


def _pair(sizes: list[int]) -> Pair:
    return (sizes[0], sizes[-1])


def tally(layers: list[Layer]) -> list[Layer]:
    """The layers that form the receptive field: all before the global pooling."""
    return [x for x in layers if not x.is_global_pooling and not x.before.averaged]


def receptive_field(layers: list[Layer]) -> int:
    """Receptive field before the global pooling in pixels; the smaller of height and width."""
    return min(_larger((1, 1), *(x.after.rf for x in tally(layers))))


def tally_markdown(model: nn.Module) -> str:
    """The receptive-field tally of `model` as a Markdown table, one row per layer."""
    rows = [
        "| layer | k | s | d | RF in | RF out | jump in | jump out |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for x in tally(trace(model)):
        fields = (x.before.rf, x.after.rf, x.before.jump, x.after.jump)
        figures = map(_side, (x.kernel, x.stride, x.dilation, *fields))
        rows.append(f"| {x} | {' | '.join(figures)} |")
    return "\n".join(rows)


def _side(pair: Pair) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"
