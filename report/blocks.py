"""The README's blocks, each made by one function from what a run left in its folder."""

import copy
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from torch import nn

from console.errors import UserError
from console.files import check_file
from console.markdown import escape, escape_markup, row, table
from constraints.assignment import read_assignment
from constraints.checks import Check, check
from constraints.tables import count_parameters, layer_table, tally_table
from constraints.trace import Trace, trace
from model import Net
from recipe import Recipe
from records import names, results, runs
from records.checkpoints import load_network
from records.tables import read_rows
from report import evidence
from report.pictures import read_caption


@dataclass(frozen=True)
class FinishedRun:
    """A run in the folder `results`, to be shown in a README in `readme_folder`.

    Its properties raise UserError if a file is missing or broken.
    """

    results: Path
    readme_folder: Path

    @cached_property
    def config(self) -> results.Config:
        return results.read_config(self.results)

    @cached_property
    def log(self) -> pd.DataFrame:
        return results.read_log(self.results)

    @cached_property
    def network(self) -> nn.Module:
        best = results.load_best(self.results, self.config)
        return load_network(best, self.results / names.BEST)

    @cached_property
    def traced(self) -> Trace:
        return trace(self.network)

    @property
    def name(self) -> str:
        """The class of the network, without the path of its file."""
        return self.config.recipe.network.model.rpartition(":")[2]

    @property
    def evaluated(self) -> str:
        """ "test" or "validation", the images that the run was evaluated on."""
        return names.SPLITS[self.config.split]

    def link(self, name: Path) -> str:
        """The address of a file of the run, from the README."""
        path = check_file(self.results / name).resolve()
        try:
            return quote(Path(os.path.relpath(path, self.readme_folder)).as_posix())
        except ValueError as error:  # on Windows
            raise UserError(f"{path} is on another drive than the README: {error}") from error

    def image(self, name: Path, alt: str, width: int) -> str:
        """An `<img>` of a picture of the run."""
        text = escape_markup(alt).replace('"', "&quot;")
        return f'<img src="{self.link(name)}" alt="{text}" width="{width}">'


