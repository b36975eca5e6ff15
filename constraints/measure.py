"""The receptive field and the average pooling of a network, measured by gradients.

The recorded operations run again on positive random numbers. Trainable parameters are replaced by
positive ones, so that nothing cancels and activations cut nothing off, and a norm only divides by
a constant.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from constraints.recording import Recording, Step
from constraints.trace import Trace
from recipe import IMAGE_SIZE

LARGEST_IMAGE = 256


@dataclass(frozen=True)
class Reach:
    """The receptive field of one position of the last map: the smaller of height and width.

    `is_exact` is False if it ends at the border of the image, which has `image_size` pixels.
    """

    pixels: int
    is_exact: bool
    image_size: int


def averages(trace: Trace, network: nn.Module) -> bool:
    """Whether all positions of the last map have the same influence on the logits."""
    if not trace.pooling:
        return False
    start, _ = _origin(trace)
    last_map = _positive(trace.last_map).requires_grad_()
    values = _weights(network) | {id(trace.last_map): last_map.clone()}
    _run(trace.recording.steps[start + 1 :], values)
    (influence,) = torch.autograd.grad(values[id(trace.recording.logits)].sum(), last_map)
    dims, largest = trace.positions.spatial_dims(trace.last_map), influence.abs().max()
    difference = (influence.amax(dims) - influence.amin(dims)).max()
    return bool(largest > 0 and difference <= 1e-3 * largest)


def measure(trace: Trace, network: nn.Module) -> Reach:
    """Measures the network that `trace` is of, on images larger than its field if it takes them."""
    start, output = _origin(trace)
    enough = (trace.receptive_field // IMAGE_SIZE + 2) * IMAGE_SIZE
    for size in (min(max(96, enough), LARGEST_IMAGE), LARGEST_IMAGE):
        recording = Recording(network, size=size)
        ops = [
            [x.op for x in steps[: start + 1]] for steps in (trace.recording.steps, recording.steps)
        ]
        if ops[0] != ops[1]:
            return _measure_at_corners(trace, network)
        last_map = recording.steps[start].outputs[output]
        growth = last_map.numel() / trace.last_map.numel() / (size / IMAGE_SIZE) ** 2
        if growth < 0.5:  # something resizes the map to a fixed size
            return _measure_at_corners(trace, network)
        center = _center(last_map, trace.positions.spatial_dims(trace.last_map))
        (ends,) = _support(recording, start, last_map, network, [center])
        first, last = min(ends, key=lambda ends: ends[1] - ends[0])
        is_exact = first > 0 and last < size - 1
        if is_exact or last - first == size - 1:
            break
    return Reach(last - first + 1, is_exact, size)


def _measure_at_corners(trace: Trace, network: nn.Module) -> Reach:
    """From 32x32 images alone: how far the first position sees down, and the last position up."""
    where, start = trace.positions.of(trace.last_map), _origin(trace)[0]
    lengths = []
    corners = [
        (where == end.view(2, *[1] * trace.last_map.dim())).all(0)
        for end in (where.flatten(1).amin(1), where.flatten(1).amax(1))
    ]
    down, up = _support(trace.recording, start, trace.last_map, network, corners)
    for (_, last), (first, _), side in zip(
        down, up, trace.positions.size(trace.last_map), strict=True
    ):
        between = (side - 1) * IMAGE_SIZE // side  # pixels from the first to the last position
        lengths.append((last - first + between + 1, last < IMAGE_SIZE - 1 and first > 0))
    return Reach(*min(lengths), IMAGE_SIZE)


def _origin(trace: Trace) -> tuple[int, int]:
    """The step that computes the last map, and which of its outputs it is."""
    steps = trace.recording.steps[: trace.pooling.step if trace.pooling else None]
    return next(
        (number, output)
        for number, step in reversed(list(enumerate(steps)))
        for output, tensor in enumerate(step.outputs)
        if tensor is trace.last_map
    )


def _center(last_map: Tensor, dims: list[int]) -> tuple:
    """The index of the position in the middle of a map with these spatial dimensions."""
    middle = {dim: last_map.shape[dim] // 2 for dim in dims}
    if len(dims) == 1:  # row by row
        side = math.isqrt(last_map.shape[dims[0]])
        middle[dims[0]] += side // 2
    return tuple(middle.get(dim, slice(None)) for dim in range(last_map.dim()))


def _support(
    recording: Recording, start: int, last_map: Tensor, network: nn.Module, places: list
) -> list[list[tuple[int, int]]]:
    """The first and the last row and column of the images that each of `places` depends on."""
    images, found = _positive(recording.images).requires_grad_(), []
    values = _weights(network) | {id(recording.images): images.clone()}
    _run(recording.steps[: start + 1], values)
    for place in places:
        total = values[id(last_map)][place].sum() * 1e20  # far from the smallest float32
        (influence,) = torch.autograd.grad(total, images, retain_graph=True)
        reached = (influence != 0).flatten(0, 1).any(0)
        lines = (reached.any(axis).nonzero() for axis in (1, 0))
        found.append([(int(x.min()), int(x.max())) if len(x) else (0, -1) for x in lines])
    return found


def _run(steps: list[Step], values: dict[int, Tensor]) -> None:
    """Runs `steps` on `values`, by id of the recorded tensor, and adds their results to them."""
    for step in steps:
        if step.is_norm:
            images = values.get(id(step.inputs[0]), step.inputs[0])
            result = torch.empty_like(step.outputs[0])  # with the same strides, for later views
            results = [result.copy_(images / images.detach().abs().mean())]
        else:
            results = step.run(values)
        values.update(zip(map(id, step.outputs), results, strict=False))


def _weights(network: nn.Module) -> dict[int, Tensor]:
    """Positive weights, in place of the trainable parameters of `network`.

    Matrices average, so that a value is about 1 however deep the network is.
    """
    trainable = [p for p in network.parameters() if p.requires_grad]
    fan_in = [p.numel() / len(p) if p.dim() > 1 else 10 for p in trainable]
    return {id(p): _positive(p) / fan for p, fan in zip(trainable, fan_in, strict=True)}


def _positive(tensor: Tensor) -> Tensor:
    return torch.rand_like(tensor, requires_grad=False) + 0.5
