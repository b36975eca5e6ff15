"""The receptive field and the average pooling of a network, measured by gradients."""

import io
from contextlib import redirect_stdout

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from constraints.flow import Trace
from constraints.layers import AVERAGES, random_images
from recipe import IMAGE_SIZE

LARGEST_SIZE = 256  # pixels


def averages(traced: Trace) -> bool:
    """Whether all positions of the last map have the same influence on the logits.

    In training mode, in which norms keep the values of an untrained network large.
    """
    traced = traced.training
    if not traced.pooling:
        return False
    logits = traced.logits
    with torch.random.fork_rng(devices=[]):
        influence = _gradient((logits * torch.rand_like(logits)).sum(), traced.last_map)
    largest = influence.max()
    if largest == 0:  # the last layer starts at zero, for example
        return traced.pooling.op in AVERAGES
    dims = [d for d, pieces in enumerate(traced.dims(traced.last_map)) if pieces]
    differences = influence.amax(dims) - influence.amin(dims)
    return not dims or bool(differences.max() <= 1e-3 * largest)


def measure_receptive_field(traced: Trace) -> tuple[int, str]:
    """The receptive field in pixels, the smaller of height and width, and how it was found.

    It is measured on images that are larger than its tally, and a lower bound if it ends at their
    border. Where it cannot be measured surely, the tally counts.
    """
    tally = traced.receptive_field
    if any(layer.is_maximum for layer in traced.tally):
        return tally, f"{tally} by the tally of layers, because a gradient ends at a maximum"
    size = min((max(tally, IMAGE_SIZE) // IMAGE_SIZE + 2) * IMAGE_SIZE, LARGEST_SIZE)
    try:
        larger = _run_positive(traced.network, size)
        last_map = _same_map(larger, traced)
    except Exception:  # a network may raise anything for images of another size
        last_map = None
    if last_map is None or not _strides(larger) >= _strides(traced):
        return tally, f"{tally} by the tally of layers, because it takes 32x32 images alone"
    center = tuple(
        sum(piece.step * (piece.count // 2) for piece in pieces) if pieces else slice(None)
        for pieces in larger.dims(last_map)
    )
    total = last_map[center].sum() * 1e20  # far from the smallest float32
    reached = _gradient(total, larger.images).flatten(0, 1).any(0)
    lines = [reached.any(dim).nonzero().flatten().tolist() or [1, 0] for dim in (1, 0)]
    first, last = min(((x[0], x[-1]) for x in lines), key=lambda ends: ends[1] - ends[0])
    pixels, is_exact = last - first + 1, first > 0 and last < size - 1
    found = f"{pixels}" if is_exact else f"at least {pixels}, measured on {size}x{size} images"
    if tally < pixels or (is_exact and tally != pixels):
        found += f" (measured, which counts; the tally of layers gives {tally})"
    return pixels, found


class _Positive(TorchFunctionMode):
    """Lets nothing cancel.

    A norm divides by the largest value: its mean and variance count as constants, and activations
    with an upper bound of 1 or more cut nothing off.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"):
            return args[0] / float(args[0].detach().abs().max())
        if name in ("conv1d", "conv2d"):  # also if its weights are computed or no parameters
            args = (args[0], args[1].abs(), *args[2:])
        return func(*args, **(kwargs or {}))


def _run_positive(network: nn.Module, size: int) -> Trace:
    """Runs `network` with positive weights on positive random images.

    Matrices and convolutions average, so that values stay about 1 in a deep network.
    """
    with torch.random.fork_rng(devices=[]), redirect_stdout(io.StringIO()):
        torch.manual_seed(0)
        weights = {}
        for name, weight in network.named_parameters():
            inputs = weight[0].numel() if weight.dim() > 1 else 10
            positive = (torch.rand_like(weight) + 0.5) / inputs
            weights[name] = positive.detach().requires_grad_(weight.requires_grad)
        with _Positive():
            return Trace(network, random_images(network, 2, size), weights)


def _same_map(larger: Trace, traced: Trace) -> Tensor | None:
    """The map in `larger` that is the last one of `traced`; None if it is not surely there.

    A pooling with a kernel, 4x4 for example, leaves several positions of a larger map, and so is
    not the one that pools globally there.
    """
    if not traced.layers:
        return larger.last_map
    end = traced.pooling or traced.layers[-1]
    alike, same = ([x for x in each.layers if str(x) == str(end)] for each in (traced, larger))
    if len(alike) != len(same):
        return None
    layer = next(b for a, b in zip(alike, same, strict=True) if a is end)
    return layer.source if traced.pooling else layer.step.outputs[0]


def _strides(traced: Trace) -> set[tuple]:
    return {(str(layer), layer.stride) for layer in traced.tally}


def _gradient(value: Tensor, tensor: Tensor) -> Tensor:
    """Its absolute value; 0 where `value` does not depend on `tensor`."""
    found = None
    if value.requires_grad:
        (found,) = torch.autograd.grad(value, tensor, allow_unused=True, retain_graph=True)
    return torch.zeros_like(tensor) if found is None else found.abs()
