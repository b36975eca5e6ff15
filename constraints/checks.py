"""The constraints of the assignment, checked on a trace of the network as it is."""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from constraints.trace import Layer, receptive_field, record

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


def check(model: nn.Module) -> list[Check]:
    """Checks every constraint on `model`."""
    recorded = record(model)
    layers = recorded.layers
    convolutions = [x for x in layers if x.is_convolution]
    max_pools = [x for x in layers if "max" in x.op]
    strided = [x for x in convolutions if x.kernel == (3, 3) and x.stride == (2, 2)]
    global_pools = [x for x in layers if x.is_global_pooling]
    otherwise_smaller = [
        x for x in layers if x.downsamples and x not in strided and x not in global_pools
    ]
    separable = [a for a, b in pairwise(convolutions) if a.is_depthwise and b.is_pointwise]
    depthwise_in_c1 = [x for x in convolutions if x.is_depthwise and x.block == "c1"]
    dilated = [x for x in convolutions if x.dilation != (1, 1)]
    averages = recorded.field_of[id(recorded.logits)].averaged
    parameters = sum(parameter.numel() for parameter in model.parameters())
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
        Check("global average pooling", averages, _listed(global_pools)),
        Check(
            f"under {MAX_PARAMETERS:,} parameters", parameters < MAX_PARAMETERS, f"{parameters:,}"
        ),
        Check(
            f"receptive field over {MIN_RECEPTIVE_FIELD}", field > MIN_RECEPTIVE_FIELD, str(field)
        ),
    ]


def _listed(layers: list[Layer]) -> str:
    return ", ".join(map(str, layers)) or "none"
