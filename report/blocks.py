"""The README's blocks, each made by one function from what a run left in its folder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from torch import nn

from console.errors import UserError
from console.files import check_file
from console.markdown import escaped, row, table
from constraints.assignment import read_assignment
from constraints.checks import Check, check
from constraints.tables import count_parameters, layer_table, tally_table
from constraints.trace import Trace, trace
from records import names
from records.checkpoints import load_network
from records.results import (
    ClassRow,
    Config,
    load_best,
    read_config,
    read_confusion,
    read_log,
)
from records.runs import read_runs, write_recipe
from records.tables import read_rows
from report.evidence import bench_table, format_mean, held_out_table, published_table, time_table
from report.markdown import format_count, image
from report.pictures import tile_caption


@dataclass(frozen=True)
class FinishedRun:
    """A run in the folder `results`, to be shown in a README in `readme_folder`.

    Its properties raise UserError if a file is missing or broken.
    """

    results: Path
    readme_folder: Path

    @cached_property
    def config(self) -> Config:
        return read_config(self.results)

    @cached_property
    def log(self) -> pd.DataFrame:
        return read_log(self.results)

    @cached_property
    def network(self) -> nn.Module:
        return load_network(load_best(self.results, self.config), self.results / names.BEST)

    @cached_property
    def traced(self) -> Trace:
        return trace(self.network)

    @property
    def evaluated(self) -> str:
        """ "test" or "validation", the images that the run was evaluated on."""
        return names.SPLITS[self.config.split]

    def image(self, name: Path, alt: str, width: int) -> str:
        return image(self.results / name, self.readme_folder, alt, width)


def headline(run: FinishedRun) -> str:
    """The figures that a visitor looks for first; the accuracy over all seeds of the recipe."""
    config, log = run.config, run.log
    runs, accuracies, count = read_runs(run.results), pd.Series([log.eval_acc.iloc[-1]]), 1
    if not runs.empty:
        own = runs[(runs.recipe == write_recipe(config.recipe)) & (runs.command == config.command)]
        same = runs[runs.group.isin(own.group)]
        if not same.empty:
            accuracies, count = same.accuracy, same.seed.nunique()
    seeds = format_count(count, "seed")
    minutes = f"{log.seconds.sum() / 60:.1f} min on {escaped(config.device)}"
    if len(accuracies) > 1:
        minutes += f" (seed {config.recipe.seed})"
    cells = (
        f"**{config.parameters:,}**",
        f"**{format_mean(accuracies)} %** (last epoch, {seeds})",
        escaped(config.dataset),
        f"{format_count(len(log), 'epoch')} in {minutes}",
    )
    return table(("parameters", f"{run.evaluated} accuracy", "data set", "training"), [cells])


def results_table(run: FinishedRun) -> str:
    config, log = run.config, run.log
    accuracy, loss = log.eval_acc, log.eval_loss
    last, best, lowest = len(log) - 1, accuracy.idxmax(), loss.idxmin()
    rows = {
        f"Latest {run.evaluated} accuracy": f"**{accuracy[last]:.2f} %** (epoch {log.epoch[last]})",
        f"Best {run.evaluated} accuracy": f"{accuracy[best]:.2f} % (epoch {log.epoch[best]})",
        f"Best {run.evaluated} loss": f"{loss[lowest]:.4f} (epoch {log.epoch[lowest]})",
        "Last train accuracy": f"{log.train_acc[last]:.2f} % (on augmented images)",
        "Last train loss": f"{log.train_loss[last]:.4f}",
        "Parameters": f"{config.parameters:,}",
        "Data set": f"{escaped(config.dataset)}: {config.train_images:,} training and "
        f"{config.test_images:,} {run.evaluated} images, {len(config.classes)} classes",
        "Device": escaped(config.device),
        "Training time": f"{log.seconds.sum() / 60:.1f} min for {format_count(len(log), 'epoch')}",
        "Command": escaped(config.command),
        "Updated": escaped(config.updated),
    }
    return table(("figure", "value"), rows.items())


def plots(run: FinishedRun) -> str:
    accuracy = run.image(names.ACCURACY_CURVES, "Accuracy by epoch", 400)
    loss = run.image(names.LOSS_CURVES, "Loss by epoch", 400)
    confusion = run.image(names.CONFUSION_PLOT, "Confusion matrix", 400)
    check_confusion(run)
    return f"{accuracy} {loss}\n\n{confusion}"


def check_confusion(run: FinishedRun) -> None:
    """Raises UserError if the confusion matrix has another accuracy than the log's best epoch."""
    counts, logged = read_confusion(run.results).to_numpy(), run.log.eval_acc
    accuracy = 100 * counts.trace() / counts.sum()
    # a device may round logits otherwise the second time, and so decide an image otherwise
    if not abs(accuracy - logged.max()) <= 0.1 + 100 / counts.sum():
        raise UserError(
            f"{run.results / names.CONFUSION_MATRIX} has an accuracy of {accuracy:.2f} %, and "
            f"{names.TRAIN_LOG} a best one of {logged.max():.2f} %; they are of different runs"
        )


