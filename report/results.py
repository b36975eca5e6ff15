"""What a training run prints, and the tables and pictures that it leaves at its end."""

import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn import metrics
from torch import Tensor, nn
from tqdm import tqdm

from console.errors import UserError, join_command, print_error
from console.flags import as_flags
from constraints.checks import Check
from constraints.pictures import draw_network
from constraints.tables import count_parameters
from constraints.trace import Trace
from model import Normalised
from recipe import Recipe
from records import names
from records.checkpoints import load_weights
from records.results import ClassRow, LogRow, find_best, find_unsupported, write_confusion
from records.run import Run
from records.tables import as_table, write_table
from report import activation_map, pictures

MISTAKES = 12  # in the grid, each with two maps


def print_network(network: nn.Module, data, recipe: Recipe, checks: Sequence[Check]) -> None:
    """What is trained on what, with a warning of each constraint that the network breaks.

    `data` is an `inputs.image_data.ImageData`.
    """
    mean, std = ("/".join(f"{value:.4f}" for value in values) for values in (data.mean, data.std))
    print(
        f"data: {data.name}, {len(data.train_labels):,} training and {len(data.test_labels):,} "
        f"{names.SPLITS[data.split]} images, {len(data.classes)} classes, RGB mean {mean} std {std}"
    )
    print(f"network: {network.name}, {count_parameters(network):,} parameters", flush=True)
    if broken := ", ".join(each.constraint for each in checks if not each.passed):
        flags = (word for pair in as_flags(recipe.network).items() for word in pair)
        command = join_command(["python", "model.py", *flags])
        print_error(f"warning: the network breaks constraints ({broken}); see {command}")


def print_start(run: Run) -> None:
    if unsupported := find_unsupported(run.config.versions):
        print_error(
            f"warning: what runs is not what requirements.txt asks for ({'; '.join(unsupported)}), "
            "so results may differ"
        )
    print(f"learning rate: {explain_peak(run.config.recipe)}", flush=True)
    if run.log:
        print(f"resumed after epoch {len(run.log)} of {run.config.recipe.epochs}", flush=True)


def open_board(run: Run):
    """A `report.tensorboard.Board`; that package is imported with --tensorboard only."""
    return import_module("report.tensorboard").Board(run.out, len(run.log))


def show_progress(batches, epoch: int, run: Run) -> tqdm:
    """The batches of an epoch, with a bar on a terminal; `batches` are of `data.py`."""
    title = f"epoch {epoch}/{run.config.recipe.epochs}"
    hidden = None if run.writes else True  # None hides the bar where no terminal is
    return tqdm(batches.epoch(epoch), title, batches.steps, leave=False, disable=hidden)


def print_epoch(row: LogRow, run: Run) -> None:
    epochs = run.config.recipe.epochs
    print(
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  "
        f"train loss {row.train_loss:.4f} acc {row.train_acc:5.2f} %  "
        f"{run.config.split} loss {row.eval_loss:.4f} acc {row.eval_acc:5.2f} %  "
        f"{row.seconds:.1f} s, {row.images_per_second:,.0f} images/s"
        f"{'  best' if find_best(run.log) is row else ''}",
        flush=True,
    )
    guessing = math.log(len(run.config.classes))  # the loss of equal probabilities
    if row.train_loss > 1.2 * guessing:  # an untrained network is somewhat above it
        print_error(
            f"warning: the training loss, {row.train_loss:.4g}, is above that of guessing, "
            f"{guessing:.4g}. The learning rate {explain_peak(run.config.recipe)}; try a lower --lr"
        )


def explain_peak(recipe: Recipe) -> str:
    lr, size = recipe.lr_per_image, recipe.batch_size
    return f"peaks at {recipe.peak_lr:g} (--lr {lr:g} x --batch-size {size})"


