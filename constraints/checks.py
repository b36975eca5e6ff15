"""The constraints of the assignment, checked on a network as it runs.

What is not seen:

- a maximum hidden in sorting, in differences of ReLUs or in an operation of one's own
- dilation hidden in sums of shifted maps or in a kernel with zeros
- weights in a plain tensor or in a buffer: only an nn.Parameter counts
- a branch that depends on the data, and that random images do not take
- whether an average is weighted by a map that is computed first: that counts as an activation
"""

from dataclasses import dataclass
from itertools import pairwise

from constraints.layers import Layer
from constraints.measured import averages, measure_receptive_field
from constraints.recording import memory
from constraints.trace import Trace

MAX_PARAMETERS = 200_000
MIN_RECEPTIVE_FIELD = 44


@dataclass(frozen=True)
class Check:
    """One constraint, whether a network keeps it, and what was found."""

    constraint: str
    passed: bool
    found: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.constraint}: {self.found}"


def check(traced: Trace) -> list[Check]:
    """Checks every constraint, in evaluation mode and in training mode."""
    return [each(traced) for each in CHECKS]


def _max_pooling(traced: Trace) -> Check:
    maxima = [x for x in traced.layers_of_both_modes if x.is_maximum]
    return Check("no max-pooling", not maxima, _list(maxima))


def _downsampling(traced: Trace) -> Check:
    """Strides side by side count once: the map must be halved three times."""
    layers = traced.layers_of_both_modes
    strided = [x for x in layers if x.is_strided]
    other = [x for x in layers if x.downsamples and not x.is_strided]
    found = f"{_list(strided)}; other: {_list(other)}"
    for layer in (x for x in layers if x.crops):
        before, after = (f"{x.size[0]}x{x.size[1]}" for x in (layer.before, layer.after))
        padding, dilation = layer.step.arguments["padding"][0], layer.dilation[0]
        found += f"; {layer} leaves {after} of {before} (padding {padding}, dilation {dilation})"
    return Check(
        "exactly three 3x3 stride-2 convolutions and no other downsampling",
        len({x.before.jump for x in strided}) == 3 and not other,
        found,
    )


def _separable(traced: Trace) -> Check:
    layers = traced.layers_of_both_modes
    convolutions = [x for x in layers if x.is_pointwise or (x.is_convolution and x.is_spatial)]
    separable = [a for a, b in pairwise(convolutions) if a.is_depthwise and b.is_pointwise]
    in_c1 = [x for x in layers if x.is_spatial and x.groups > 1 and x.block == 1]
    return Check(
        "depthwise-separable convolutions, none in C1",
        bool(separable) and not in_c1,
        f"{_list(separable)}; in C1: {_list(in_c1)}{_guess(traced)}",
    )


def _dilation(traced: Trace) -> Check:
    dilated = [x for x in traced.layers_of_both_modes if x.is_dilated]
    outside = [f"{x} (in C{x.block})" for x in dilated if x.block != 4]
    found = ", ".join(outside) or _list(dilated)
    passed = bool(dilated) and not outside
    return Check("dilation in C4 and nowhere else", passed, found + _guess(traced))


def _pooling(traced: Trace) -> Check:
    is_average = averages(traced)
    found = str(traced.pooling or "none")
    if traced.pooling and not is_average:
        found += ", where the positions of the map do not count equally"
    return Check("global average pooling", is_average, found)


def _parameters(traced: Trace) -> Check:
    steps = [*traced.steps, *traced.training.steps]
    used = {memory(tensor) for step in steps for tensor in step.inputs}
    total = sum(x.numel() for x in traced.network.parameters())
    found = f"{total:,}"
    if unused := sum(x.numel() for x in traced.network.parameters() if memory(x) not in used):
        found += f", {unused:,} of them unused"
    return Check(f"under {MAX_PARAMETERS:,} parameters", total < MAX_PARAMETERS, found)


def _receptive_field(traced: Trace) -> Check:
    pixels, found = measure_receptive_field(traced)
    passed = pixels > MIN_RECEPTIVE_FIELD
    return Check(f"receptive field over {MIN_RECEPTIVE_FIELD}", passed, found)


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


def _guess(traced: Trace) -> str:
    return "; the blocks are guessed from the strides" if traced.blocks_are_guessed else ""