def class_table(run: FinishedRun) -> str:
    rows = []
    for each in read_rows(check_file(run.results / names.CLASS_REPORT), ClassRow):
        figures = (f"{figure:.1f} %" for figure in (each.precision, each.recall, each.f1))
        rows.append((escaped(each.name), *figures, f"{each.images:,}"))
    return table(("class", "precision:", "recall:", "F1:", "images:"), rows)


def tile_gallery(run: FinishedRun) -> str:
    """Tiles with their class, then grids of more images."""
    augmented = min(names.TILES, run.config.recipe.batch_size, run.config.train_images)
    evaluated = min(names.TILES, run.config.test_images)
    tables = (
        f"{run.evaluated.capitalize()} images:\n\n{_tiles(run, names.TEST_TILES, evaluated)}",
        f"Training images, augmented:\n\n{_tiles(run, names.AUGMENTED_TILES, augmented)}",
    )
    grids = (
        run.image(names.TEST_GRID, "More images, wrong predictions in red", 640),
        run.image(names.MISTAKES_GRID, "The most confident mistakes and their maps", 830),
        run.image(names.AUGMENTED_GRID, "Augmented training images", 640),
    )
    return "\n\n".join((*tables, *grids))


def _tiles(run: FinishedRun, folder: Path, count: int) -> str:
    paths = names.tiles(run.results / folder)
    if len(paths) < count:
        raise UserError(
            f"{run.results / folder} has {len(paths)} tiles of {count}; train.py writes them"
        )
    captions = [tile_caption(path) for path in paths]
    images = [
        run.image(folder / path.name, caption, 96)
        for path, caption in zip(paths, captions, strict=True)
    ]
    rule = "|".join([":---:"] * len(paths))
    return f"{row(*map(escaped, captions))}\n|{rule}|\n{row(*images)}"


def visualization(run: FinishedRun) -> str:
    text = (
        "Look at the augmentation before training:\n\n"
        "```bash\npython visualize_augmentations.py --save "
        f"{(names.RESULTS.name / names.AUGMENTATION_DEMO).as_posix()}\n```\n"
    )
    if (run.results / names.AUGMENTATION_DEMO).is_file():
        alt = "Original images and augmented versions"
        text += "\n" + run.image(names.AUGMENTATION_DEMO, alt, 640)
    return text


def constraints(run: FinishedRun) -> str:
    """The constraints on the network, and the accuracy that the assignment asks for."""
    wanted, reached = read_assignment().accuracy, run.log.eval_acc.iloc[-1]
    constraint = f"{run.evaluated} accuracy of at least {wanted:g} %"
    accuracy = Check(constraint, reached >= wanted, f"{reached:.2f} % in the last epoch")
    rows = (
        (each.constraint, "yes" if each.passed else "**no**", escaped(each.found))
        for each in (*check(run.traced), accuracy)
    )
    return table(("constraint", "kept", "found"), rows)


def model_summary(run: FinishedRun) -> str:
    return (
        f"<details>\n<summary>{count_parameters(run.network):,} trainable parameters, layer by "
        f"layer</summary>\n\n```text\n{layer_table(run.network)}\n```\n\n</details>"
    )


def network_pictures(run: FinishedRun) -> str:
    blocks = run.image(names.BLOCK_DIAGRAM, "The network's layers by block", 830)
    alt = "Receptive field after each layer, and effective receptive field"
    return f"{blocks}\n\n{run.image(names.RECEPTIVE_FIELD, alt, 830)}"


BLOCKS: dict[str, Callable[[FinishedRun], str | None]] = {
    "HEADLINE": headline,
    "RESULTS": results_table,
    "RECIPES": lambda run: published_table(run.results),
    "ABLATION": lambda run: held_out_table(run.results),
    "PLOTS": plots,
    "CLASSES": class_table,
    "TILE_GALLERY": tile_gallery,
    "VISUALIZATION": visualization,
    "NETWORK": network_pictures,
    "CONSTRAINTS": constraints,
    "RF": lambda run: tally_table(run.traced),
    "MODEL_SUMMARY": model_summary,
    "BENCH": lambda run: bench_table(run.results),
    "TIME_TO_85": lambda run: time_table(run.results),
}