def print_summary(run: Run) -> None:
    last, best = run.log[-1], find_best(run.log)
    minutes, seconds = divmod(round(sum(row.seconds for row in run.log)), 60)
    print(
        f"{names.SPLITS[run.config.split]} accuracy: last {last.eval_acc:.2f} % (epoch "
        f"{last.epoch}), best {best.eval_acc:.2f} % (epoch {best.epoch}); "
        f"{minutes} min {seconds} s of training; pictures in {run.out / names.PLOTS}"
    )
    command = ["python", "update_readme.py"]
    if run.out != names.RESULTS:
        tiles = run.out / names.TEST_TILES
        command = ["python", "predict.py", "--checkpoint", run.out / names.BEST, tiles]
    print(f"next: {join_command(command)}")


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
    out, kind, classes = run.out, names.SPLITS[data.split], np.array(data.classes)
    load_weights(forward.network, run.best, out / names.BEST)
    test_images = torch.from_numpy(data.test_images).permute(0, 3, 1, 2)
    probabilities = forward.logits(test_images).softmax(1).numpy()
    predictions = probabilities.argmax(1)
    counts = metrics.confusion_matrix(data.test_labels, predictions, labels=range(len(classes)))
    write_confusion(out, counts, data.classes)
    write_class_report(out, data.test_labels, predictions, data.classes)
    pictures.draw_curves(as_table(run.log), data.split, out)

    shown = np.random.default_rng(0).permutation(len(data.test_labels))[: pictures.GRID_IMAGES]
    images, true = data.test_images[shown], classes[data.test_labels[shown]]
    title = f"{kind.capitalize()} images and their class; wrong predictions in red: "
    pictures.draw_predictions(
        images, true, classes[predictions[shown]], title + pictures.TITLES, out / names.TEST_GRID
    )
    tiles = slice(names.TILES)
    pictures.write_tiles(images[tiles], true[tiles], out / names.TEST_TILES)
    has_maps = _draw_network(out, forward, traced, test_images[:256], images[0])
    accuracy = 100 * counts.trace() / counts.sum()
    title = f"{kind} accuracy {accuracy:.2f} %, epoch {run.best.epoch}"
    return {
        "cm": pictures.draw_confusion(counts, data.classes, title, out / names.CONFUSION_PLOT),
        "misclassified_grid": _draw_mistakes(out, forward, data, probabilities, has_maps),
        "augmented_samples_grid": _draw_augmented(out, data.classes, first_batch),
    }


def _draw_network(
    out: Path, forward: Normalised, traced: Trace, images: Tensor, background: np.ndarray
) -> bool:
    """Blocks and receptive field; returns whether the network has class activation maps."""
    effective = None
    try:
        normalised = forward.normalise(images.to(forward.scale.device))
        effective = activation_map.effective_receptive_field(forward.network, normalised)
    except UserError as error:
        print_error(f"{error}; the pictures do without such maps")
    blocks, receptive_field = draw_network(traced, background, effective)
    pictures.save(blocks, out / names.BLOCK_DIAGRAM)
    pictures.save(receptive_field, out / names.RECEPTIVE_FIELD)
    return effective is not None


def _draw_mistakes(
    out: Path, forward: Normalised, data, probabilities: np.ndarray, has_maps: bool
) -> Figure:
    """The most confident mistakes, with the activation maps of prediction and label."""
    labels, predictions = data.test_labels, probabilities.argmax(1)
    most_confident = np.argsort(-probabilities.max(1), kind="stable")
    mistakes = most_confident[(labels != predictions)[most_confident]]
    caption = (
        f"The most confident of {len(mistakes):,} mistakes on {len(labels):,} "
        f"{names.SPLITS[data.split]} images; "
    )
    grid, classes = out / names.MISTAKES_GRID, np.array(data.classes)
    shown = mistakes[: MISTAKES if has_maps else pictures.GRID_IMAGES]
    images, pairs = data.test_images[shown], np.stack([predictions, labels], 1)[shown]
    if not has_maps or not len(mistakes):
        predicted, true = classes[pairs].T
        return pictures.draw_predictions(images, true, predicted, caption + pictures.TITLES, grid)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(forward.scale.device)
    maps = activation_map.compute_class_maps(
        forward.network, forward.normalise(batch), torch.from_numpy(pairs)
    )
    titles = [
        [f"{classes[label]} {100 * values[label]:.1f} %" for label in pair]
        for pair, values in zip(pairs, probabilities[shown], strict=True)
    ]
    caption += "activation maps: prediction (red), label"
    return activation_map.draw_maps(images, maps, titles, caption, grid, 2, pictures.WRONG_COLOR)


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
    figures = metrics.precision_recall_fscore_support(
        labels, predictions, labels=range(len(classes)), zero_division=0
    )
    rows = [
        ClassRow(name, *(round(100 * float(share), 2) for share in shares), int(images))
        for name, *shares, images in zip(classes, *figures, strict=True)
    ]
    write_table(out / names.CLASS_REPORT, rows)
