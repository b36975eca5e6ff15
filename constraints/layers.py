"""What is known of one layer of a network."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from constraints.recording import Step

Pair = tuple[int, int]  # of (height, width)
AVERAGES = ("mean", "sum", "avg_pool2d", "_adaptive_avg_pool2d")


class MapState(NamedTuple):
    """A feature map: the receptive field of a position, the distance to the next one's, its size.

    Field and distance are in pixels.
    """

    rf: Pair
    jump: Pair
    size: Pair


@dataclass
class Layer:
    """A matrix product or convolution on a map, or what mixes or removes positions of a map.

    `block` is the number of its block, 1 to 4, and `source` the map that it gets.
    """

    step: Step = field(compare=False, repr=False)
    source: Tensor = field(compare=False, repr=False)
    name: str
    op: str
    kernel: Pair
    stride: Pair
    dilation: Pair
    before: MapState
    after: MapState
    mixes: bool  # its results depend on several positions
    is_learned: bool  # its weights, if any, are or are computed from parameters
    block: int = 0

    def __str__(self) -> str:
        return self.name if self.is_convolution else f"{self.name} ({self.op})"

    @property
    def is_convolution(self) -> bool:
        return self.op == "convolution"

    @property
    def has_map(self) -> bool:
        """Whether its result is a map; if not, it pools."""
        return self.is_convolution or 1 not in self.after.size

    @property
    def is_spatial(self) -> bool:
        return self.kernel != (1, 1)

    @property
    def groups(self) -> int:
        return self.step.arguments["groups"] if self.is_convolution else 1

    @property
    def out_channels(self) -> int | None:
        return self.step.outputs[0].shape[1] if self.is_convolution else None

    @property
    def is_depthwise(self) -> bool:
        return self.is_spatial and self.groups == self.source.shape[1] > 1

    @property
    def is_product(self) -> bool:
        return self.is_convolution or self.op in ("mm", "addmm")

    @property
    def is_pointwise(self) -> bool:
        return self.is_product and not self.is_spatial and self.groups == 1

    @property
    def is_maximum(self) -> bool:
        """Whether it takes a maximum (or minimum) over positions, not only over channels."""
        return self.mixes and bool(re.search("(?<!soft)(?<!arg)(max|min)", self.op))

    @property
    def is_dilated(self) -> bool:
        return any(k > 1 and d > 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def is_strided(self) -> bool:
        """Whether it is a 3x3 stride-2 convolution; one with fixed weights is a pooling."""
        is_3x3 = self.is_convolution and (self.kernel, self.stride) == ((3, 3), (2, 2))
        return is_3x3 and self.is_learned

    @property
    def downsamples(self) -> bool:
        return self.stride != (1, 1) and not self.pools_globally

    @property
    def crops(self) -> bool:
        """Whether it is a convolution without a stride that is padded by less than its extent."""
        shrinks = any(b > a for b, a in zip(self.before.size, self.after.size, strict=True))
        return self.is_convolution and shrinks and not self.downsamples

    @property
    def pools_globally(self) -> bool:
        """Whether it leaves one row or column of a map; a convolution that does is no pooling.

        After such a convolution, a pooling of one position is one.
        """
        was_map = 1 not in self.before.size or self.before.size == (1, 1)
        return 1 in self.after.size and was_map and not self.is_convolution
