"""The constraints of the assignment, checked on a network as it runs.

What cannot be known: ...
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from constraints.measure import averages, measure
from constraints.recording import Recording, memory, private_copy
from constraints.trace import Layer, Trace, recorded, traces

MAX_PARAMETERS = 200_000
MIN_RECEPTIVE_FIELD = 44
LAST_MAP = 4  # pixels; what three strides leave of 32


@dataclass(frozen=True)
class Check:
    """One constraint, whether a network keeps it, and what was found."""

    constraint: str
    passed: bool
    found: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.constraint}: {self.found}"


def check(model: nn.Module) -> list[Check]:
    """Checks every constraint on `model`."""
    with private_copy(model) as network:
        found = traces(network)
        layers = list(dict.fromkeys(layer for trace in found for layer in trace.layers))
        return [
            _max_pooling(layers),
            _downsampling(found),
            _separable(layers),
            _dilation(layers),
            _pooling(found[0], network),
            _parameters(found, network),
            _receptive_field(found[0], network),
        ]


def _max_pooling(layers: list[Layer]) -> Check:
    maxima = [x for x in layers if x.is_maximum]
    return Check("no max-pooling", not maxima, _listed(maxima))


def _downsampling(found: list[Trace]) -> Check:
    strided = [[x for x in trace.layers if x.is_strided] for trace in found]
    layers = dict.fromkeys(layer for trace in found for layer in trace.layers)
    other = _listed([x for x in layers if x.downsamples and not x.is_strided])
    height, width = found[0].last_map_size
    if min(height, width) < LAST_MAP and other == "none":
        other = f"the last map is {height}x{width}"
    return Check(
        "exactly three 3x3 stride-2 convolutions and no other downsampling",
        all(len(each) == 3 for each in strided) and other == "none",
        f"{_listed(strided[0])}; other: {other}",
    )


def _separable(layers: list[Layer]) -> Check:
    convolutions = [x for x in layers if x.is_pointwise or (x.is_convolution and x.is_spatial)]
    separable = [a for a, b in pairwise(convolutions) if a.is_depthwise and b.is_pointwise]
    grouped = [x for x in layers if x.is_convolution and x.is_spatial and x.groups > 1]
    in_c1 = [x for x in grouped if x.block == 1]
    return Check(
        "depthwise-separable convolutions, none in C1",
        bool(separable) and not in_c1,
        f"{_listed(separable)}; in C1: {_listed(in_c1)}",
    )


def _dilation(layers: list[Layer]) -> Check:
    dilated = [x for x in layers if x.is_dilated]
    return Check(
        "dilation in C4 and nowhere else",
        bool(dilated) and all(x.block == 4 for x in dilated),
        _listed(dilated),
    )


def _pooling(trace: Trace, network: nn.Module) -> Check:
    pooling = [trace.pooling] if trace.pooling else []
    return Check("global average pooling", averages(trace, network), _listed(pooling))


def _parameters(found: list[Trace], network: nn.Module) -> Check:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    others = max(_other_weights(trace.recording, network) for trace in found)
    total = f"{parameters + others:,}"
    if others:
        total += f", {others:,} of them in tensors that are not parameters"
    is_under = parameters + others < MAX_PARAMETERS
    return Check(f"under {MAX_PARAMETERS:,} parameters", is_under, total)


def _other_weights(recording: Recording, network: nn.Module) -> int:
    """Elements of the tensors that the logits depend on and that the forward pass does not make.

    Parameters and the running mean and variance of norms are not counted.
    """
    known = {memory(recording.images), *map(memory, network.parameters())}
    sizes = {}
    for step, is_live in zip(recording.steps, recording.is_live(), strict=True):
        for x in step.inputs:
            if is_live and not step.is_norm and x.is_floating_point() and memory(x) not in known:
                sizes[memory(x)] = x.untyped_storage().nbytes() // x.element_size()
        known.update(map(memory, step.outputs))
    return sum(sizes.values())


def _receptive_field(trace: Trace, network: nn.Module) -> Check:
    reach, tally = measure(trace, network), trace.receptive_field
    found = str(reach.pixels)
    if not reach.is_exact:
        found = f"at least {found}, measured on images of {reach.image_size} pixels"
    if tally < reach.pixels or (tally > reach.pixels and reach.is_exact):
        found += f" (measured, which counts; the tally of layers gives {tally})"
    passed = reach.pixels > MIN_RECEPTIVE_FIELD
    return Check(f"receptive field over {MIN_RECEPTIVE_FIELD}", passed, found)


def _listed(layers: list[Layer]) -> str:
    return ", ".join(map(str, layers)) or "none"


def check_output(model: nn.Module, num_classes: int) -> None:
    """Raises UserError, in one line, unless images (2, 3, 32, 32) give logits (2, num_classes)."""
    with private_copy(model) as network:
        recorded(network, num_classes)
