"""How the feature map moves through the operations of a forward pass.

Each operation carries receptive field, jump and size of the map from its inputs to its outputs.
For each memory that holds a map it is noted along which strides the row and the column change, so
that views of it (slices, transposed maps, tokens, patches) need no rule of their own.
"""

import re
from collections.abc import Iterable
from itertools import chain
from math import prod
from typing import NamedTuple

from torch import Tensor, nn

from constraints.layers import AVERAGES, Layer, MapState, Pair, Step, memory, record


class Piece(NamedTuple):
    """Index n along a dimension stands for row (axis 0) or column pace * (n // step % count)."""

    axis: int
    step: int
    count: int
    pace: int | float = 1


Dims = list[list[Piece]]  # for each dimension of a tensor


class _Motion(NamedTuple):
    """What an operation does to a map, for height and width each.

    `pace` is the stride, below 1 if it enlarges the map. `dims` are those of the result.
    """

    kernel: Pair
    pace: tuple[float, float]
    dilation: Pair
    before: Pair
    after: Pair
    dims: Dims


class _Note(NamedTuple):
    """The map in a memory; the steps of its pieces are in elements."""

    rf: Pair
    jump: Pair
    pieces: list[Piece]
    origin: object = None  # differs where maps are shifted against each other
    gathers: bool = False  # the channels of a position hold the values of several positions


class Trace:
    """A forward pass of images (B, 3, H, W) through `network`, in its mode.

    `layers` are in the order in which they ran. `pooling` is the one that pools the map with the
    largest field, `last_map`, to one position. It is None if there is none; the last map is then
    that of the last layer. `receptive_field` is that of the last map by the tally, in pixels, the
    smaller of height and width. `training` is the same in training mode. `blocks_are_guessed` if
    the names of the modules tell no blocks.
    """

    training: "Trace"
    blocks_are_guessed: bool

    def __init__(
        self, network: nn.Module, images: Tensor, parameters: dict[str, Tensor] | None = None
    ):
        self.images = images.detach().requires_grad_().clone()  # which may be changed in place
        self.network, self.layers = network, []
        self.logits, self.steps = record(network, self.images, parameters or {})
        self._learned = set(map(memory, network.parameters()))
        height, width = images.shape[2:]
        pieces = [Piece(0, width, height), Piece(1, 1, width)]
        self._notes = {memory(self.images): _Note((1, 1), (1, 1), pieces)}
        for step in self.steps:
            if not self._learned.isdisjoint(map(memory, step.inputs)):
                self._learned.update(map(memory, step.outputs))
            self._follow(step)
        pools = [layer for layer in reversed(self.layers) if layer.pools_globally]
        self.pooling = max(pools, key=lambda layer: min(layer.before.rf), default=None)
        self.last_map, fields = self.images, (1, 1)
        if self.pooling:
            self.last_map, fields = self.pooling.source, self.pooling.before.rf
        elif self.layers:
            self.last_map, fields = self.layers[-1].step.outputs[0], self.layers[-1].after.rf
        self.receptive_field = min(fields)

    @property
    def tally(self) -> list[Layer]:
        """The layers that form the receptive field of the last map."""
        end = self.layers.index(self.pooling) if self.pooling else None
        return [x for x in self.layers[:end] if x.has_map]

    @property
    def layers_of_both_modes(self) -> list[Layer]:
        return [*self.layers, *(x for x in self.training.layers if x not in self.layers)]

    def dims(self, tensor: Tensor) -> Dims:
        """How the position changes along each dimension of `tensor`."""
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
        noted = self._notes.get(memory(step.outputs[0]))
        if not sources or (noted and not step.is_in_place):  # or it only views
            return
        if re.match("new_|.*_like$", step.op):  # takes a shape, and no values
            return
        sources.sort(key=lambda x: -prod(_size(self.dims(x))))  # the largest map first
        notes = [self._notes[memory(x)] for x in sources]
        motion = _window(step, self.dims(sources[0])) or self._combine(step, sources)
        rf, jump = (_largest(pairs) for pairs in zip(*((x.rf, x.jump) for x in notes), strict=True))
        before = MapState(rf, jump, motion.before)
        after = _move(before, motion)
        origins = [self._origin(x) for x in sources if any(self.dims(x))]
        is_shifted = len(set(origins)) > 1
        gathers = any(note.gathers for note in notes) or step.op == "im2col"
        self._add_layer(
            Layer(
                step,
                sources[0],
                step.module,
                step.op,
                kernel=motion.kernel,
                stride=tuple(max(1, int(pace)) for pace in motion.pace),
                dilation=motion.dilation,
                before=before,
                after=after,
                mixes=motion.kernel != (1, 1) or gathers or is_shifted,
                is_learned=step.op != "convolution"
                or memory(step.arguments["weight"]) in self._learned,
            )
        )
        origin = next(iter(origins), None)
        if step.op == "convolution":
            origin, gathers = None, False
        elif re.search("roll|flip|pad|index|gather", step.op):
            origin = id(step)
        elif step.op in ("cat", "stack"):
            gathers = gathers or is_shifted
        for tensor in step.outputs:
            if tensor.shape == step.outputs[0].shape:
                pieces = noted.pieces if noted else _in_memory(tensor, motion.dims)
                note = _Note(after.rf, after.jump, pieces, origin, gathers)
                self._notes[memory(tensor)] = note

    def _add_layer(self, layer: Layer) -> None:
        follows_1x1 = bool(self.layers) and self.layers[-1].is_convolution
        follows_1x1 = follows_1x1 and self.layers[-1].after.size == layer.before.size == (1, 1)
        moves = layer.is_spatial or layer.before.jump != layer.after.jump or layer.is_maximum
        on_a_map = layer.before.size != (1, 1) and (moves or layer.is_product)
        if on_a_map or (follows_1x1 and layer.op in AVERAGES):
            self.layers.append(layer)

    def _origin(self, tensor: Tensor) -> object:
        """Equal for tensors whose elements at one index stand for one position."""
        note, offset = self._notes[memory(tensor)], tensor.storage_offset()
        first = tuple(offset // piece.step % piece.count for piece in note.pieces)
        return (note.origin, first) if any(first) else note.origin

    def _combine(self, step: Step, sources: list[Tensor]) -> _Motion:
        """The motion of what has no window: which dimensions are kept, over which it sums."""
        result, dims = step.outputs[0], [self.dims(x) for x in sources]
        if step.op in ("mm", "addmm", "bmm", "baddbmm"):
            a, b = map(self.dims, step.inputs[-2:])
            kept, lost = [*a[:-1], b[-1]], [*a[-1], *b[-2]]
        elif result.dim() < len(dims[0]):
            given = step.arguments.get("dim")
            removed = [given] if isinstance(given, int) else given or range(len(dims[0]))
            removed = {dim % len(dims[0]) for dim in removed}
            kept = [pieces for dim, pieces in enumerate(dims[0]) if dim not in removed]
            lost = list(chain(*(dims[0][dim] for dim in removed)))
        else:
            kept, lost = _align(step, sources, dims)
        if len(kept) != result.dim():  # not computed dimension by dimension
            kept, lost = [[]] * result.dim(), list(chain(*dims[0]))
        kernel, pace, dilation = [], [], []
        for axis in (0, 1):
            window = {piece for piece in lost if piece.axis == axis}
            is_one = len(window) == 1
            extent = 1 + sum(piece.pace * (piece.count - 1) for piece in window)
            kernel.append(max(piece.count for piece in window) if is_one else extent)
            dilation.append(max(piece.pace for piece in window) if is_one else 1)
            paces = [piece.pace for piece in chain(*kept) if piece.axis == axis]
            pace.append(paces[0] if len(paces) == 1 else 1)
        after = [[p._replace(pace=1) if p.pace == pace[p.axis] else p for p in x] for x in kept]
        sizes = map(tuple, (kernel, pace, dilation, _size(dims[0]), _size(kept)))
        return _Motion(*sizes, after)


def _window(step: Step, dims: Dims) -> _Motion | None:
    """The motion of a convolution, of a pooling with a kernel or of `F.unfold`; else None."""
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
    grid = [[Piece(0, 1, after[0])], [Piece(1, 1, after[1])]]
    if step.op == "im2col":
        sides = zip(before, kernel, dilation, given["padding"], stride, strict=True)
        after = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in sides)
        grid = [[Piece(0, after[1], after[0]), Piece(1, 1, after[1])]]
    if given.get("transposed"):
        stride = [1 / each for each in stride]
    # a window on x[..., ::2] has twice the stride and dilation on x
    paces = [next((piece.pace for piece in pieces), 1) for pieces in dims[-2:]]
    stride = [each * pace for each, pace in zip(stride, paces, strict=True)]
    dilation = [each * pace for each, pace in zip(dilation, paces, strict=True)]
    sizes = map(tuple, (kernel, stride, dilation, before, after))
    return _Motion(*sizes, [[]] * (result.dim() - len(grid)) + grid)


