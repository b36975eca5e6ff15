"""Tables and pictures of a run that has just finished."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor

from console.errors import UserError, print_error
from constraints.pictures import draw_network
from constraints.trace import Trace
from model import Normalised
from records import names
from records.checkpoints import load_weights
from records.results import ClassRow, write_confusion
from records.run import Run
from records.tables import as_table, write_table
from report import pictures
from report.activation_map import class_maps, draw_maps, effective_receptive_field

MISTAKES = 12  # in the grid, each with two maps


@dataclass(frozen=True)
class Evaluated:
    """Images uint8 (N, 32, 32, 3), and what a network made of them."""

    images: np.ndarray
    labels: np.ndarray  # int64 (N,)
    probabilities: np.ndarray  # (N, classes)
    classes: np.ndarray  # their names
    kind: str  # "test" or "validation"

    @property
    def predictions(self) -> np.ndarray:
        return self.probabilities.argmax(1)


def draw_results(
    run: Run,
    forward: Normalised,
    data,
    traced: Trace,
    first_batch: tuple[Tensor, Tensor, int],
) -> dict[str, Figure]:
    """Writes the confusion matrix, the class report and all pictures of a run.

    Args:
        forward: the trained network; the weights of the best epoch replace its own.
        data: an `inputs.image_data.ImageData`.
        traced: of the network.
        first_batch: augmented training images uint8 (B, 3, 32, 32) and labels int64 (B,).

    Returns:
        The pictures that TensorBoard shows too, by name.
    """
    out, kind = run.out, names.SPLITS[data.split]
    load_weights(forward.network, run.best, out / names.BEST)
    test_images = torch.from_numpy(data.test_images).permute(0, 3, 1, 2)
    probabilities = forward.logits(test_images).softmax(1).numpy()
    evaluated = Evaluated(
        data.test_images, data.test_labels, probabilities, np.array(data.classes), kind
    )
    counts = confusion_matrix(
        data.test_labels, evaluated.predictions, labels=range(len(data.classes))
    )
    write_confusion(out, counts, data.classes)
    write_class_report(out, data.test_labels, evaluated.predictions, data.classes)
    accuracy = 100 * counts.trace() / counts.sum()
    title = f"{kind} accuracy {accuracy:.2f} %, epoch {run.best.epoch}"
    pictures.draw_curves(as_table(run.log), data.split, out)
    shown = np.random.default_rng(0).permutation(len(data.test_labels))[: pictures.GRID_IMAGES]
    _draw_samples(out, evaluated, shown)
    has_maps = _draw_network(out, forward, traced, test_images, data.test_images[shown[0]])
    return {
        "cm": pictures.draw_confusion(counts, data.classes, title, out / names.CONFUSION_PLOT),
        "misclassified_grid": _draw_mistakes(out, forward, evaluated, has_maps),
        "augmented_samples_grid": _draw_augmented(out, data.classes, first_batch),
    }


def _draw_network(
    out: Path, forward: Normalised, traced: Trace, images: Tensor, background: np.ndarray
) -> bool:
    """Blocks and receptive field; returns whether the network has class activation maps."""
    effective = None
    try:
        normalised = forward.normalise(images[:256].to(forward.scale.device))
        effective = effective_receptive_field(forward.network, normalised)
    except UserError as error:
        print_error(f"{error}; the pictures do without such maps")
    blocks, receptive_field = draw_network(traced, background, effective)
    pictures.save(blocks, out / names.BLOCK_DIAGRAM)
    pictures.save(receptive_field, out / names.RECEPTIVE_FIELD)
    return effective is not None


def _draw_samples(out: Path, evaluated: Evaluated, shown: np.ndarray) -> None:
    """The images `shown`: a grid with their predictions, and a few tiles."""
    true = evaluated.classes[evaluated.labels]
    predicted = evaluated.classes[evaluated.predictions]
    caption = (
        f"{evaluated.kind.capitalize()} images and their class; wrong predictions in red: "
        f"{pictures.TITLES}"
    )
    pictures.draw_predictions(
        evaluated.images[shown], true[shown], predicted[shown], caption, out / names.TEST_GRID
    )
    tiles = shown[: names.TILES]
    pictures.write_tiles(evaluated.images[tiles], true[tiles], out / names.TEST_TILES)


def _draw_mistakes(out: Path, forward: Normalised, evaluated: Evaluated, has_maps: bool) -> Figure:
    """The most confident mistakes, with the activation maps of prediction and label."""
    labels, predictions = evaluated.labels, evaluated.predictions
    most_confident = np.argsort(-evaluated.probabilities.max(1), kind="stable")
    mistakes = most_confident[(labels != predictions)[most_confident]]
    caption = (
        f"The most confident of {len(mistakes):,} mistakes on {len(labels):,} {evaluated.kind} "
        "images; "
    )
    grid, names_of = out / names.MISTAKES_GRID, evaluated.classes
    if not has_maps or not len(mistakes):
        shown = mistakes[: pictures.GRID_IMAGES]
        true, predicted = names_of[labels[shown]], names_of[predictions[shown]]
        caption += pictures.TITLES
        return pictures.draw_predictions(evaluated.images[shown], true, predicted, caption, grid)
    shown = mistakes[:MISTAKES]
    images, classes = evaluated.images[shown], np.stack([predictions, labels], 1)[shown]
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(forward.scale.device)
    maps = class_maps(forward.network, forward.normalise(batch), torch.from_numpy(classes))
    titles = [
        [f"{names_of[label]} {100 * values[label]:.1f} %" for label in pair]
        for pair, values in zip(classes, evaluated.probabilities[shown], strict=True)
    ]
    caption += "activation maps: prediction (red), label"
    return draw_maps(images, maps, titles, caption, grid, 2, pictures.WRONG_COLOR)


def _draw_augmented(
    out: Path, classes: Sequence[str], first_batch: tuple[Tensor, Tensor, int]
) -> Figure:
    images, labels = (part[: pictures.GRID_IMAGES].cpu() for part in first_batch[:2])
    pixels = images.permute(0, 2, 3, 1).numpy()
    captions = [classes[label] for label in labels]
    tiles = slice(names.TILES)
    pictures.write_tiles(pixels[tiles], captions[tiles], out / names.AUGMENTED_TILES)
    caption = "The first training images of epoch 1, augmented, as the network saw them"
    grid = out / names.AUGMENTED_GRID
    return pictures.draw_grid(pixels, captions, pictures.GRID_COLUMNS, caption, grid)


def write_class_report(
    out: Path, labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]
) -> None:
    """Writes precision, recall and F1 of each class, from int64 (N,) labels and predictions."""
    figures = precision_recall_fscore_support(
        labels, predictions, labels=range(len(classes)), zero_division=0
    )
    rows = [
        ClassRow(name, *(round(100 * float(share), 2) for share in shares), int(images))
        for name, *shares, images in zip(classes, *figures, strict=True)
    ]
    write_table(out / names.CLASS_REPORT, rows)