def format_count(count: int, noun: str) -> str:
    """ "1 epoch", "3 epochs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_headline(run: FinishedRun) -> str:
    """What a visitor looks for first: each network's usual run and its longest one, from runs.csv.

    Usual recipes have the defaults but for the length, the augmenting device and the number format.
    A run with another recipe is shown alone.
    """
    columns = ("network", "parameters:", f"{run.evaluated} accuracy:", "epochs:", "training time")
    known = runs.read_runs(run.results)
    usual = known[(known.split == "test") & (known.script == "train.py") & (known.teacher == "")]
    usual, own = usual[usual.recipe.map(_is_usual)], _find_group(known, run)
    if own.empty or own.group.iloc[0] not in set(usual.group):
        config, log = run.config, run.log
        accuracies = log.eval_acc[-1:] if own.empty else own.accuracy
        name, time = run.name, f"{log.seconds.sum() / 60:.0f} min"
        figures = f"{config.parameters:,}", _format_accuracies(accuracies), len(log)
        return table(columns, [(escape(name), *figures, f"{time}, {escape(config.device)}")])
    checkpoints, rows = _link_checkpoints(known, run), []
    for network, same in usual.groupby("network", sort=False):
        for epochs in sorted({Recipe.epochs, same.epochs.max()} & {*same.epochs}):
            groups = same[same.epochs == epochs].group
            group = same[same.group == groups.mode()[0]]
            middle = group.sort_values("seconds").iloc[len(group) // 2]
            place = re.sub(r"^CPU,.*?(\d+ threads?),.*", r"CPU, \1", middle.device)
            time = f"{middle.seconds / 60:.0f} min, {escape(place)}"
            figures = f"{middle.parameters:,}", _format_accuracies(group.accuracy), epochs
            rows.append((network, *figures, time, checkpoints.get(middle.group, "")))
    return table((*columns, "checkpoint"), rows)


def _format_accuracies(values: pd.Series) -> str:
    return f"**{evidence.format_mean(values)} %**, {format_count(len(values), 'seed')}"


def _is_usual(recipe: str) -> bool:
    changed = {each.split()[0] for each in runs.list_changes(runs.read_recipe(recipe))}
    return changed <= {"--augment", "--precision"}


def _find_group(known: pd.DataFrame, run: FinishedRun) -> pd.DataFrame:
    """The rows of a run and of those that differ from it in the seed alone."""
    recipe = runs.write_recipe(run.config.recipe)
    own = known[(known.recipe == recipe) & (known.command == run.config.command)]
    return known[known.group.isin(own.group)]


def _link_checkpoints(known: pd.DataFrame, run: FinishedRun) -> dict[tuple, str]:
    """Links to best.pt of the runs in the results folder and in the folders there, by group."""
    links = {}
    for path in [*sorted(run.results.glob(f"*/{names.CONFIG}")), run.results / names.CONFIG]:
        other = FinishedRun(path.parent, run.readme_folder)
        seed, best = other.config.recipe.seed, other.log.eval_acc.max()
        for group in _find_group(known, other).group:
            links[group] = f"[{names.BEST}]({other.link(names.BEST)}), seed {seed}: {best:.2f} %"
    return links


def format_results(run: FinishedRun) -> str:
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
        "Data set": f"{escape(config.dataset)}: {config.train_images:,} training and "
        f"{config.test_images:,} {run.evaluated} images, {len(config.classes)} classes",
        "Device": escape(config.device),
        "Training time": f"{log.seconds.sum() / 60:.1f} min for {format_count(len(log), 'epoch')}",
        "Command": escape(config.command),
        "Updated": escape(config.updated),
    }
    return table(("figure", "value"), rows.items())


def format_plots(run: FinishedRun) -> str:
    """Curves and confusion matrix; UserError if that is not of the log's best epoch."""
    counts, logged = results.read_confusion(run.results).to_numpy(), run.log.eval_acc
    accuracy = 100 * counts.trace() / counts.sum()
    # a device may round logits otherwise the second time, and so decide an image otherwise
    if not abs(accuracy - logged.max()) <= 0.1 + 100 / counts.sum():
        raise UserError(
            f"{run.results / names.CONFUSION_MATRIX} has an accuracy of {accuracy:.2f} %, and "
            f"{names.TRAIN_LOG} a best one of {logged.max():.2f} %; they are of different runs"
        )
    accuracy = run.image(names.ACCURACY_CURVES, "Accuracy by epoch", 400)
    loss = run.image(names.LOSS_CURVES, "Loss by epoch", 400)
    confusion = run.image(names.CONFUSION_PLOT, "Confusion matrix", 400)
    recipe, epochs = run.config.recipe, format_count(len(run.log), "epoch")
    name = f"{escape(run.name)}, {epochs}, seed {recipe.seed}"
    return f"{accuracy} {loss}\n\n{confusion}\n\nOf one run: {name}."


def format_classes(run: FinishedRun) -> str:
    rows = []
    for each in read_rows(check_file(run.results / names.CLASS_REPORT), results.ClassRow):
        figures = (f"{figure:.1f} %" for figure in (each.precision, each.recall, each.f1))
        rows.append((escape(each.name), *figures, f"{each.images:,}"))
    return table(("class", "precision:", "recall:", "F1:", "images:"), rows)


def format_gallery(run: FinishedRun) -> str:
    """Tiles with their class, then grids of more images."""
    augmented = min(names.TILES, run.config.recipe.batch_size, run.config.train_images)
    evaluated = min(names.TILES, run.config.test_images)
    tables = (
        f"{run.evaluated.capitalize()} images:",
        _format_tiles(run, names.TEST_TILES, evaluated),
        "Training images, augmented:",
        _format_tiles(run, names.AUGMENTED_TILES, augmented),
    )
    grids = (
        run.image(names.TEST_GRID, "More images, wrong predictions in red", 640),
        run.image(names.MISTAKES_GRID, "The most confident mistakes and their maps", 830),
        run.image(names.AUGMENTED_GRID, "Augmented training images", 640),
    )
    return "\n\n".join((*tables, *grids))


