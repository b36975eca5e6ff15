"""The layers of a network and its receptive-field tally, computed from a recorded forward pass."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from torch import nn

from constraints.positions import Motion, Pair, Positions
from constraints.recording import Recording, Step, memory, private_copy, record


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive field of one position of a map in pixels, and its distance to the next one's.

    RF_out = RF_in + (k-1) * d * jump_in and jump_out = jump_in * stride, from RF 1, jump 1
    (Araujo, Norris, Sim: "Computing Receptive Fields of Convolutional Neural Networks",
    Distill 2019), for height and width each. Where branches meet, the larger one holds.
    """

    rf: Pair = (1, 1)
    jump: Pair = (1, 1)

    def after(self, motion: Motion) -> ReceptiveField:
        growth = zip(motion.kernel, motion.dilation, self.jump, strict=True)
        rf = (r + (k - 1) * d * j for r, (k, d, j) in zip(self.rf, growth, strict=True))
        sides = zip(self.jump, motion.stride, motion.before, motion.after, strict=True)
        jump = (j * b // a if a >= 2 * b else j * s for j, s, b, a in sides)
        return ReceptiveField(tuple(rf), tuple(jump))


@dataclass(frozen=True)
class Layer:
    """A matrix product or convolution on a map, or what mixes or removes positions of a map.

    `op` is its name in ATen ("convolution", "max_pool2d_with_indices", "mean"), `name` the module
    in whose forward it ran ("c2a.dw"), `block` the number of its block, 1 to 4.
    """

    name: str
    op: str
    motion: Motion
    groups: int
    in_channels: int
    is_learned: bool  # its weights are, or are computed from, parameters
    before: ReceptiveField
    after: ReceptiveField
    step: Step = field(compare=False, repr=False)
    block: int = 0

    def __str__(self) -> str:
        return self.name if self.is_convolution else f"{self.name} ({self.op})"

    @property
    def is_convolution(self) -> bool:
        return self.op == "convolution"

    @property
    def is_spatial(self) -> bool:
        return self.motion.kernel != (1, 1)

    @property
    def is_grouped(self) -> bool:
        return self.is_convolution and self.is_spatial and self.groups > 1

    @property
    def is_depthwise(self) -> bool:
        return self.is_grouped and self.groups == self.in_channels

    @property
    def is_pointwise(self) -> bool:
        is_product = self.is_convolution or self.op in ("mm", "addmm")
        return is_product and not self.is_spatial and self.groups == 1

    @property
    def is_dilated(self) -> bool:
        sides = zip(self.motion.kernel, self.motion.dilation, strict=True)
        return any(kernel > 1 and dilation > 1 for kernel, dilation in sides)

    @property
    def is_strided(self) -> bool:
        """Whether it is a 3x3 stride-2 convolution; one with fixed weights is a pooling."""
        geometry = (self.motion.kernel, self.motion.stride)
        return self.is_convolution and self.is_learned and geometry == ((3, 3), (2, 2))

    @property
    def downsamples(self) -> bool:
        """Whether it has a stride, or leaves two thirds of a map or less, but not one position."""
        sides = zip(self.motion.before, self.motion.after, strict=True)
        shrinks = any(before >= 1.5 * after > 1.5 for before, after in sides)
        return self.motion.stride != (1, 1) or shrinks or self.motion.skips

    @property
    def is_maximum(self) -> bool:
        """Whether it takes a maximum (or minimum) over positions, not only over channels."""
        return self.motion.mixes and bool(re.search("(?<!soft)(?<!arg)(max|min)", self.op))

    @property
    def pools_globally(self) -> bool:
        return 1 in self.motion.after and 1 not in self.motion.before


class Trace:
    """What the logits depend on in a recorded forward pass.

    `layers` are in the order in which they ran; a branch whose output is thrown away is left out.
    `pooling` is the one that pools the map with the largest field, `last_map`, to one position. It
    is None if there is none; the last map is then that of the last layer.
    """

    def __init__(self, recording: Recording, network: nn.Module):
        steps = recording.live_steps()
        self.recording, self.positions = recording, Positions(recording.images, steps)
        self._learned = set(map(memory, network.parameters()))
        self._fields = {memory(recording.images): ReceptiveField()}
        layers = map(self._follow, steps, self.positions.motions)
        self.layers = _with_blocks([layer for layer in layers if layer])
        pooling = [layer for layer in reversed(self.layers) if layer.pools_globally]
        self.pooling = max(pooling, key=lambda layer: min(layer.before.rf), default=None)
        self.last_map = recording.images
        if self.pooling:
            known = filter(self.positions.has, self.pooling.step.inputs)
            self.last_map = max(known, key=lambda x: min(self.positions.size(x)))
        elif self.layers:
            self.last_map = self.layers[-1].step.outputs[0]

    def _follow(self, step: Step, motion: Motion | None) -> Layer | None:
        """The layer that `step` is, if it is one."""
        if not self._learned.isdisjoint(map(memory, step.inputs)):
            self._learned.update(map(memory, step.outputs))
        if not motion:
            return None
        fields = [self._fields[memory(x)] for x in step.inputs if memory(x) in self._fields]
        rf, jump = _larger(*(x.rf for x in fields)), _larger(*(x.jump for x in fields))
        before = ReceptiveField(rf, jump)
        after = before.after(motion)
        self._fields.update((memory(x), after) for x in step.outputs)
        groups, in_channels, is_learned = 1, 0, True
        if step.op == "convolution":
            weight, groups = step.args[1], step.args[8]
            in_channels, is_learned = weight.shape[1] * groups, memory(weight) in self._learned
        weights = (groups, in_channels, is_learned)
        layer = Layer(step.module, step.op, motion, *weights, before, after, step)
        moves = layer.is_spatial or layer.is_maximum or motion.before != motion.after
        is_product = layer.is_convolution or layer.is_pointwise
        return layer if (moves or is_product) and motion.before != (1, 1) else None

    @property
    def size(self) -> Pair:
        """Height and width of the last map."""
        return self.positions.size(self.last_map)

    @property
    def tally(self) -> list[Layer]:
        """The layers that form the receptive field of the last map."""
        end = self.layers.index(self.pooling) if self.pooling else None
        return [x for x in self.layers[:end] if 1 not in x.motion.after]

    @property
    def receptive_field(self) -> int:
        """By the tally, in pixels; the smaller of height and width."""
        return min(self._fields[memory(self.last_map)].rf)


def _larger(*pairs: Pair) -> Pair:
    return max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)


def _with_blocks(layers: list[Layer]) -> list[Layer]:
    """The layers with their block: 2 for "c2a.dw", but 1 if a layer of C1 runs later.

    A layer outside of the named blocks belongs to the block that ran before it. Names tell nothing
    if several modules have a "c1", as the blocks of a ResNet may. In a network whose names tell
    nothing, each 3x3 stride-2 convolution begins the next block.
    """
    names = [re.match(r"(?:|.*?\.)[cC]([1-4])(?!\d)", layer.name) for layer in layers]
    numbers = [int(name[1]) if name else 0 for name in names]
    paths = {name[0].lower() for name in names if name}  # "c1", or "layers.0.c1"
    if len(paths) > len({path[-1] for path in paths}):  # one number in several modules
        numbers = [0] * len(layers)
    numbered, block = [], 1
    for index, layer in enumerate(layers):
        if not any(numbers):
            block = min(4, block + layer.is_strided)
        elif numbers[index]:
            block = min(number for number in numbers[index:] if number)
        numbered.append(replace(layer, block=block))
    return numbered


def trace(model: nn.Module) -> Trace:
    """What the logits of 32x32 RGB images in evaluation mode depend on."""
    with private_copy(model) as network:
        return Trace(record(network)[0], network)
