"""Pictures of runs: curves, confusion matrix, grids of images, tiles.

The functions write PNG files; those whose picture TensorBoard shows too return the figure.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from console.files import replacing
from records import names

DPI = 100
ZOOM = 4  # of a 32x32 image in a grid
TILE_ZOOM = 6
GRID_IMAGES = 32  # in a grid of images
GRID_COLUMNS = 8
TRAIN_COLOR, EVALUATED_COLOR = "tab:gray", "tab:blue"
RIGHT_COLOR, WRONG_COLOR = "black", "tab:red"
TITLES = '"A, label B" is predicted as A and labelled B'
MARKERS = "os^vD*Pxh"
ANNOTATED_CLASSES = 15  # with more, the numbers in a confusion matrix no longer fit
TITLE_LENGTH = 26  # characters above an image in a grid
TITLE = "Title"  # the PNG text that has a tile's caption


def draw_curves(log: pd.DataFrame, split: str, out: Path) -> None:
    """Accuracy and loss by epoch, from the rows of `records.results.read_log`."""
    for path, column, ylabel in (
        (names.ACCURACY_CURVES, "acc", "top-1 accuracy (%)"),
        (names.LOSS_CURVES, "loss", "cross-entropy"),
    ):
        with curve_axes(out / path, ylabel=ylabel) as axes:
            train, evaluated = log[f"train_{column}"], log[f"eval_{column}"]
            axes.plot(log.epoch, train, ".-", color=TRAIN_COLOR, label="train (augmented)")
            axes.plot(log.epoch, evaluated, ".-", color=EVALUATED_COLOR, label=names.SPLITS[split])


def draw_comparison(logs: dict[str, pd.DataFrame], path: Path) -> None:
    """The accuracy of several runs by epoch, by the label of each."""
    with curve_axes(path, (7, 4.5), ylabel="top-1 accuracy (%)") as axes:
        for label, log in logs.items():
            axes.plot(log.epoch, log.eval_acc, ".-", label=label.replace("$", r"\$"))


def draw_accuracies(
    points: dict[str, tuple[pd.Series, pd.Series]], limits: tuple[float, float], path: Path
) -> None:
    """Test accuracies (%) against parameters, by label.

    `limits` are the largest number of parameters and the lowest accuracy, drawn as lines.
    """
    with curve_axes(path, (7, 4.5), "parameters", ylabel="test accuracy (%)") as axes:
        axes.set_xscale("log")
        for marker, (label, (parameters, accuracies)) in zip(MARKERS, points.items(), strict=False):
            axes.plot(parameters, accuracies, marker, markersize=7, label=label)
        axes.axvline(limits[0], color=TRAIN_COLOR, linestyle="--")
        axes.axhline(limits[1], color=TRAIN_COLOR, linestyle="--", label="the assignment's limits")
        axes.set_xticks([80_000, 100_000, 140_000, 200_000])
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter("{x:,.0f}")


def draw_range_test(
    rates: Sequence[float], losses: Sequence[float], steepest: float, path: Path
) -> None:
    """The smoothed loss against the learning rate, with a line where it fell fastest."""
    labels = {"xlabel": "--lr, per image of a batch", "ylabel": "smoothed cross-entropy"}
    with curve_axes(path, **labels) as axes:
        axes.semilogx(rates, losses, color=EVALUATED_COLOR)
        label = f"steepest at {steepest:.1g}"
        axes.axvline(steepest, color=TRAIN_COLOR, linestyle="--", label=label)


@contextmanager
def curve_axes(
    path: Path, size: tuple[float, float] = (6, 4), xlabel: str = "epoch", **labels: str
) -> Iterator[Axes]:
    """Axes to plot curves in, which are written to `path` at the end."""
    figure = Figure(figsize=size, dpi=DPI)
    axes = figure.add_axes([0.12, 0.12, 0.86, 0.82], xlabel=xlabel, **labels)
    if xlabel == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    yield axes
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def draw_confusion(counts: np.ndarray, classes: Sequence[str], title: str, path: Path) -> Figure:
    """The confusion matrix `counts` (rows true, columns predicted), in percent of each row."""
    percent = 100 * counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    figure = Figure(figsize=(7, 6), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="true", title=title)
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, label="% of the true class")
    if len(classes) <= ANNOTATED_CLASSES:
        labels = [shorten(name) for name in classes]
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(len(labels)), labels, parse_math=False)
        for (row, column), value in np.ndenumerate(percent):
            color = "white" if value > 50 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, size=8)
    return save(figure, path)


def draw_grid(
    images: np.ndarray,
    titles: Sequence[str],
    columns: int,
    caption: str,
    path: Path,
    colors: Sequence[str] | None = None,
    together: int = 1,
) -> Figure:
    """Images uint8 (N, 32, 32, 3) in rows, each with its title, every pixel a crisp square.

    `together` images stand closer to each other than to the next ones.
    """
    side, gap, title_height, caption_height = images.shape[1] * ZOOM, 12, 20, 34
    rows = -(-len(images) // columns)
    step = together * (side + 4) - 4 + gap  # pixels for images that stand together
    width = columns // together * step + gap
    height = caption_height + rows * (side + title_height) + gap
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.text(gap / width, 1 - 22 / height, caption, size=9, parse_math=False)
    canvas = np.full((height, width, 3), 255, np.uint8)  # axes for each image take seconds
    for index, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(index, columns)
        left = gap + column // together * step + column % together * (side + 4)
        top = caption_height + row * (side + title_height) + title_height
        enlarged = image.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
        canvas[top : top + side, left : left + side] = enlarged
        style = {"size": 8, "color": colors[index] if colors else RIGHT_COLOR}
        x, y = (left + side / 2) / width, 1 - (top - 4) / height
        figure.text(x, y, shorten(title), ha="center", parse_math=False, **style)
    figure.figimage(canvas)
    return save(figure, path)


def draw_predictions(
    images: np.ndarray, true: Sequence[str], predicted: Sequence[str], caption: str, path: Path
) -> Figure:
    """A grid of images with the titles that TITLES explains."""
    titles, colors = [], []
    for label, prediction in zip(true, predicted, strict=True):
        title = label if label == prediction else f"{prediction}, label {label}"
        if len(title) > TITLE_LENGTH and label != prediction:  # so that a part of both is seen
            title = f"{shorten(prediction, 9)}, label {shorten(label, 9)}"
        titles.append(title)
        colors.append(RIGHT_COLOR if label == prediction else WRONG_COLOR)
    return draw_grid(images, titles, GRID_COLUMNS, caption, path, colors)


def write_tiles(images: np.ndarray, captions: Sequence[str], folder: Path) -> None:
    """Writes one enlarged PNG file per image, named by `names.name_tile`, with its caption inside.

    Tiles that an earlier call left in `folder` are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in names.list_tiles(folder):
        stale.unlink()
    size = (images.shape[2] * TILE_ZOOM, images.shape[1] * TILE_ZOOM)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        text = PngInfo()
        text.add_itxt(TITLE, caption)
        with replacing(folder / names.name_tile(index, caption)) as path:
            tile = Image.fromarray(image).resize(size, Image.Resampling.NEAREST)
            tile.save(path, pnginfo=text)


def read_caption(path: Path) -> str:
    """The caption of a tile that `write_tiles` wrote; "" if the file has none."""
    with Image.open(path) as image:
        return str(image.info.get(TITLE, ""))


def shorten(text: str, length: int = TITLE_LENGTH) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def save(figure: Figure, path: Path) -> Figure:
    """Writes a figure as a PNG file; returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside, warnings.catch_warnings():
        # letters of a class name that matplotlib's font lacks are drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        if layout := figure.get_layout_engine():
            layout.execute(figure)
            figure.set_layout_engine(None)  # with one, savefig draws everything twice
        figure.savefig(beside)
    return figure
