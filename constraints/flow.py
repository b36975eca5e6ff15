"""How the feature map moves through the operations of a forward pass.

Each operation carries receptive field, jump and size of the map from its inputs to its outputs.
For each tensor that holds a map it is noted along which strides of its memory the row and the
column change, so that views (slices, transposed maps, tokens, patches) need no rule of their own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from typing import NamedTuple

from torch import Tensor, nn

from constraints.recording import Recording, Step, memory

Pair = tuple[int, int]  # of (height, width)
MATRIX_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
AVERAGES = ("mean", "sum", "avg_pool2d", "_adaptive_avg_pool2d")


@dataclass(frozen=True)
class MapState:
    """A feature map: its size, the receptive field of a position, the distance to the next one's.

    RF_out = RF_in + (k-1) * d * jump_in and jump_out = jump_in * stride, in pixels, from RF 1,
    jump 1 (Araujo, Norris, Sim: "Computing Receptive Fields of Convolutional Neural Networks",
    Distill 2019), for height and width each. Where branches meet, the larger one holds.
    """

    rf: Pair
    jump: Pair
    size: Pair


@dataclass
class Layer:
    """A matrix product or convolution on a map, or what mixes or removes positions of a map.

    `name` is the module in whose forward it ran ("c2a.dw"), `op` its name in ATen ("convolution",
    "max_pool2d_with_indices", "mean"), `block` the number of its block, 1 to 4.
    """

    name: str
    op: str
    kernel: Pair
    stride: Pair
    dilation: Pair
    before: MapState
    after: MapState
    is_slice: bool  # its input is a strided slice such as x[..., ::2]
    is_maximum: bool  # or minimum, over positions and not only over channels
    groups: int = 1
    in_channels: int = 0  # 0 if it is no convolution
    out_channels: int = 0
    is_learned: bool = True  # its weights are, or are computed from, parameters
    block: int = 0
    step: Step | None = field(default=None, compare=False, repr=False)
    source: Tensor | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.name if self.is_convolution else f"{self.name} ({self.op})"

    @property
    def is_convolution(self) -> bool:
        return self.op == "convolution"

    @property
    def is_spatial(self) -> bool:
        return self.kernel != (1, 1)

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
        return any(k > 1 and d > 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def is_strided(self) -> bool:
        """Whether it is a 3x3 stride-2 convolution; one with fixed weights is a pooling."""
        is_3x3 = self.is_convolution and (self.kernel, self.stride) == ((3, 3), (2, 2))
        return is_3x3 and self.is_learned and not self.is_slice

    @property
    def downsamples(self) -> bool:
        return (self.stride != (1, 1) and not self.pools_globally) or self.is_slice

    @property
    def crops(self) -> bool:
        """Whether it is a convolution without a stride that is padded by less than its extent."""
        shrinks = any(b > a for b, a in zip(self.before.size, self.after.size, strict=True))
        return self.is_convolution and shrinks and not self.downsamples

    @property
    def pools_globally(self) -> bool:
        """Whether it leaves one row or column of a map; a convolution that does is no pooling."""
        was_map = 1 not in self.before.size or self.before.size == (1, 1)
        return 1 in self.after.size and was_map and not self.is_convolution


class Piece(NamedTuple):
    """Index n along a dimension stands for row (axis 0) or column pace * (n // step % count)."""

    axis: int
    step: int
    count: int
    pace: int | float = 1


class _Note(NamedTuple):
    """The map in a memory; the steps of its pieces are in elements."""

    rf: Pair
    jump: Pair
    pieces: list[Piece]
    origin: object = None  # differs where maps are shifted against each other
    gathers: bool = False  # the channels of a position hold the values of several positions


class Flow:
    """The layers of a recorded forward pass, in the order in which they ran.

    `pooling` is the one that pools the map with the largest field, `last_map`, to one position. It
    is None if there is none; the last map is then that of the last layer.
    """

    def __init__(self, recording: Recording, network: nn.Module):
        self.recording, self.layers = recording, []
        self._learned = set(map(memory, network.parameters()))
        self._notes = {}
        height, width = recording.images.shape[2:]
        grid = [[], [], [Piece(0, 1, height)], [Piece(1, 1, width)]]
        self._note(recording.images, grid, (1, 1), (1, 1))
        for step in recording.steps:
            if not self._learned.isdisjoint(map(memory, step.inputs)):
                self._learned.update(map(memory, step.outputs))
            self._follow(step)
        pools = [layer for layer in reversed(self.layers) if layer.pools_globally]
        self.pooling = max(pools, key=lambda layer: min(layer.before.rf), default=None)
        self.last_map, self.receptive_field = recording.images, 1
        if self.pooling:
            self.last_map, fields = self.pooling.source, self.pooling.before.rf
        elif self.layers:
            self.last_map, fields = self.layers[-1].step.outputs[0], self.layers[-1].after.rf
        if self.layers:
            self.receptive_field = min(fields)

    @property
    def tally(self) -> list[Layer]:
        """The layers that form the receptive field of the last map."""
        end = self.layers.index(self.pooling) if self.pooling else None
        return [x for x in self.layers[:end] if x.is_convolution or 1 not in x.after.size]

    def dims(self, tensor: Tensor) -> list[list[Piece]]:
        """For each dimension of `tensor`, how the position changes along it."""
        note, found = self._notes.get(memory(tensor)), []
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            found.append([])
            for axis, step, count, pace in note.pieces if note else ():
                if size > 1 and 0 < stride < step * count and step < stride * size:
                    skipped = max(stride // step, 1)
                    count = min(-(-count // skipped), max(stride * size // step, 1), size)
                    found[-1].append(Piece(axis, max(step // stride, 1), count, pace * skipped))
        return found

    def _follow(self, step: Step) -> None:
        """Notes the map in the results of `step`, and adds the layer that it is, if it is one."""
        sources = [x for x in step.inputs if memory(x) in self._notes]
        is_noted = memory(step.outputs[0]) in self._notes
        if not sources or (is_noted and not step.is_in_place):  # or it only views
            return
        sources.sort(key=self._positions, reverse=True)
        dims = [self.dims(x) for x in sources]
        motion = _window(step, dims[0]) or _combination(step, sources, dims, self.dims)
        notes = [self._notes[memory(x)] for x in sources]
        rf = tuple(max(sides) for sides in zip(*(note.rf for note in notes), strict=True))
        jump = tuple(max(sides) for sides in zip(*(note.jump for note in notes), strict=True))
        jump = tuple(j * s for j, s in zip(jump, motion.skipped, strict=True))
        before = MapState(rf, jump, motion.before)
        sides = zip(rf, motion.kernel, motion.dilation, jump, strict=True)
        rf = tuple(r + (k - 1) * d * j for r, k, d, j in sides)
        jump = tuple(max(1, int(j * pace)) for j, pace in zip(jump, motion.pace, strict=True))
        after = MapState(rf, jump, motion.after)

        origins = [self._origin(x) for x in sources if self._positions(x) > 1]
        is_shifted = len(set(origins)) > 1
        gathers = any(note.gathers for note in notes) or step.op == "im2col"
        is_mixed = motion.kernel != (1, 1) or gathers or is_shifted
        is_maximum = is_mixed and bool(re.search("(?<!soft)(?<!arg)(max|min)", step.op))
        self._add_layer(step, sources[0], motion, before, after, is_maximum)
        origin = next(iter(origins), None)
        if step.op == "convolution":
            origin, gathers = None, False
        elif re.search("roll|flip|pad|index|gather", step.op):
            origin = id(step)
        elif step.op in ("cat", "stack"):
            gathers = gathers or is_shifted
        pieces = self._notes[memory(step.outputs[0])].pieces if is_noted else None
        for tensor in step.outputs:
            if tensor.shape == step.outputs[0].shape:
                self._note(tensor, motion.dims, rf, jump, origin, gathers, pieces)

    def _add_layer(
        self,
        step: Step,
        source: Tensor,
        motion: "_Motion",
        before: MapState,
        after: MapState,
        is_maximum: bool,
    ) -> None:
        last = self.layers[-1] if self.layers else None
        follows_1x1 = last is not None and last.is_convolution and last.after.size == (1, 1)
        pools_1x1 = follows_1x1 and step.op in AVERAGES
        moves = motion.kernel != (1, 1) or motion.pace != (1, 1) or is_maximum
        is_product = step.op == "convolution" or step.op in MATRIX_PRODUCTS[:2]
        if not pools_1x1 and (before.size == (1, 1) or not (moves or is_product)):
            return
        layer = Layer(
            name=step.module,
            op=step.op,
            kernel=motion.kernel,
            stride=tuple(max(1, int(pace)) for pace in motion.pace),
            dilation=motion.dilation,
            before=before,
            after=after,
            is_slice=motion.skipped != (1, 1),
            is_maximum=is_maximum,
            step=step,
            source=source,
        )
        if layer.is_convolution:
            weight, layer.groups = step.arguments["weight"], step.arguments["groups"]
            layer.in_channels, layer.out_channels = weight.shape[1] * layer.groups, len(weight)
            layer.is_learned = memory(weight) in self._learned
        self.layers.append(layer)

    def _positions(self, tensor: Tensor) -> int:
        return prod(_size(self.dims(tensor)))

    def _origin(self, tensor: Tensor) -> object:
        """Equal for tensors whose elements at one index stand for one position."""
        note, offset = self._notes[memory(tensor)], tensor.storage_offset()
        first = tuple(offset // piece.step % piece.count for piece in note.pieces)
        return (note.origin, first) if any(first) else note.origin

    def _note(self, tensor, dims, rf, jump, origin=None, gathers=False, pieces=None) -> None:
        if pieces is None:
            pieces = [
                piece._replace(step=piece.step * stride)
                for stride, along in zip(tensor.stride(), dims, strict=True)
                for piece in along
                if piece.count > 1
            ]
        self._notes[memory(tensor)] = _Note(rf, jump, pieces, origin, gathers)


class _Motion(NamedTuple):
    """What an operation does to a map, for height and width each.

    `pace` is the stride, below 1 if it enlarges the map. `dims` are those of the result. `skipped`
    is the stride of the slice that is the input.
    """

    kernel: Pair
    pace: tuple[float, float]
    dilation: Pair
    before: Pair
    after: Pair
    dims: list[list[Piece]]
    skipped: Pair = (1, 1)


def _window(step: Step, dims: list[list[Piece]]) -> _Motion | None:
    """The motion of a convolution, of a pooling with a kernel or of `F.unfold`."""
    given, result = step.arguments, step.outputs[0]
    if step.op == "convolution" and result.dim() == 4:
        kernel = given["weight"].shape[2:]
    elif "kernel_size" in given:
        kernel = given["kernel_size"][-2:]
    else:
        return None
    stride = (given.get("stride") or kernel)[-2:]
    dilation = given.get("dilation", (1, 1))[-2:]
    before, after = step.inputs[0].shape[-2:], result.shape[-2:]
    if step.op == "im2col":
        sides = zip(before, kernel, dilation, given["padding"], stride, strict=True)
        after = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in sides)
        grid = [[Piece(0, after[1], after[0]), Piece(1, 1, after[1])]]
    else:
        grid = [[Piece(0, 1, after[0])], [Piece(1, 1, after[1])]]
    grid = [[]] * (result.dim() - len(grid)) + grid
    if given.get("transposed"):
        stride = tuple(1 / each for each in stride)
    skipped = tuple(next((piece.pace for piece in pieces), 1) for pieces in dims[-2:])
    sizes = map(tuple, (kernel, stride, dilation, before, after))
    return _Motion(*sizes, grid, skipped)


def _combination(step: Step, sources: list[Tensor], dims: list, dims_of: Callable) -> _Motion:
    """The motion of any other operation, from the dimensions of its inputs and of its result."""
    result, first = step.outputs[0], dims[0]
    if step.op in MATRIX_PRODUCTS:
        a, b = map(dims_of, step.inputs[-2:])
        kept, lost = [*a[:-1], b[-1]], [*a[-1], *b[-2]]
    elif step.op == "stack":
        kept, lost = list(first), []
        kept.insert(step.arguments.get("dim", 0), [])
    elif result.dim() < len(first):
        given = step.arguments.get("dim")
        removed = range(len(first)) if given in (None, []) else given
        removed = {d % len(first) for d in ([removed] if isinstance(removed, int) else removed)}
        kept = [pieces for d, pieces in enumerate(first) if d not in removed]
        lost = [piece for d in removed for piece in first[d]]
    else:
        kept, lost = _kept_and_lost(step, sources, dims)
    if len(kept) != result.dim():  # not computed dimension by dimension
        kept, lost = [[]] * result.dim(), list(chain(*first))
    kernel, pace, dilation = [], [], []
    for axis in (0, 1):
        window = {piece for piece in lost if piece.axis == axis}
        extent = 1 + sum(piece.pace * (piece.count - 1) for piece in window)
        kernel.append(next(iter(window)).count if len(window) == 1 else extent)
        dilation.append(next(iter(window)).pace if len(window) == 1 else 1)
        paces = [piece.pace for piece in chain(*kept) if piece.axis == axis]
        pace.append(paces[0] if len(paces) == 1 else 1)
    new = [[p._replace(pace=1) if p.pace == pace[p.axis] else p for p in pieces] for pieces in kept]
    return _Motion(tuple(kernel), tuple(pace), tuple(dilation), _size(first), _size(kept), new)


def _kept_and_lost(step: Step, sources: list[Tensor], dims: list) -> tuple[list, list]:
    """For an operation whose result has the dimensions of its inputs, aligned at the last one."""
    kept, lost, result = [], [], step.outputs[0]
    for d, size in enumerate(result.shape, start=-result.dim()):
        known = (
            (x.shape[d], pieces[d])
            for x, pieces in zip(sources, dims, strict=True)
            if x.dim() >= -d and pieces[d]
        )
        size_before, pieces = next(known, (size, []))
        if size == 1:
            lost += pieces
            pieces = []
        elif len(pieces) == 1 and size != size_before and not result.is_complex():
            (piece,), ratio = pieces, 1
            if size_before >= 1.5 * size:
                ratio = round(size_before / size)
                lost.append(Piece(piece.axis, 1, ratio))
            elif re.search("upsample|shuffle", step.op):
                ratio = size_before / size
            pieces = [piece._replace(count=size, pace=piece.pace * ratio)]
        kept.append(pieces)
    return kept, lost


def _size(dims: list[list[Piece]]) -> Pair:
    return tuple(prod(x.count for x in chain(*dims) if x.axis == axis) for axis in (0, 1))
