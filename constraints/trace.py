"""The layers of a network and its receptive-field tally, computed from a recorded forward pass."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from console.errors import UserError
from constraints.positions import Motion, Pair, Positions
from constraints.recording import Recording, Step, memory, private_copy


@dataclass(frozen=True)
class Field:
    """The receptive field of one position of a map in pixels, and its distance to the next one's.

    RF_out = RF_in + (k-1) * d * jump_in and jump_out = jump_in * stride, from RF 1, jump 1
    (Araujo, Norris, Sim: "Computing Receptive Fields of Convolutional Neural Networks",
    Distill 2019), for height and width each.
    """

    rf: Pair = (1, 1)
    jump: Pair = (1, 1)

    def after(self, motion: Motion) -> Field:
        growth = zip(motion.kernel, motion.dilation, self.jump, strict=True)
        rf = (r + (k - 1) * d * j for r, (k, d, j) in zip(self.rf, growth, strict=True))
        sides = zip(self.jump, motion.stride, motion.before, motion.after, strict=True)
        jump = (j * b // a if a >= 2 * b else j * s for j, s, b, a in sides)
        return Field(tuple(rf), tuple(jump))


@dataclass(frozen=True)
class Layer:
    """An operation on a map that has weights, or that mixes or removes positions.

    `op` is its name in ATen ("convolution", "max_pool2d_with_indices", "mean"), `name` the module
    in whose forward it ran ("c2a.dw").
    """

    name: str
    op: str
    motion: Motion
    groups: int
    in_channels: int
    is_learned: bool  # its weights are, or are computed from, parameters
    before: Field
    after: Field
    step: int = field(compare=False, repr=False)  # its number in the recording
    block: int = 0  # 1 to 4

    def __str__(self) -> str:
        return self.name if self.is_convolution else f"{self.name} ({self.op})"

    @property
    def is_convolution(self) -> bool:
        return self.op == "convolution"

    @property
    def is_spatial(self) -> bool:
        return self.motion.kernel != (1, 1)

    @property
    def is_depthwise(self) -> bool:
        return self.is_convolution and self.is_spatial and self.groups == self.in_channels > 1

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
        """Whether it is a 3x3 stride-2 convolution."""
        geometry = (self.motion.kernel, self.motion.stride)
        return self.is_convolution and self.is_learned and geometry == ((3, 3), (2, 2))

    @property
    def is_maximum(self) -> bool:
        """Whether it takes a maximum (or minimum) over positions, not only over channels."""
        return self.motion.mixes and bool(re.search("(?<!soft)(?<!arg)(max|min)", self.op))

    @property
    def pools_globally(self) -> bool:
        return 1 in self.motion.after and 1 not in self.motion.before

    @property
    def downsamples(self) -> bool:
        """Whether it has a stride, or leaves less than two thirds of a map, but not one position."""
        sides = zip(self.motion.before, self.motion.after, strict=True)
        shrinks = any(before >= 1.5 * after > 1.5 for before, after in sides)
        return self.motion.stride != (1, 1) or shrinks or self.motion.skips


class Trace:
    """What the logits depend on in a recorded forward pass of 32x32 images.

    `layers` are in the order in which they ran; a branch whose output is thrown away is left out.
    `pooling` is the last one that pools a map, `last_map`, to one position. It is None if the
    network ends otherwise; the last map is then that of the last layer.
    """

    def __init__(self, recording: Recording, model: nn.Module):
        self.recording, self.positions = recording, Positions(recording)
        self._learned = set(map(memory, model.parameters()))
        self._fields = {memory(recording.images): Field()}
        steps = zip(recording.steps, self.positions.motions, recording.is_live(), strict=True)
        followed = [self._follow(i, *step) for i, (*step, is_live) in enumerate(steps) if is_live]
        self.layers = _with_blocks([layer for layer in followed if layer])
        maps = [layer for layer in self.layers if 1 not in layer.motion.after]
        self.pooling = next((x for x in reversed(self.layers) if x.pools_globally), None)
        if self.pooling:
            self.last_map = self._source(recording.steps[self.pooling.step], self.pooling.motion)
        else:
            self.last_map = recording.steps[maps[-1].step].outputs[0] if maps else recording.images

    def _source(self, step: Step, motion: Motion) -> Tensor:
        known = filter(self.positions.has, step.inputs)
        return next(x for x in known if self.positions.size(x) == motion.before)

    def _follow(self, number: int, step: Step, motion: Motion | None) -> Layer | None:
        """The layer that `step` is, if it is one."""
        if not self._learned.isdisjoint(map(memory, step.inputs)):
            self._learned.update(map(memory, step.outputs))
        if not motion:
            return None
        fields = [self._fields[memory(x)] for x in step.inputs if memory(x) in self._fields]
        before = Field(
            *(_larger(*pairs) for pairs in zip(*((f.rf, f.jump) for f in fields), strict=True))
        )
        after = before.after(motion)
        self._fields.update((memory(x), after) for x in step.outputs)
        groups, in_channels, is_learned = 1, 0, True
        if step.op == "convolution":
            weight, groups = step.args[1], step.args[8]
            in_channels, is_learned = weight.shape[1] * groups, memory(weight) in self._learned
        layer = Layer(
            step.module, step.op, motion, groups, in_channels, is_learned, before, after, number
        )
        acts = layer.is_spatial or layer.is_pointwise or layer.is_convolution or layer.is_maximum
        return (
            layer if motion.before != (1, 1) and (acts or motion.before != motion.after) else None
        )

    @property
    def tally(self) -> list[Layer]:
        """The layers that form the receptive field of the last map."""
        last = self.pooling.step if self.pooling else len(self.recording.steps)
        return [x for x in self.layers if x.step < last and 1 not in x.motion.after]

    @property
    def last_map_size(self) -> Pair:
        return self.positions.size(self.last_map)

    @property
    def receptive_field(self) -> int:
        """By the tally, in pixels; the smaller of height and width."""
        return min(self._fields.get(memory(self.last_map), Field()).rf)


def _larger(*pairs: Pair) -> Pair:
    return max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)


def _with_blocks(layers: list[Layer]) -> list[Layer]:
    """The layers with their block: 2 for "c2a.dw", but 1 if any layer of C1 runs later.

    A layer outside of the named blocks belongs to the block that ran before it. In a network
    without such names, a block begins with each 3x3 stride-2 convolution.
    """
    names = [re.search(r"(?:^|\.)c([1-4])(?!\d)", layer.name) for layer in layers]
    numbers = [int(name[1]) if name else 0 for name in names]
    blocks = []
    for index, number in enumerate(numbers):
        later = [n for n in numbers[index:] if n]
        before = blocks[-1] if blocks else 1
        if any(numbers):
            blocks.append(min(later) if number else before)
        else:
            blocks.append(min(4, before + layers[index].is_strided))
    return [replace(layer, block=block) for layer, block in zip(layers, blocks, strict=True)]


def recorded(network: nn.Module, num_classes: int | None = None) -> list[Recording]:
    """Forward passes of `network`, from `private_copy`, in evaluation mode and in training mode.

    Raises:
        UserError: a forward pass fails, or does not give logits (B, num_classes).
    """
    recordings = []
    for mode in ("evaluation", "training"):
        recording = Recording(network, training=mode == "training")
        logits, error = recording.logits, recording.error
        is_right = isinstance(logits, Tensor) and logits.dim() == 2 and len(logits) == 2
        if not is_right or num_classes not in (None, logits.shape[1]):
            images, classes = tuple(recording.images.shape), num_classes or "number of classes"
            result = (
                f"shape {tuple(logits.shape)}"
                if isinstance(logits, Tensor)
                else type(logits).__name__
            )
            found = f"raises {type(error).__name__}: {error}" if error else f"returns {result}"
            raise UserError(
                f"the network must return one tensor of logits (2, {classes}) for images {images}, "
                f"but in {mode} mode it {' '.join(found.split())[:200]}"
            )
        recordings.append(recording)
    return recordings


def traces(network: nn.Module) -> list[Trace]:
    """Of `network`, from `private_copy`: in evaluation mode, and in training mode if it differs.

    Raises:
        UserError: as `recorded`.
    """
    evaluation, training = recorded(network)
    differs = evaluation.signature() != training.signature()
    return [Trace(evaluation, network), *([Trace(training, network)] if differs else [])]


def trace(model: nn.Module) -> list[Layer]:
    """The layers of the forward pass of 32x32 RGB images in evaluation mode."""
    with private_copy(model) as network:
        return traces(network)[0].layers


def tally_markdown(model: nn.Module) -> str:
    """The receptive-field tally of `model` as a Markdown table, one row per layer."""
    rows = [
        "| layer | k | s | d | RF in | RF out | jump in | jump out |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    with private_copy(model) as network:
        layers = traces(network)[0].tally
    for x in layers:
        fields = (x.before.rf, x.after.rf, x.before.jump, x.after.jump)
        figures = map(_side, (x.motion.kernel, x.motion.stride, x.motion.dilation, *fields))
        rows.append(f"| {x} | {' | '.join(figures)} |")
    return "\n".join(rows)


def _side(pair: Pair) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"
