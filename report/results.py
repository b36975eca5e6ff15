"""What a finished run is like: its confusion matrix, its figures per class, its pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import artifacts
import plots
from data import DeviceBatches, HostBatches
from trainer import Trainer


def draw_results(out: Path, trainer: Trainer, batches: HostBatches | DeviceBatches) -> None:
    """The confusion matrix of best.pt and every picture of the run."""
    data = trainer.data
    best = artifacts.load_checkpoint(out / artifacts.BEST)
    artifacts.load_weights(trainer.model, best, out / artifacts.BEST)
    probabilities = trainer.predict()
    predictions = probabilities.argmax(1)
    accuracy = 100 * np.mean(predictions == data.test_labels)
    counts = np.zeros((len(data.classes), len(data.classes)), dtype=np.int64)
    np.add.at(counts, (data.test_labels, predictions), 1)
    artifacts.write_confusion(out, counts, data.classes)
    artifacts.write_class_report(out, data.test_labels, predictions, data.classes)
    kind = artifacts.EVALUATED[data.evaluated]
    title = f"{kind} accuracy {accuracy:.2f} %, epoch {best.epoch}"
    plots.draw_confusion(counts, data.classes, title, out / artifacts.CONFUSION_PLOT)
    plots.draw_curves(artifacts.read_log(out), out)

    names = np.array(data.classes)
    shown = np.random.default_rng(0).permutation(len(data.test_labels))[: plots.GRID_IMAGES]
    images, true = data.test_images[shown], names[data.test_labels[shown]]
    caption = f"{kind.capitalize()} images and their class; in red what they were taken for wrongly"
    predicted = names[predictions[shown]]
    plots.draw_predictions(images, true, predicted, caption, out / artifacts.TEST_GRID)
    surest_first = np.argsort(-probabilities.max(1), kind="stable")
    wrong = surest_first[(predictions != data.test_labels)[surest_first]]
    shown = wrong[: plots.GRID_IMAGES]
    caption = f"The surest of {len(wrong):,} mistakes on {len(predictions):,} {kind} images"
    mistaken, predicted = names[data.test_labels[shown]], names[predictions[shown]]
    grid = out / artifacts.MISTAKES_GRID
    plots.draw_predictions(data.test_images[shown], mistaken, predicted, caption, grid)
    n = artifacts.TILES
    plots.write_tiles(images[:n], true[:n], out / artifacts.TEST_TILES)

    batch, labels = next(batches.epoch(1))
    images = batch[: plots.GRID_IMAGES].permute(0, 2, 3, 1).cpu().numpy()
    shown_as = names[labels[: plots.GRID_IMAGES].cpu().numpy()]
    caption = "The first training images of epoch 1, augmented, as the network saw them"
    plots.draw_grid(images, shown_as, 8, caption, out / artifacts.AUGMENTED_GRID)
    plots.write_tiles(images[:n], shown_as[:n], out / artifacts.AUGMENTED_TILES)
