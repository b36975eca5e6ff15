"""The constraints of an assignment, checked on a network as it runs.

What is not seen:

- a maximum hidden in sorting, in differences of ReLUs or in an operation of one's own
- dilation hidden in sums of shifted maps or in a kernel with zeros
- weights in a plain tensor or in a buffer: only an nn.Parameter counts
- a branch that depends on the data, and that random images do not take
- whether an average is weighted by a map that is computed first: that counts as an activation
"""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from constraints.assignment import Assignment, read_assignment
from constraints.flow import Trace
from constraints.layers import AVERAGES, Layer, memory, random_images
from recipe import IMAGE_SIZE

LARGEST_SIZE = 256  # pixels, of the images that the receptive field is measured on
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


@dataclass(frozen=True)
class Check:
    """One constraint, whether a network keeps it, and what was found."""

    constraint: str
    passed: bool
    found: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.constraint}: {self.found}"


def check(traced: Trace, assignment: Assignment | None = None) -> list[Check]:
    """Checks each constraint of `assignment`, in evaluation mode and in training mode.

    Args:
        assignment: None stands for that in assignment.toml.
    """
    assignment = assignment or read_assignment()
    return [found for each in CHECKS for found in each(traced, assignment)]


def _max_pooling(traced: Trace, assignment: Assignment) -> Iterator[Check]:
    if not assignment.max_pooling_allowed:
        maxima = [x for x in traced.layers_of_both_modes if x.is_maximum]
        yield Check("no max-pooling", not maxima, _list(maxima))


def _downsampling(traced: Trace, assignment: Assignment) -> Iterator[Check]:
    """Strides side by side count once: so many times the map must be halved."""
    wanted, layers = assignment.stride_2_convolutions, traced.layers_of_both_modes
    strided = [x for x in layers if x.is_strided]
    other = [x for x in layers if x.downsamples and not x.is_strided]
    if assignment.max_pooling_allowed:
        other = [x for x in other if not x.is_maximum]
    parts = []
    if wanted != "any":
        number = NUMBERS[wanted] if wanted < len(NUMBERS) else wanted
        parts.append(f"{'exactly ' if wanted else ''}{number} 3x3 stride-2 convolutions")
    if not assignment.other_downsampling_allowed:
        parts.append("no other downsampling" if parts else "no downsampling but 3x3 stride 2")
    if not parts:
        return
    found = f"{_list(strided)}; other: {_list(other)}"
    for layer in (x for x in layers if x.crops):
        before, after = (f"{x.size[0]}x{x.size[1]}" for x in (layer.before, layer.after))
        padding, dilation = layer.step.arguments["padding"][0], layer.dilation[0]
        found += f"; {layer} leaves {after} of {before} (padding {padding}, dilation {dilation})"
    is_counted = wanted in ("any", len({x.before.jump for x in strided}))
    has_other = bool(other) and not assignment.other_downsampling_allowed
    yield Check(" and ".join(parts), is_counted and not has_other, found)


def _separable(traced: Trace, assignment: Assignment) -> Iterator[Check]:
    layers, blocks = traced.layers_of_both_modes, assignment.separable_not_in
    convolutions = [x for x in layers if x.is_pointwise or (x.is_convolution and x.is_spatial)]
    separable = [a for a, b in pairwise(convolutions) if a.is_depthwise and b.is_pointwise]
    excluded = [x for x in layers if x.is_spatial and x.groups > 1 and x.block in blocks]
    passed, found = not excluded, _list(separable)
    name = "depthwise-separable convolutions"
    if blocks:
        found += f"; in {_name(blocks)}: {_list(excluded)}{_guess(traced)}"
    if assignment.separable_required:
        passed = passed and bool(separable)
        yield Check(f"{name}, none in {_name(blocks)}" if blocks else name, passed, found)
    elif blocks:
        yield Check(f"no {name} in {_name(blocks)}", passed, found)


def _dilation(traced: Trace, assignment: Assignment) -> Iterator[Check]:
    blocks, is_required = assignment.dilation_only_in, assignment.dilation_required
    dilated = [x for x in traced.layers_of_both_modes if x.is_dilated]
    outside = [f"{x} (in C{x.block})" for x in dilated if x.block not in blocks]
    passed = not outside and (bool(dilated) or not is_required)
    found = ", ".join(outside) or _list(dilated)
    if {*blocks} >= {1, 2, 3, 4}:
        if is_required:
            yield Check("dilation", passed, found)
        return
    rule = f"dilation in {_name(blocks)} and nowhere else" if blocks else "no dilation"
    if blocks and not is_required:
        rule = f"no dilation outside of {_name(blocks)}"
    yield Check(rule, passed, found + _guess(traced))


def _pooling(traced: Trace, assignment: Assignment) -> Iterator[Check]:
    if assignment.global_average_pooling_required:
        is_average, found = _averages(traced), str(traced.pooling or "none")
        if traced.pooling and not is_average:
            found += ", where the positions of the map do not count equally"
        yield Check("global average pooling", is_average, found)


def _parameters(traced: Trace, assignment: Assignment) -> Iterator[Check]:
    steps = [*traced.steps, *traced.training.steps]
    used = {memory(tensor) for step in steps for tensor in step.inputs}
    total = sum(x.numel() for x in traced.network.parameters())
    found = f"{total:,}"
    if unused := sum(x.numel() for x in traced.network.parameters() if memory(x) not in used):
        found += f", {unused:,} of them unused"
    limit = assignment.parameters_below
    yield Check(f"under {limit:,} parameters", total < limit, found)


def _receptive_field(traced: Trace, assignment: Assignment) -> Iterator[Check]:
    pixels, found = _measure_receptive_field(traced)
    limit = assignment.receptive_field_above
    yield Check(f"receptive field over {limit}", pixels > limit, found)


CHECKS = (
    _max_pooling,
    _downsampling,
    _separable,
    _dilation,
    _pooling,
    _parameters,
    _receptive_field,
)


def _list(layers: list[Layer]) -> str:
    return ", ".join(map(str, layers)) or "none"


def _name(blocks: list[int]) -> str:
    """ "C1", or "C1, C2", for example."""
    return ", ".join(f"C{block}" for block in blocks)


def _guess(traced: Trace) -> str:
    return "; the blocks are guessed from the strides" if traced.blocks_are_guessed else ""


def _averages(traced: Trace) -> bool:
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


def _measure_receptive_field(traced: Trace) -> tuple[int, str]:
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
    if tally > pixels and not is_exact:
        return tally, f"{tally} by the tally of layers; {found}"
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
