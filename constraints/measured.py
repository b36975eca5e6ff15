"""The receptive field and the average pooling of a network, measured by gradients.

A copy with positive weights runs on positive random images, so that nothing cancels. A norm divides
by the largest value instead: its mean and variance count as constants, and activations with an
upper bound of 1 or more cut nothing off.
"""

import io
import re
from contextlib import redirect_stdout

import torch
from torch.overrides import TorchFunctionMode

from constraints.flow import Flow
from constraints.recording import private_copy, record
from constraints.trace import Trace
from recipe import IMAGE_SIZE


class _Positive(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if re.fullmatch("(batch|layer|group|instance|rms)_norm", name):
            return args[0] / float(args[0].detach().abs().max())
        if re.fullmatch(r"conv\dd", name):  # also if its weights are computed or no parameters
            args = (args[0], args[1].abs(), *args[2:])
        return func(*args, **(kwargs or {}))


def _positive_flow(traced: Trace, size: int) -> Flow:
    """Matrices and convolutions average, so that values stay about 1 in a deep network."""
    network = private_copy(traced.network).eval()
    with torch.random.fork_rng(devices=[]), redirect_stdout(io.StringIO()):
        torch.manual_seed(0)
        for parameter in network.parameters():
            inputs = parameter[0].numel() if parameter.dim() > 1 else 10
            parameter.data = (torch.rand_like(parameter) + 0.5) / inputs
        with _Positive():
            return Flow(record(network, size=size), network)


def averages(traced: Trace) -> bool:
    """Whether all positions of the last map have the same influence on the logits."""
    if not traced.pooling:
        return False
    flow = _positive_flow(traced, IMAGE_SIZE)
    logits, last_map = flow.recording.logits, flow.last_map
    influence = _gradient((logits * torch.rand_like(logits)).sum(), last_map)
    dims = [d for d, pieces in enumerate(flow.dims(last_map)) if pieces]
    largest = influence.max()
    difference = (influence.amax(dims) - influence.amin(dims)).max() if dims else 0
    return bool(largest > 0 and difference <= 1e-3 * largest)


def measure_receptive_field(traced: Trace) -> tuple[int, str]:
    """The receptive field in pixels, and how it was found.

    That is the smaller of height and width, measured on images that are larger than its tally; the
    tally itself where it cannot be measured surely. If it ends at the border of the images, it is
    a lower bound.
    """
    tally = traced.receptive_field
    size = (max(tally, IMAGE_SIZE) // IMAGE_SIZE + 2) * IMAGE_SIZE
    if any(layer.is_maximum for layer in traced.tally):
        return tally, f"{tally} (by the tally of layers; a maximum hides what it does not take)"
    try:
        flow = _positive_flow(traced, size)
    except (RuntimeError, ValueError, AssertionError):
        flow = None
    if not flow or [(x.name, x.op, x.stride) for x in flow.tally] != [
        (x.name, x.op, x.stride) for x in traced.tally
    ]:
        return tally, f"{tally} (by the tally of layers, because only 32x32 images can be used)"
    index = tuple(
        sum(piece.step * (piece.count // 2) for piece in pieces) if pieces else slice(None)
        for pieces in flow.dims(flow.last_map)
    )
    # far from the smallest float32
    reached = (
        _gradient(flow.last_map[index].sum() * 1e20, flow.recording.images).flatten(0, 1).any(0)
    )
    lines = [reached.any(dim).nonzero() for dim in (1, 0)]
    first, last = min(
        ((int(x.min()), int(x.max())) for x in lines if len(x)),
        default=(1, 0),
        key=lambda ends: ends[1] - ends[0],
    )
    pixels = last - first + 1
    found = str(pixels)
    is_exact = first > 0 and last < size - 1
    if not is_exact:
        found = f"at least {pixels}, measured on {size}x{size} images"
    if tally < pixels or (is_exact and tally != pixels):
        found += f" (measured, which counts; the tally of layers gives {tally})"
    return pixels, found


def _gradient(value, tensor):
    """Its absolute value; 0 where `value` does not depend on `tensor`."""
    if not value.requires_grad:
        return torch.zeros_like(tensor)
    (found,) = torch.autograd.grad(value, tensor, allow_unused=True)
    return torch.zeros_like(tensor) if found is None else found.abs()
