"""Pictures of a network's blocks and of its receptive field, computed from its trace."""

from collections import Counter
from itertools import groupby
from textwrap import wrap
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.patheffects import withStroke

from constraints.layers import Layer, memory
from constraints.trace import Trace
from recipe import IMAGE_SIZE

DPI = 150
WIDTH = 8.3  # inches; the README shows it at 830 pixels
STRIDE_COLOR, DILATION_COLOR, PLAIN_COLOR = "#9ecae1", "#fdae6b", "#f0f0f0"
COLUMN, BOX, TOP, LINE, GAP = 166, 132, 58, 16, 16  # hundredths of an inch
LINE_LENGTH = 19  # characters
PRODUCTS = ("mm", "addmm", "convolution")


class Box(NamedTuple):
    """A module with one or more layers, in the diagram of a network."""

    block: str
    name: str
    lines: tuple[str, str]  # kernels and shape
    color: str
    has_shortcut: bool = False

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Its text and the weight of its font, row by row, no longer than the box is wide."""
        texts = ((self.name, "bold"), *((line, "normal") for line in self.lines))
        return [(row, weight) for text, weight in texts for row in wrap(text, LINE_LENGTH)]

    @property
    def height(self) -> int:
        return LINE * len(self.rows) + 6


def draw_network(
    traced: Trace, image: np.ndarray | None = None, effective: np.ndarray | None = None
) -> tuple[Figure, Figure]:
    """Draws the blocks and the receptive field of a network.

    Args:
        image: uint8 (H, W, 3), enlarged or not, behind the receptive field.
        effective: of `activation_map.effective_receptive_field`, for a second panel.
    """
    return _draw_blocks(traced), _draw_receptive_field(traced.layers, image, effective)


def make_boxes(traced: Trace) -> list[Box]:
    """What the diagram shows of a network, in the order in which it runs; the output is last."""
    maps = [layer for layer in traced.layers if layer.has_map]
    adds = [step for step in traced.steps if step.op in ("add", "add_") and len(step.inputs) > 1]
    adds = [step for step in adds if all(any(traced.dims(x)) for x in step.inputs)]
    shortcuts, boxes = {step.module for step in adds}, []
    for (block, name), group in groupby(maps, lambda layer: (layer.block, _module_name(layer))):
        group = list(group)
        lines = ", ".join(map(_kernel, group)), _shape(group[-1])
        boxes.append(Box(f"C{block}", name, lines, _color(group), name in shortcuts))
    rest = traced.steps[_find_output(traced) :]
    heads = [step for step in rest if step.op in PRODUCTS]
    weights = [x.arguments["weight" if x.op == "convolution" else "mat2"] for x in heads]
    shapes = [x.shape[1::-1] if x.dim() == 4 else x.shape for x in weights]
    sizes = ", ".join(f"{before} to {after}" for before, after in shapes)
    used = [traced.pooling.name] if traced.pooling else []
    used += [step.module for step in heads]
    name = ", ".join(x for x in dict.fromkeys(used) if x != "forward")
    return [*boxes, Box("O", name, ("pooling, linear", sizes), PLAIN_COLOR)]


def _find_output(traced: Trace) -> int:
    """The first step of the output: the pooling, or else the first product after the last map."""
    steps, maps = traced.steps, [x for x in traced.layers if x.has_map]
    if traced.pooling:
        return steps.index(traced.pooling.step)
    last = steps.index(maps[-1].step) if maps else -1
    products = (i for i, step in enumerate(steps) if i > last and step.op in PRODUCTS)
    return next(products, len(steps))


def _count_by_block(traced: Trace) -> Counter[str]:
    """The trainable parameters that each block uses; those of no block count in the output."""
    start = _find_output(traced)
    block_of, counts = {}, Counter()
    for index, step in enumerate(traced.steps):
        block = "O" if index >= start else f"C{step.block}"
        block_of |= dict.fromkeys(map(memory, step.inputs), block)
    for parameter in traced.network.parameters():
        if parameter.requires_grad:
            counts[block_of.get(memory(parameter), "O")] += parameter.numel()
    return counts


def _module_name(layer: Layer) -> str:
    """The module whose layers share a box: "c2a" of "c2a.dw"."""
    return layer.name.rpartition(".")[0] or layer.name


def _kernel(layer: Layer) -> str:
    """ "dw 3x3 s2", for example."""
    (height, width), stride, dilation = layer.kernel, layer.stride[0], layer.dilation[0]
    words = [f"{height}x{width}"]
    if layer.is_depthwise:
        words.insert(0, "dw")
    if layer.is_maximum:
        words.insert(0, "max")
    if stride > 1:
        words.append(f"s{stride}")
    if layer.is_dilated:
        words.append(f"d{dilation}")
    return " ".join(words)


def _shape(layer: Layer) -> str:
    """ "64x16x16" of the map that `layer` makes; without channels if it is no convolution."""
    channels = layer.step.outputs[0].shape[1:2] if layer.is_convolution else ()
    return "x".join(map(str, (*channels, *layer.after.size)))


def _color(group: list[Layer]) -> str:
    if any(layer.is_dilated for layer in group):
        return DILATION_COLOR
    return STRIDE_COLOR if any(layer.downsamples for layer in group) else PLAIN_COLOR


def _draw_blocks(traced: Trace) -> Figure:
    """The modules of each block from top to bottom: kernels, shapes, strides, dilation, shortcuts.

    A shortcut is found where a module adds maps in its own forward.
    """
    boxes, counts = make_boxes(traced), _count_by_block(traced)
    columns = [list(group) for _, group in groupby(boxes, key=lambda box: box.block)]
    height = TOP + max(sum(box.height + GAP for box in column) for column in columns) + 24
    figure = Figure(figsize=(max(WIDTH, len(columns) * COLUMN / 100), height / 100), dpi=DPI)
    axes = figure.add_axes([0, 0, 1, 1], xlim=(0, figure.get_figwidth() * 100), ylim=(height, 0))
    axes.set_axis_off()
    for index, column in enumerate(columns):
        left = index * COLUMN + 17
        bottom = _draw_column(axes, left, column, counts) - column[-1].height / 2
        if index + 1 < len(columns):
            start, end = left + BOX, left + COLUMN
            top, middle = TOP + columns[index + 1][0].height / 2, end - 9
            axes.plot([start, middle, middle], [bottom, bottom, top], "k", lw=1)
            _draw_arrow(axes, (middle, top), (end, top))
    for color, text, x in ((STRIDE_COLOR, "s: stride", 17), (DILATION_COLOR, "d: dilation", 97)):
        axes.add_patch(Rectangle((x, height - 20), 12, 12, fc=color, ec="black", lw=0.8))
        axes.text(x + 18, height - 14, text, size=7, va="center")
    shortcut = "+ : shortcut   " if any(box.has_shortcut for box in boxes) else ""
    note = f"dw: depthwise   {shortcut}channels x height x width, of an image 3x32x32"
    if traced.blocks_are_guessed:
        note += "   blocks: guessed from the strides"
    axes.text(190, height - 14, note, size=7, va="center")
    return figure


def _draw_column(axes: Axes, left: float, column: list[Box], counts: Counter[str]) -> float:
    """Returns where its last box ends."""
    center, top = left + BOX / 2, TOP
    axes.text(center, 20, column[0].block, size=11, weight="bold", ha="center", va="center")
    parameters = f"{counts[column[0].block]:,} parameters"
    axes.text(center, 40, parameters, size=7, ha="center", va="center")
    for box in column:
        if box is not column[0]:
            _draw_arrow(axes, (center, top - GAP), (center, top))
        shape = FancyBboxPatch((left, top), BOX, box.height, "round,pad=0,rounding_size=5")
        shape.set(facecolor=box.color, edgecolor="black", linewidth=0.8)
        axes.add_patch(shape)
        for line, (text, weight) in enumerate(box.rows):
            y = top + 11 + LINE * line
            axes.text(center, y, text, size=7.5, weight=weight, ha="center", va="center")
        if box.has_shortcut:
            right, bottom = left + BOX, top + box.height
            ends = (right, top + 8), (right, bottom - 8)
            _draw_arrow(axes, *ends, connectionstyle="arc3,rad=-0.7")
            axes.text(right + 4, bottom - 3, "+", size=9, weight="bold", va="center")
        top += box.height + GAP
    return top - GAP


def _draw_arrow(axes: Axes, start: tuple, end: tuple, **style: str) -> None:
    style |= {"arrowstyle": "-|>", "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, color="black", linewidth=1, **style))


def _draw_receptive_field(
    layers: list[Layer], image: np.ndarray | None, effective: np.ndarray | None
) -> Figure:
    """The receptive field of the middle position after each layer, as squares over an image.

    They are drawn around the image's middle pixel, where they lie if each convolution is padded
    by half its extent.
    """
    grown = [x for x in layers if x.after.rf != x.before.rf and x.has_map]
    fields = {}  # each with the first layer that has it
    for layer in grown:
        fields.setdefault(layer.after.rf, _module_name(layer))
    reach = max([IMAGE_SIZE, *(max(rf) for rf in fields)]) / 2 + 2
    figure = Figure(figsize=(WIDTH if effective is not None else 5.2, 3.8), dpi=DPI)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, 1 if effective is None else 2, squeeze=False)[0]
    middle = IMAGE_SIZE // 2
    for axes in panels:
        axes.set(xlim=(middle - reach, middle + reach), ylim=(middle + reach, middle - reach))
        axes.set_facecolor("#d0d0d0")
        axes.set_xlabel("pixels; grey is outside the image", size=8)
        axes.tick_params(labelsize=7)
    extent = (-0.5, IMAGE_SIZE - 0.5, IMAGE_SIZE - 0.5, -0.5)
    if image is None:
        image = np.full((1, 1, 3), 255, np.uint8)
    panels[0].imshow(image, extent=extent, interpolation="nearest")
    panels[0].set_title("Receptive field after each layer", size=9)
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 1, len(fields)))
    for (rf, name), color in zip(fields.items(), colors, strict=True):
        _draw_square(panels[0], rf, color, f"{name[-12:]}: {'x'.join(map(str, rf))}")
    size = min(7, 160 / max(1, len(fields)))
    panels[0].legend(fontsize=size, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    if effective is not None:
        relative = effective / max(effective.max(), 1e-30)  # it is 0 if the network is dead
        heat = panels[1].imshow(relative, "magma", extent=extent, vmin=0, vmax=1)
        bar = figure.colorbar(heat, shrink=0.8)
        bar.ax.tick_params(labelsize=7)
        bar.set_label("mean absolute gradient / maximum", size=7)
        _draw_square(panels[1], max(fields, default=(1, 1)), "black")
        panels[1].set_title("Effective receptive field, trained", size=9)
    return figure


def _draw_square(axes: Axes, rf: tuple[int, int], color: object, label: str | None = None) -> None:
    height, width = rf
    corner = IMAGE_SIZE // 2 - width / 2, IMAGE_SIZE // 2 - height / 2
    square = Rectangle(corner, width, height, fill=False, edgecolor=color, linewidth=1.5)
    square.set(label=label, path_effects=[withStroke(linewidth=3, foreground="white")])
    axes.add_patch(square)
