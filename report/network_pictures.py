"""Pictures of a network's blocks and of its receptive field, computed from the module itself."""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor, nn
from torch.func import functional_call

from constraints.trace import Layer, Trace, trace
from model import count_parameters
from recipe import IMAGE_SIZE
from records import names
from report.pictures import save

DPI = 150
WIDTH = 8.3  # inches; the README shows it at 830 pixels
STRIDE_COLOR, DILATION_COLOR, PLAIN_COLOR = "#9ecae1", "#fdae6b", "#f0f0f0"
COLUMN, BOX, BOX_HEIGHT, STEP, TOP = 166, 132, 54, 70, 58  # hundredths of an inch


@dataclass(frozen=True)
class Box:
    """A module with one or more layers, in the diagram of a network."""

    block: str
    lines: list[str]
    color: str
    has_shortcut: bool
    parameters: int


def draw_network(
    network: nn.Module, image: np.ndarray | None, folder: Path, effective: np.ndarray | None = None
) -> None:
    """Draws the blocks and the receptive field of `network`, in `folder`.

    Args:
        image: uint8 (H, W, 3), enlarged or not, behind the receptive field; or None.
        effective: of `activation_map.effective_receptive_field`, for a second panel.
    """
    traced = trace(network)
    draw_blocks(boxes(network, traced), folder / names.BLOCK_DIAGRAM.name)
    draw_receptive_field(traced.layers, image, folder / names.RECEPTIVE_FIELD.name, effective)


def draw_blocks(found: list[Box], path: Path) -> None:
    """The modules of each block from top to bottom: kernels, shapes, strides, dilation, shortcuts.

    A shortcut is found if it begins and ends in the same module as the convolutions beside it.
    """
    columns = [list(group) for _, group in groupby(found, key=lambda box: box.block)]
    height = TOP + STEP * max(map(len, columns)) + 24
    figure = Figure(figsize=(max(WIDTH, len(columns) * COLUMN / 100), height / 100), dpi=DPI)
    axes = figure.add_axes([0, 0, 1, 1], xlim=(0, figure.get_figwidth() * 100), ylim=(height, 0))
    axes.set_axis_off()
    for index, column in enumerate(columns):
        left = index * COLUMN + 17
        _draw_column(axes, left, column)
        if index + 1 < len(columns):
            start, end = left + BOX, left + COLUMN
            middle, bottom = end - 9, TOP + STEP * (len(column) - 1) + BOX_HEIGHT / 2
            axes.plot([start, middle, middle], [bottom, bottom, TOP + BOX_HEIGHT / 2], "k", lw=1)
            _arrow(axes, (middle, TOP + BOX_HEIGHT / 2), (end, TOP + BOX_HEIGHT / 2))
    for color, text, x in ((STRIDE_COLOR, "s: stride", 17), (DILATION_COLOR, "d: dilation", 97)):
        axes.add_patch(Rectangle((x, height - 20), 12, 12, fc=color, ec="black", lw=0.8))
        axes.text(x + 18, height - 14, text, size=7, va="center")
    shortcut = "   + : shortcut" * any(box.has_shortcut for column in columns for box in column)
    note = f"dw: depthwise{shortcut}   channels x height x width, of an image 3x32x32"
    axes.text(190, height - 14, note, size=7, va="center")
    save(figure, path)


def _draw_column(axes: Axes, left: float, column: list[Box]) -> None:
    center = left + BOX / 2
    axes.text(center, 20, column[0].block, size=11, weight="bold", ha="center", va="center")
    parameters = f"{sum(box.parameters for box in column):,} parameters"
    axes.text(center, 40, parameters, size=7, ha="center", va="center")
    for index, box in enumerate(column):
        top = TOP + STEP * index
        shape = FancyBboxPatch((left, top), BOX, BOX_HEIGHT, "round,pad=0,rounding_size=5")
        shape.set(facecolor=box.color, edgecolor="black", linewidth=0.8)
        axes.add_patch(shape)
        for line, (text, weight) in enumerate(
            zip(box.lines, ("bold", "normal", "normal"), strict=True)
        ):
            y = top + 11 + 16 * line
            axes.text(center, y, text, size=7.5, weight=weight, ha="center", va="center")
        if index + 1 < len(column):
            _arrow(axes, (center, top + BOX_HEIGHT), (center, top + STEP))
        if box.has_shortcut:
            right = left + BOX
            ends = (right, top + 8), (right, top + BOX_HEIGHT - 8)
            _arrow(axes, *ends, connectionstyle="arc3,rad=-0.7")
            axes.text(right + 4, top + BOX_HEIGHT - 3, "+", size=9, weight="bold", va="center")


