"""Tables and pictures of a run that has just finished."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor

from console.errors import UserError, print_error
from constraints.pictures import draw_network
from constraints.trace import trace
from model import build_network
from records import names
from records.checkpoints import Checkpoint, load_weights
from records.run import ClassRow, LogRow, write_confusion
from records.tables import as_table, write_table
from report import pictures
from report.activation_map import class_maps, draw_maps, effective_receptive_field
from training.trainer import Trainer

MISTAKES = 12  # in the grid, each with two maps


def draw_results(
    out: Path,
    trainer: Trainer,
    best: Checkpoint,
    log: Sequence[LogRow],
    first_batch: tuple[Tensor, Tensor],
) -> dict[str, Figure]:
    """Writes the confusion matrix, the class report and all pictures of a run.

    Args:
        best: the network to evaluate; its weights replace those of `trainer.network`.
        first_batch: augmented training images uint8 (B, 3, 32, 32) and labels int64 (B,).

    Returns:
        The pictures that TensorBoard shows too, by name.
    """
    data = trainer.data
    load_weights(trainer.network, best, out / names.BEST)
    probabilities = trainer.predict()
    predictions = probabilities.argmax(1)
    accuracy = 100 * np.mean(predictions == data.test_labels)
    counts = confusion_matrix(data.test_labels, predictions, labels=range(len(data.classes)))
    write_confusion(out, counts, data.classes)
    write_class_report(out, data.test_labels, predictions, data.classes)
    title = f"{names.EVALUATED[data.evaluated]} accuracy {accuracy:.2f} %, epoch {best.epoch}"
    confusion = out / names.CONFUSION_PLOT
    pictures.draw_curves(as_table(log), out)
    shown = np.random.default_rng(0).permutation(len(predictions))[: pictures.GRID_IMAGES]
    explained = _draw_network(out, trainer, data.test_images[shown[0]])
    return {
        "cm": pictures.draw_confusion(counts, data.classes, title, confusion),
        "misclassified_grid": _draw_predictions(out, trainer, probabilities, shown, explained),
        "augmented_samples_grid": _draw_augmented(out, data.classes, first_batch),
    }


def _draw_network(out: Path, trainer: Trainer, image: np.ndarray) -> bool:
    """Blocks and receptive field; returns whether the network has class activation maps."""
    network, images, effective = trainer.network, trainer.data.test_images, None
    try:
        effective = effective_receptive_field(network, _normalised(trainer, images[:256]))
    except UserError as error:
        print_error(f"{error}; the pictures do without such maps")
    as_built = build_network(network.name, **network.arguments)  # without the trainer's changes
    blocks, receptive_field = draw_network(trace(as_built), image, effective)
    pictures.save(blocks, out / names.BLOCK_DIAGRAM)
    pictures.save(receptive_field, out / names.RECEPTIVE_FIELD)
    return effective is not None


def _normalised(trainer: Trainer, images: np.ndarray) -> Tensor:
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    return trainer.normalise(batch.to(trainer.device))


def _draw_predictions(
    out: Path, trainer: Trainer, probabilities: np.ndarray, shown: np.ndarray, explained: bool
) -> Figure:
    """The images `shown` and the most confident mistakes; returns the picture of the latter."""
    data, kind = trainer.data, names.EVALUATED[trainer.data.evaluated]
    class_names = np.array(data.classes)
    true, predicted = class_names[data.test_labels], class_names[probabilities.argmax(1)]

    caption = (
        f"{kind.capitalize()} images and their class; wrong predictions in red: {pictures.TITLES}"
    )
    grid = out / names.TEST_GRID
    pictures.draw_predictions(data.test_images[shown], true[shown], predicted[shown], caption, grid)
    tiles = shown[: names.TILES]
    pictures.write_tiles(data.test_images[tiles], true[tiles], out / names.TEST_TILES)

    most_confident = np.argsort(-probabilities.max(1), kind="stable")
    mistakes = most_confident[(true != predicted)[most_confident]]
    caption = f"The most confident of {len(mistakes):,} mistakes on {len(true):,} {kind} images; "
    grid = out / names.MISTAKES_GRID
    if explained and len(mistakes):
        shown = mistakes[:MISTAKES]
        classes = np.stack([probabilities.argmax(1), data.test_labels], 1)[shown]
        images = data.test_images[shown]
        maps = class_maps(trainer.network, _normalised(trainer, images), torch.from_numpy(classes))
        titles = [
            [f"{class_names[label]} {100 * values[label]:.1f} %" for label in pair]
            for pair, values in zip(classes, probabilities[shown], strict=True)
        ]
        caption += "activation maps: prediction (red), label"
        return draw_maps(images, maps, titles, caption, grid, 2, pictures.WRONG_COLOR)
    shown = mistakes[: pictures.GRID_IMAGES]
    pairs = true[shown], predicted[shown]
    return pictures.draw_predictions(
        data.test_images[shown], *pairs, caption + pictures.TITLES, grid
    )


def _draw_augmented(
    out: Path, classes: Sequence[str], first_batch: tuple[Tensor, Tensor]
) -> Figure:
    images, labels = (part[: pictures.GRID_IMAGES].cpu() for part in first_batch)
    pixels = images.permute(0, 2, 3, 1).numpy()
    captions = [classes[label] for label in labels]
    pictures.write_tiles(
        pixels[: names.TILES], captions[: names.TILES], out / names.AUGMENTED_TILES
    )
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