def _align(step: Step, sources: list[Tensor], dims: list[Dims]) -> tuple[Dims, list[Piece]]:
    """For a result that has the dimensions of its inputs, aligned at the last one."""
    kept, lost, result = [], [], step.outputs[0]
    for dim, size in enumerate(result.shape, start=-result.dim()):
        known = (
            (source.shape[dim], each[dim])
            for source, each in zip(sources, dims, strict=True)
            if source.dim() >= -dim and each[dim]
        )
        size_before, pieces = next(known, (size, []))
        if size == 1:
            lost += pieces
            pieces = []
        elif len(pieces) == 1 and size != size_before and not result.is_complex():
            ratio = 1
            if size_before >= 1.5 * size:
                ratio = round(size_before / size)
                lost.append(pieces[0]._replace(step=1, count=ratio))
            elif re.search("upsample|shuffle", step.op):
                ratio = size_before / size
            pieces = [pieces[0]._replace(count=size, pace=pieces[0].pace * ratio)]
        kept.append(pieces)
    return kept, lost


def _in_memory(tensor: Tensor, dims: Dims) -> list[Piece]:
    """The pieces of `dims` with steps in elements of the memory of `tensor`."""
    sides = zip(tensor.stride(), dims, strict=True)
    along = ((stride, piece) for stride, pieces in sides for piece in pieces if piece.count > 1)
    return [piece._replace(step=piece.step * stride) for stride, piece in along]


def _size(dims: Dims) -> Pair:
    return tuple(prod(x.count for x in chain(*dims) if x.axis == axis) for axis in (0, 1))


def _move(before: MapState, motion: _Motion) -> MapState:
    """RF_out = RF_in + (k-1) * d * jump_in and jump_out = jump_in * stride, from RF 1, jump 1.

    Araujo, Norris, Sim: "Computing Receptive Fields of Convolutional Neural Networks", Distill
    2019. Where branches meet, the larger one holds.
    """
    sides = zip(before.rf, motion.kernel, motion.dilation, before.jump, strict=True)
    rf = tuple(r + (k - 1) * d * j for r, k, d, j in sides)
    jump = tuple(max(1, int(j * s)) for j, s in zip(before.jump, motion.pace, strict=True))
    return MapState(rf, jump, motion.after)


def _largest(pairs: Iterable[Pair]) -> Pair:
    return tuple(map(max, zip(*pairs, strict=True)))
