"""The constraints of an assignment, checked on a network as it runs.

What is not seen:

- a maximum hidden in sorting, in differences of ReLUs or in an operation of one's own
- dilation hidden in sums of shifted maps or in a kernel with zeros
- weights in a plain tensor or in a buffer: only an nn.Parameter counts
- a branch that depends on the data, and that random images do not take
- whether an average is weighted by a map that is computed first: that counts as an activation
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from constraints.assignment import Assignment, read_assignment
from constraints.layers import Layer, memory
from constraints.measured import averages, measure_receptive_field
from constraints.trace import Trace

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
        is_average, found = averages(traced), str(traced.pooling or "none")
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
    pixels, found = measure_receptive_field(traced)
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
