"""How every operation of a forward pass moves and mixes the positions of the feature map.

Each element of a tensor has a row and a column in a feature map. They are noted per element of
memory, so views keep them. A convolution begins a new map, and what PyTorch declares to be
pointwise keeps the positions. For any other operation they are measured: NaN in the elements of one
row (or column) spreads to the results that depend on them.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from constraints.recording import Step, memory

Pair = tuple[int, int]  # of (height, width)


@dataclass(frozen=True)
class Motion:
    """What an operation does to the feature map, for height and width.

    `before` and `after` are the map's sizes, (1, 1) once it is pooled. A result is computed from
    `kernel` rows and columns that are `dilation` apart. `mixes` is true if any result depends on
    several positions, `skips` if the input of a convolution is a strided slice such as x[..., ::2].
    """

    before: Pair
    after: Pair
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    mixes: bool = False
    skips: bool = False


class Positions:
    """The positions of the tensors that `steps` compute from `images`.

    `motions` has one item per step: None if it only views or does not compute with a map.
    """

    @torch.no_grad()
    def __init__(self, images: Tensor, steps: list[Step]):
        self._noted: dict[int, Tensor] = {}  # memory -> int64 (2, elements), on the CPU
        self._unfolded: set[int] = set()  # memory in which every element stands for its window
        self._note(images, _grid(images.shape[2:]))
        self.motions = [self._follow(step) for step in steps]

    def of(self, tensor: Tensor) -> Tensor:
        """int64 (2, *tensor.shape): row and column of each element, -1 if it has none."""
        noted = self._noted[memory(tensor)]
        strides = (noted.stride(0), *tensor.stride())
        return noted.as_strided((2, *tensor.shape), strides, tensor.storage_offset())

    def has(self, tensor: Tensor) -> bool:
        is_noted = _is_value(tensor) and memory(tensor) in self._noted
        return is_noted and bool((self.of(tensor) >= 0).any())

    def size(self, tensor: Tensor) -> Pair:
        """Height and width of the map in `tensor`, from the first to the last row and column."""
        where = self.of(tensor).reshape(2, -1)
        first = where.where(where >= 0, where.amax()).amin(1)
        return tuple((where.amax(1) - first + 1).tolist())

    def _note(self, tensor: Tensor, where: Tensor) -> None:
        if memory(tensor) not in self._noted:
            elements = tensor.untyped_storage().nbytes() // tensor.element_size()
            self._noted[memory(tensor)] = torch.full((2, elements), -1)
        self.of(tensor).copy_(where)

    def _follow(self, step: Step) -> Motion | None:
        """Notes the positions of the results of `step`."""
        sources = list({id(x): x for x in step.inputs if self.has(x)}.values())
        results = [x for x in step.outputs if _is_value(x)]
        if not sources or not results or "empty" in step.op:  # its result is not initialised
            return None
        if not step.is_in_place and memory(results[0]) in self._noted:  # a view
            return None
        sources.sort(key=lambda x: -self.size(x)[0] * self.size(x)[1])
        before = self.size(sources[0])
        if window := _window(step):
            shape = tuple(sources[0].shape[2:])
            before = shape if before == (1, 1) else before  # mixed as a whole, and still a map
            grid = _grid(window.after)
            self._note(results[0], grid if results[0].dim() > 3 else grid.flatten(3))
            if step.op == "im2col":
                self._unfolded.add(memory(results[0]))
            sides = zip(before, shape, strict=True)
            return replace(window, before=before, skips=any(b >= 1.5 * n > 1.5 for b, n in sides))
        first = self.of(sources[0])
        if step.is_norm or (
            step.is_pointwise
            and first.shape[1:] == results[0].shape
            and all(torch.equal(self.of(x), first) for x in sources)
        ):
            self._note(results[0], first)
            return Motion(before, before)
        (rows, *height), (columns, *width) = (self._measure(step, sources, axis) for axis in (0, 1))
        after, kernel, dilation, mixes = zip(height, width, strict=True)
        if 0 in after:  # not computed from the map, only from its shape
            return None
        if after == (1, 1) and results[0].shape == sources[0].shape:  # a product with all positions
            (rows, columns), after = self.of(sources[0]), before
        for result in results:
            if result.shape == rows.shape:
                self._note(result, torch.stack((rows, columns)))
        sides = zip(before, after, strict=True)
        stride = tuple(round(b / a) if b >= 1.5 * a > 1.5 else 1 for b, a in sides)
        unfolded = not self._unfolded.isdisjoint(map(memory, sources))
        return Motion(before, after, kernel, stride, dilation, any(mixes) or unfolded)

    def _measure(
        self, step: Step, sources: list[Tensor], axis: int
    ) -> tuple[Tensor, int, int, int, bool]:
        """Positions of the results along `axis`; how many; kernel; dilation; whether it mixes."""
        lines = int(max(self.of(x)[axis].max() for x in sources)) + 1
        found = [self._dependence(step, sources, x, axis, lines) for x in sources]
        depends = found[0]
        for other in found[1:]:  # a result belongs to the largest map that it depends on
            depends = torch.where(depends.any(0), depends, other)
        numbers = torch.arange(lines, dtype=torch.float64)
        count, where = depends.sum(0), depends.byte().argmax(0)
        if (kernel := int(count.max())) > 1:  # the same rows before are the same row after
            code = 2.0**numbers @ depends.reshape(lines, -1).double()
            where = code.unique(return_inverse=True)[1].view_as(count)
        where = where.where(count > 0, -1)
        after = len(where[count > 0].unique())
        mixes = kernel > 1 or any(bool((other & ~depends).any()) for other in found)
        if kernel < 2 or after < 2:
            return where, after, 1, 1, mixes
        whole = depends[:, count == kernel].byte()
        span = int((lines - 1 - whole.flip(0).argmax(0) - whole.argmax(0)).min())
        return where, after, kernel, span // (kernel - 1), mixes

    def _dependence(
        self, step: Step, sources: list[Tensor], source: Tensor, axis: int, lines: int
    ) -> Tensor:
        """bool (lines, *result): whether a result of `step` depends on a line of `source`."""
        where, spread = self.of(source)[axis].to(source.device), []
        result = next(i for i, x in enumerate(step.outputs) if _is_value(x))
        values = {id(x): x for x in step.inputs if step.is_in_place}
        # 0.5 is in the domain of log, sqrt and so on
        values |= {id(x): torch.full_like(x, 0.5) for x in sources}
        for line in range(lines):
            inputs = {key: value.clone() for key, value in values.items()}
            inputs[id(source)].masked_fill_(where == line, torch.nan)
            try:
                spread.append(step.run(inputs)[result].isnan())
            except RuntimeError:  # it refuses NaN, as an eigenvalue solver does
                spread.append(torch.zeros_like(step.outputs[result], dtype=torch.bool))
        return torch.stack(spread).cpu()


def _is_value(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _window(step: Step) -> Motion | None:
    """The motion of a 2-D convolution or of `F.unfold`, from ATen's positional arguments."""
    if step.op == "convolution" and step.outputs[0].dim() == 4:
        _, weight, _, stride, _, dilation, transposed, *_ = step.args
        kernel, after = tuple(weight.shape[2:]), tuple(step.outputs[0].shape[2:])
        stride = (1, 1) if transposed else stride
    elif step.op == "im2col":
        images, kernel, dilation, padding, stride = step.args
        sides = zip(images.shape[2:], kernel, dilation, padding, stride, strict=True)
        after = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in sides)
    else:
        return None
    return Motion(after, after, tuple(kernel), tuple(stride), tuple(dilation), mixes=True)


def _grid(size: Pair) -> Tensor:
    """int64 (2, 1, 1, height, width): row and column of each position."""
    return torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij"))[:, None, None]
