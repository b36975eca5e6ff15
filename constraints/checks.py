"""The constraints of the assignment, checked on a network as it runs.

The receptive field is measured: one position of the last map before global pooling is
differentiated with respect to a larger image. With squeeze-and-excite or attention it is the whole
image. The mean and the variance in a normalisation layer are treated as constants; those of a
normalisation that is written by hand are not.

What cannot be known:

- a maximum hidden in sorting, in differences of ReLUs or in an operation of one's own
- dilation hidden in sums of shifted maps or in a kernel with zeros
- a branch that depends on the data, and that an image of ones does not take
- weights that the forward pass computes from a seed
- whether an average is weighted by a map that is computed first: that counts as an activation
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from constraints.measure import averages, measure
from constraints.recording import Recording, memory, private_copy, record
from constraints.trace import Layer, Trace

MAX_PARAMETERS = 200_000
MIN_RECEPTIVE_FIELD = 44
LAST_MAP = 4  # what three strides leave of 32 pixels


@dataclass(frozen=True)
class Check:
    """One constraint, whether a network keeps it, and what was found."""

    constraint: str
    passed: bool
    found: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.constraint}: {self.found}"


def check(model: nn.Module) -> list[Check]:
    """Checks every constraint on a copy of `model`, in evaluation mode and in training mode.

    Raises:
        UserError: as `check_output`.
    """
    with private_copy(model) as network:
        recordings = record(network)
        ran = [[(x.op, x.module) for x in recording.live_steps()] for recording in recordings]
        same = ran[0] == ran[1]
        traces = [Trace(recording, network) for recording in recordings[: 1 if same else 2]]
        layers = list(dict.fromkeys(layer for trace in traces for layer in trace.layers))
        return [
            _max_pooling(layers),
            _downsampling(layers, traces),
            _separable(layers),
            _dilation(layers),
            _pooling(traces[0], network),
            _parameters(traces, network),
            _receptive_field(traces[0], network),
        ]


def check_output(model: nn.Module, num_classes: int | None = None) -> None:
    """Raises UserError, in one line, unless images (B, 3, 32, 32) give logits (B, num_classes).

    None stands for any number of classes.
    """
    with private_copy(model) as network:
        record(network, num_classes)


def _max_pooling(layers: list[Layer]) -> Check:
    maxima = [x for x in layers if x.is_maximum]
    return Check("no max-pooling", not maxima, _listed(maxima))


def _downsampling(layers: list[Layer], traces: list[Trace]) -> Check:
    strided = [[x for x in trace.layers if x.is_strided] for trace in traces]
    other = _listed([x for x in layers if x.downsamples and not x.is_strided])
    height, width = traces[0].size
    if min(height, width) < LAST_MAP and other == "none":
        other = f"the last map is {height}x{width}"
    return Check(
        "exactly three 3x3 stride-2 convolutions and no other downsampling",
        all(len(found) == 3 for found in strided) and other == "none",
        f"{_listed(strided[0])}; other: {other}",
    )


def _separable(layers: list[Layer]) -> Check:
    convolutions = [x for x in layers if x.is_pointwise or (x.is_convolution and x.is_spatial)]
    separable = [a for a, b in pairwise(convolutions) if a.is_depthwise and b.is_pointwise]
    in_c1 = [x for x in layers if x.is_grouped and x.block == 1]
    return Check(
        "depthwise-separable convolutions, none in C1",
        bool(separable) and not in_c1,
        f"{_listed(separable)}; in C1: {_listed(in_c1)}",
    )


def _dilation(layers: list[Layer]) -> Check:
    dilated = [x for x in layers if x.is_dilated]
    outside = [f"{x} (in C{x.block})" for x in dilated if x.block != 4]
    found = ", ".join(outside) or _listed(dilated)
    return Check("dilation in C4 and nowhere else", bool(dilated) and not outside, found)


def _pooling(trace: Trace, network: nn.Module) -> Check:
    is_average = averages(trace, network)
    found = str(trace.pooling or "none")
    if trace.pooling and not is_average:
        found += ", where the positions of the map do not count equally"
    return Check("global average pooling", is_average, found)


def _parameters(traces: list[Trace], network: nn.Module) -> Check:
    others = max(_other_weights(trace.recording, network) for trace in traces)
    used = {memory(x) for t in traces for step in t.recording.live_steps() for x in step.inputs}
    unused = sum(x.numel() for x in network.parameters() if memory(x) not in used)
    total = sum(parameter.numel() for parameter in network.parameters()) + others
    found = f"{total:,}" + f", {others:,} of them not in an nn.Parameter" * bool(others)
    found += f", {unused:,} of them unused" * bool(unused)
    return Check(f"under {MAX_PARAMETERS:,} parameters", total < MAX_PARAMETERS, found)


def _other_weights(recording: Recording, network: nn.Module) -> int:
    """Elements of tensors that the logits depend on and that the forward pass does not compute.

    Parameters and the running mean and variance of norms are not counted.
    """
    known = {memory(recording.images), *map(memory, network.parameters())}
    sizes = {}
    for step in recording.live_steps():
        for x in step.inputs:
            if not step.is_norm and x.is_floating_point() and memory(x) not in known:
                sizes[memory(x)] = x.untyped_storage().nbytes() // x.element_size()
        known.update(map(memory, step.outputs))
    return sum(sizes.values())


def _receptive_field(trace: Trace, network: nn.Module) -> Check:
    reach, tally = measure(trace, network), trace.receptive_field
    found = str(reach.pixels)
    if not reach.is_exact:
        found = f"at least {found}, measured on {reach.image_size}x{reach.image_size} images"
    if tally < reach.pixels or (reach.is_exact and tally != reach.pixels):
        found += f" (measured, which counts; the tally of layers gives {tally})"
    passed = reach.pixels > MIN_RECEPTIVE_FIELD
    return Check(f"receptive field over {MIN_RECEPTIVE_FIELD}", passed, found)


def _listed(layers: list[Layer]) -> str:
    return ", ".join(map(str, layers)) or "none"
