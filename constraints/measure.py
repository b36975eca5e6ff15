"""The receptive field and the average pooling of a network, measured by gradients.

The recorded operations run again on positive random numbers. Trainable parameters are replaced by
positive ones, so that nothing cancels. A norm divides by the largest value, so that activations
with an upper bound of 1 or more cut nothing off.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from constraints.recording import Recording, Step
from constraints.trace import Trace
from recipe import IMAGE_SIZE


class Reach(NamedTuple):
    """The receptive field of one position of the last map: the smaller of height and width.

    If it ends at the border of images with `image_size` pixels, it is not exact but a lower bound.
    """

    pixels: int
    is_exact: bool
    image_size: int


def averages(trace: Trace, network: nn.Module) -> bool:
    """Whether all positions of the last map have the same influence on the logits."""
    if not trace.pooling:
        return False
    last_map = _positive(trace.last_map).requires_grad_()
    values = _weights(network) | {id(trace.last_map): last_map.clone()}
    _run(trace.recording.steps[_origin(trace)[0] + 1 :], values)
    logits = values[id(trace.recording.logits)]
    (influence,) = torch.autograd.grad((logits * _positive(logits)).sum(), last_map)
    dims, largest = _spatial_dims(trace), influence.abs().max()
    difference = (influence.amax(dims) - influence.amin(dims)).max()
    return bool(largest > 0 and difference <= 1e-3 * largest)


def measure(trace: Trace, network: nn.Module) -> Reach:
    """Measures `network`, which `trace` is of, on images that are larger than its tally.

    If it takes only 32x32 images, the result is what they show.
    """
    size = (max(trace.receptive_field, IMAGE_SIZE) // IMAGE_SIZE + 2) * IMAGE_SIZE
    recording, (start, output) = Recording(network, size=size), _origin(trace)
    ops = [[step.op for step in x.steps[: start + 1]] for x in (trace.recording, recording)]
    if ops[0] != ops[1]:
        return _measure_at_corners(trace, network)
    last_map = recording.steps[start].outputs[output] if start >= 0 else recording.images
    if last_map.numel() / trace.last_map.numel() < 0.5 * (size / IMAGE_SIZE) ** 2:
        return _measure_at_corners(trace, network)  # the map is resized to a fixed size
    (ends,) = _support(recording, start, last_map, network, [_index(trace, last_map, 0.5)])
    first, last = min(ends, key=lambda ends: ends[1] - ends[0])
    return Reach(last - first + 1, first > 0 and last < size - 1, size)


def _measure_at_corners(trace: Trace, network: nn.Module) -> Reach:
    """From 32x32 images: how far the first position sees down, and the last position up."""
    start, _ = _origin(trace)
    corners = [_index(trace, trace.last_map, share) for share in (0, 1)]
    down, up = _support(trace.recording, start, trace.last_map, network, corners)
    found = []
    for side, (_, last), (first, _) in zip(trace.size, down, up, strict=True):
        between = (side - 1) * IMAGE_SIZE // side  # pixels from the first position to the last one
        is_exact = first > 0 and last < IMAGE_SIZE - 1
        found.append(Reach(last - first + between + 1, is_exact, IMAGE_SIZE))
    return min(found)


def _origin(trace: Trace) -> tuple[int, int]:
    """The step that computes the last map, and which of its outputs it is."""
    steps = trace.recording.steps
    end = steps.index(trace.pooling.step) if trace.pooling else len(steps)
    found = (
        (number, output)
        for number in reversed(range(end))
        for output, tensor in enumerate(steps[number].outputs)
        if tensor is trace.last_map
    )
    return next(found, (-1, 0))  # or the images themselves


def _spatial_dims(trace: Trace) -> list[int]:
    """The dimensions of the last map along which the position changes."""
    where = trace.positions.of(trace.last_map)
    return [d for d in range(where.dim() - 1) if (where.amin(d + 1) != where.amax(d + 1)).any()]


def _index(trace: Trace, last_map: Tensor, share: float) -> tuple:
    """The index of the position at this share, 0 to 1, of height and width of `last_map`.

    `last_map` is like that of `trace`, but may be larger.
    """
    dims, index = _spatial_dims(trace), [slice(None)] * last_map.dim()
    for dim in dims:
        index[dim] = round(share * (last_map.shape[dim] - 1))
    if len(dims) == 1:  # rows one after another, and maybe channel after channel
        channels = trace.last_map.shape[dims[0]] // math.prod(trace.size)
        side = math.isqrt(last_map.shape[dims[0]] // channels)
        index[dims[0]] = round(share * (side - 1)) * (side + 1)
    return tuple(index)


def _support(
    recording: Recording, start: int, last_map: Tensor, network: nn.Module, places: list
) -> list[list[tuple[int, int]]]:
    """For each of `places` in `last_map`, the first and last row and column that it depends on."""
    images, found = _positive(recording.images).requires_grad_(), []
    values = _weights(network) | {id(recording.images): images.clone()}
    _run(recording.steps[: start + 1], values)
    for place in places:
        total = values[id(last_map)][place].sum() * 1e20  # far from the smallest float32
        (influence,) = torch.autograd.grad(total, images, retain_graph=True)
        reached = (influence != 0).flatten(0, 1).any(0)
        lines = (reached.any(dim).nonzero() for dim in (1, 0))
        found.append([(int(x.min()), int(x.max())) if len(x) else (0, -1) for x in lines])
    return found


def _run(steps: list[Step], values: dict[int, Tensor]) -> None:
    """Runs `steps` on `values`, by id of the recorded tensor, and adds their results to them."""
    for step in steps:
        if step.is_norm:
            images = values.get(id(step.inputs[0]), step.inputs[0])
            result = torch.empty_like(step.outputs[0])  # with the same strides, for later views
            results = [result.copy_(images / images.detach().abs().max())]
        else:
            if step.op == "convolution":  # also if its weights are computed or no parameters
                weights = step.args[1]
                values[id(weights)] = values.get(id(weights), weights).abs()
            results = step.run(values)
        values.update(zip(map(id, step.outputs), results, strict=False))


def _weights(network: nn.Module) -> dict[int, Tensor]:
    """Positive weights by id of the trainable parameters of `network`.

    Matrices and convolutions average, so that values stay about 1 in a deep network.
    """
    trainable = [p for p in network.parameters() if p.requires_grad]
    return {id(p): _positive(p) / (p[0].numel() if p.dim() > 1 else 10) for p in trainable}


def _positive(tensor: Tensor) -> Tensor:
    return torch.rand_like(tensor, requires_grad=False) + 0.5
