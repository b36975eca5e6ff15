"""Every picture: curves, confusion matrix, grids of samples, tiles."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

import artifacts
from storage import replacing

DPI = 100
ZOOM = 4  # of a 32x32 image in a grid
TILE_ZOOM = 6
GRID_IMAGES = 32  # in a grid of samples
TRAIN_COLOR, EVALUATED_COLOR = "tab:gray", "tab:blue"
RIGHT_COLOR, WRONG_COLOR = "black", "tab:red"
ANNOTATED_CLASSES = 15  # with more, the numbers in a confusion matrix no longer fit


def draw_curves(log: pd.DataFrame, out: Path) -> None:
    """Accuracy and loss against the epoch, from the rows of train_log.csv."""
    evaluated = artifacts.evaluated(log)
    for path, column, label in (
        (artifacts.ACCURACY_CURVES, "acc", "top-1 accuracy (%)"),
        (artifacts.LOSS_CURVES, "loss", "cross-entropy"),
    ):
        figure = Figure(figsize=(6, 4), dpi=DPI, layout="constrained")
        axes = figure.add_subplot(xlabel="epoch", ylabel=label)
        train, other = log[f"train_{column}"], log[f"{evaluated}_{column}"]
        axes.plot(log.epoch, train, color=TRAIN_COLOR, marker=".", label="train (augmented)")
        axes.plot(
            log.epoch,
            other,
            color=EVALUATED_COLOR,
            marker=".",
            label=artifacts.EVALUATED[evaluated],
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
        _save(figure, out / path)


def draw_comparison(logs: dict[str, pd.DataFrame], path: Path) -> None:
    """The accuracy of several runs, by their names, on what each was evaluated on."""
    figure = Figure(figsize=(7, 4.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="top-1 accuracy (%)")
    for name, log in logs.items():
        evaluated = artifacts.evaluated(log)
        label = f"{name} ({artifacts.EVALUATED[evaluated]})".replace("$", r"\$")
        axes.plot(log.epoch, log[f"{evaluated}_acc"], marker=".", label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def draw_range_test(
    rates: Sequence[float], losses: Sequence[float], steepest: float, path: Path
) -> None:
    """The smoothed loss against the learning rate, with a line where it fell fastest."""
    figure = Figure(figsize=(6, 4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(xlabel="--lr, per image of a batch", ylabel="smoothed cross-entropy")
    axes.semilogx(rates, losses, color=EVALUATED_COLOR)
    axes.axvline(steepest, color=TRAIN_COLOR, linestyle="--", label=f"steepest at {steepest:.1g}")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def draw_confusion(counts: np.ndarray, classes: Sequence[str], title: str, path: Path) -> None:
    """The confusion matrix `counts` (rows true, columns predicted), in percent of each row."""
    percent = 100 * counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    few = len(classes) <= ANNOTATED_CLASSES
    figure = Figure(figsize=(7, 6), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="true", title=title)
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, label="% of the true class")
    if few:
        names = [_short(name) for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        for (row, column), value in np.ndenumerate(percent):
            color = "white" if value > 50 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, size=8)
    _save(figure, path)


def draw_grid(
    images: np.ndarray,
    titles: Sequence[str],
    columns: int,
    caption: str,
    path: Path,
    colors: Sequence[str] | None = None,
) -> None:
    """Images uint8 (N, 32, 32, 3) row by row, each under its title, every pixel a crisp square."""
    side, gap, title_height, caption_height = images.shape[1] * ZOOM, 12, 20, 34
    rows = -(-len(images) // columns)
    width = columns * (side + gap) + gap
    height = caption_height + rows * (side + title_height) + gap
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.text(gap / width, 1 - 22 / height, caption, size=9, parse_math=False)
    for index, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(index, columns)
        left = gap + column * (side + gap)
        bottom = height - caption_height - (row + 1) * (side + title_height)
        axes = figure.add_axes([left / width, bottom / height, side / width, side / height])
        axes.imshow(image, interpolation="nearest")
        axes.set_axis_off()
        color = colors[index] if colors else RIGHT_COLOR
        axes.set_title(_short(title), size=8, pad=3, color=color, parse_math=False)
    _save(figure, path)


def draw_predictions(
    images: np.ndarray, true: Sequence[str], predicted: Sequence[str], caption: str, path: Path
) -> None:
    """A grid of images under their class, in red with the wrong prediction where it is."""
    pairs = list(zip(true, predicted, strict=True))
    titles = [t if t == p else f"{t}, not {p}" for t, p in pairs]
    colors = [RIGHT_COLOR if t == p else WRONG_COLOR for t, p in pairs]
    draw_grid(images, titles, 8, caption, path, colors)


def write_tiles(images: np.ndarray, names: Sequence[str], folder: Path) -> None:
    """One PNG an image, enlarged nearest-neighbour, named by `artifacts.tile_name`.

    Tiles that an earlier call left in `folder` are removed.
    """
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("img_[0-9]*_*.png"):
        stale.unlink()
    size = (images.shape[2] * TILE_ZOOM, images.shape[1] * TILE_ZOOM)
    for index, (image, name) in enumerate(zip(images, names, strict=True)):
        with replacing(folder / artifacts.tile_name(index, name)) as path:
            Image.fromarray(image).resize(size, Image.Resampling.NEAREST).save(path)


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:23]}..."


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as beside, warnings.catch_warnings():
        # a class may be named in letters that matplotlib's font lacks: they are drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(beside)