def _arrow(axes: Axes, start: tuple, end: tuple, **style: str) -> None:
    style |= {"arrowstyle": "-|>", "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, color="black", linewidth=1, **style))


def boxes(network: nn.Module, traced: Trace) -> list[Box]:
    """What the diagram shows of `network`, in the order in which it runs; the output is last."""
    known, layers = dict(network.named_modules()), traced.layers
    maps = [layer for layer in layers if _has_map(layer)]
    groups = [(name, list(group)) for name, group in groupby(maps, _module_name)]
    # a layer in the network's own forward has no module
    modules = {name: known.get(name, nn.Identity()) for name, _ in groups}
    shortcuts, parameters = _with_shortcut(network, modules), _parameters(network, traced, modules)
    found = [
        Box(
            f"C{group[0].block}",
            [name, ", ".join(map(_kernel, group)), _shape(known, group[-1])],
            _color(group),
            name in shortcuts,
            parameters.pop(name, 0),  # a module may have two boxes, with another one between them
        )
        for name, group in groups
    ]
    pooled = [x.name for x in layers if not _has_map(x) and x.name in known]
    heads = {n: m for n, m in known.items() if isinstance(m, nn.Linear) and n not in modules}
    sizes = [f"{head.in_features} to {head.out_features}" for head in heads.values()]
    lines = [", ".join([*pooled, *heads]), "pooling, linear", ", ".join(sizes)]
    rest = count_parameters(network) - sum(box.parameters for box in found)
    return [*found, Box("O", lines, PLAIN_COLOR, False, rest)]


def _has_map(layer: Layer) -> bool:
    """Whether its output is a map; if not, it pools."""
    return 1 not in layer.motion.after


def _parameters(network: nn.Module, traced: Trace, modules: dict[str, nn.Module]) -> Counter[str]:
    """The trainable parameters of each of `modules`. A parameter counts in the innermost one.

    A parameter outside of all of them, of a norm beside its convolution for example, counts in the
    module that ran before it.
    """
    box_of = {id(x.step): _module_name(x) if _has_map(x) else None for x in traced.layers}
    ran_before, last = {}, None
    for step in traced.recording.live_steps():
        last = box_of.get(id(step), last)
        ran_before.setdefault(step.module, last)
    counts = Counter()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            around = [module for module in modules if name.startswith(f"{module}.")]
            before = ran_before.get(name.rpartition(".")[0])
            counts[max(around, key=len, default=before)] += parameter.numel()
    return counts


def _module_name(layer: Layer) -> str:
    """The module whose layers share a box: "c2a" of "c2a.dw"."""
    return layer.name.rpartition(".")[0] or layer.name


def _kernel(layer: Layer) -> str:
    (height, width), (stride, _), (dilation, _) = (
        layer.motion.kernel, layer.motion.stride, layer.motion.dilation
    )  # fmt: skip
    sizes = f"{height}x{width}" + f" s{stride}" * (stride > 1)
    kind = "dw " * layer.is_depthwise + "max " * layer.is_maximum
    return kind + sizes + f" d{dilation}" * layer.is_dilated


def _shape(modules: dict[str, nn.Module], layer: Layer) -> str:
    """ "64x16x16" of the map that `layer` makes; without channels if its module has no number."""
    channels = getattr(modules.get(layer.name), "out_channels", None)
    return "x".join(str(side) for side in (channels, *layer.motion.after) if side)


def _color(group: list[Layer]) -> str:
    if any(layer.is_dilated for layer in group):
        return DILATION_COLOR
    return STRIDE_COLOR if any(layer.downsamples for layer in group) else PLAIN_COLOR


def _with_shortcut(network: nn.Module, modules: dict[str, nn.Module]) -> set[str]:
    """Those of `modules` with parameters whose output depends on their input when these are 0."""
    calls = {}

    def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
        calls[module] = args, kwargs

    hooks = [m.register_forward_pre_hook(keep, with_kwargs=True) for m in modules.values()]
    image = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE).to(next(network.parameters()))
    found = set()
    with torch.no_grad():
        network.eval()(image)
        for hook in hooks:
            hook.remove()
        for name, module in modules.items():
            zeros = {key: torch.zeros_like(x) for key, x in module.named_parameters()}
            # a list of modules, for example, is not called; a pooling has no parameters
            if module in calls and zeros:
                output = functional_call(module, zeros, *calls[module])
                if isinstance(output, Tensor) and output.std() > 0:
                    found.add(name)
    return found


def draw_receptive_field(
    layers: list[Layer], image: np.ndarray | None, path: Path, effective: np.ndarray | None
) -> None:
    """The receptive field of the middle position after each layer, as squares over an image.

    They are drawn around the image's middle pixel, where they lie if each convolution is padded
    by half its extent.
    """
    fields = {x.after.rf: _module_name(x) for x in reversed(layers) if _grows(x)}
    fields = dict(reversed(fields.items()))  # each with the first layer that has it
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
    if image is not None:
        panels[0].imshow(image, extent=extent, interpolation="nearest")
    panels[0].set_title("Receptive field after each layer", size=9)
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 1, len(fields)))
    for (rf, name), color in zip(fields.items(), colors, strict=True):
        _square(panels[0], rf, color, f"{name}: {'x'.join(map(str, rf))}")
    panels[0].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    if effective is not None:
        relative = effective / max(effective.max(), 1e-30)  # it is 0 if the network is dead
        heat = panels[1].imshow(relative, "magma", extent=extent, vmin=0, vmax=1)
        bar = figure.colorbar(heat, shrink=0.8)
        bar.ax.tick_params(labelsize=7)
        bar.set_label("mean absolute gradient / maximum", size=7)
        _square(panels[1], max(fields, default=(1, 1)), "black")
        panels[1].set_title("Effective receptive field, trained", size=9)
    save(figure, path)


def _grows(layer: Layer) -> bool:
    return layer.after.rf != layer.before.rf and _has_map(layer)


def _square(axes: Axes, rf: tuple[int, int], color: object, label: str | None = None) -> None:
    height, width = rf
    corner = IMAGE_SIZE // 2 - width / 2, IMAGE_SIZE // 2 - height / 2
    square = Rectangle(corner, width, height, fill=False, edgecolor=color, linewidth=1.5)
    square.set(label=label, path_effects=[withStroke(linewidth=3, foreground="white")])
    axes.add_patch(square)