def _format_tiles(run: FinishedRun, folder: Path, count: int) -> str:
    paths = names.list_tiles(run.results / folder)
    if len(paths) < count:
        raise UserError(
            f"{run.results / folder} has {len(paths)} tiles of {count}; train.py writes them"
        )
    captions = row(*(escape(read_caption(path)) for path in paths))
    images = row(*(run.image(folder / path.name, read_caption(path), 96) for path in paths))
    return f"{captions}\n|{'|'.join([':---:'] * len(paths))}|\n{images}"


def format_visualization(run: FinishedRun) -> str:
    text = (
        "Look at the augmentation before training:\n\n"
        "```bash\npython visualize_augmentations.py --save "
        f"{(names.RESULTS.name / names.AUGMENTATION_DEMO).as_posix()}\n```\n"
    )
    if (run.results / names.AUGMENTATION_DEMO).is_file():
        alt = "Original images and augmented versions"
        text += "\n" + run.image(names.AUGMENTATION_DEMO, alt, 640)
    return text


def format_constraints(run: FinishedRun) -> str:
    """The constraints on the network, and the accuracy that the assignment asks for."""
    wanted, reached = read_assignment().accuracy, run.log.eval_acc.iloc[-1]
    constraint = f"{run.evaluated} accuracy of at least {wanted:g} %"
    accuracy = Check(constraint, reached >= wanted, f"{reached:.2f} % in the last epoch")
    rows = (
        (each.constraint, "yes" if each.passed else "**no**", escape(each.found))
        for each in (*check(run.traced), accuracy)
    )
    found = table(("constraint", "kept", "found"), rows)
    edited = copy.deepcopy(run.network)
    if not isinstance(edited, Net) or "c3b.dw" not in dict(edited.named_modules()):
        return found
    edited.c3b.dw.stride = (1, 1)
    broken = "\n".join(str(each) for each in check(trace(edited)) if not each.passed)
    example = "If the stride of `c3b` is removed, for example, `python model.py` says:"
    return f"{found}\n\n{example}\n\n```text\n{broken}\n```"


def format_tally(run: FinishedRun) -> str:
    sizes = dict.fromkeys("x".join(map(str, layer.after.size)) for layer in run.traced.tally)
    return f"{tally_table(run.traced)}\n\nSizes of the map: {', '.join(sizes)}, then pooled."


def format_summary(run: FinishedRun) -> str:
    return (
        f"<details>\n<summary>{count_parameters(run.network):,} trainable parameters, layer by "
        f"layer</summary>\n\n```text\n{layer_table(run.network)}\n```\n\n</details>"
    )


def format_network(run: FinishedRun) -> str:
    blocks = run.image(names.BLOCK_DIAGRAM, "The network's layers by block", 830)
    alt = "Receptive field after each layer, and effective receptive field"
    return f"{blocks}\n\n{run.image(names.RECEPTIVE_FIELD, alt, 830)}"


BLOCKS: dict[str, Callable[[FinishedRun], str | None]] = {
    "HEADLINE": format_headline,
    "RESULTS": format_results,
    "RECIPES": lambda run: evidence.format_published(run.results),
    "ABLATION": lambda run: evidence.format_held_out(run.results),
    "PLOTS": format_plots,
    "CLASSES": format_classes,
    "TILE_GALLERY": format_gallery,
    "VISUALIZATION": format_visualization,
    "NETWORK": format_network,
    "CONSTRAINTS": format_constraints,
    "RF": format_tally,
    "MODEL_SUMMARY": format_summary,
    "BENCH": lambda run: evidence.format_bench(run.results),
    "TIME_TO_85": lambda run: evidence.format_times(run.results),
}
