"""Tables of measurements over many runs; None if their file has nothing to show."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from console.markdown import escape, table
from constraints.assignment import read_assignment
from recipe import Recipe
from records import names
from records.results import read_config, read_log
from records.runs import PLAIN_SCRIPT, BenchRow, Mark, list_changes, read_recipe, read_runs
from records.tables import read_rows
from report.pictures import draw_accuracies, draw_comparison

COMPARISON = ("recipe", "epochs:", "accuracy (%):", "difference:", "loss:", "difference:", "runs:")


def format_published(results: Path) -> str | None:
    """The runs on the test set, a row for each recipe with its seeds, and results of others."""
    runs = read_runs(results)
    runs = runs[(runs.split == "test") & (runs.script != PLAIN_SCRIPT)]
    if runs.empty:
        return None
    cells = []
    runs = runs.sort_values(["parameters", "epochs"], kind="stable")
    for _, group in runs.groupby("group", sort=False):
        run = group.iloc[0]
        accuracy, kept = format_mean(group.accuracy), run.constraints_kept or "not recorded"
        name = f"**{escape(name_group(run))}**"
        cells.append((name, f"{run.parameters:,}", kept, run.epochs, f"**{accuracy}**", len(group)))
    for mark in read_rows(results / names.MARKS, Mark):
        who = escape(mark.who)
        who = f"[{who}]({mark.source})" if mark.source else who
        figures = (mark.constraints_kept, mark.epochs, f"{mark.test_acc:g}")
        cells.append((who, f"{mark.params:,}", *map(escape, figures), ""))
    figures = ("epochs:", "test accuracy (%):", "runs:")
    return table(("network", "parameters:", "constraints kept", *figures), cells)


def draw_published(results: Path) -> None:
    """Draws the runs on CIFAR-10's test set and the results of others."""
    runs, assignment = read_runs(results), read_assignment()
    is_shown = (runs.split == "test") & (runs.dataset == "cifar10") & (runs.script != PLAIN_SCRIPT)
    points = {
        f"{network}, {epochs} epochs": (same.parameters, same.accuracy)
        for (network, epochs), same in runs[is_shown].groupby(["network", "epochs"])
        if epochs >= Recipe.epochs
    }
    for mark in read_rows(results / names.MARKS, Mark):
        points[mark.who.partition(",")[0]] = pd.Series([mark.params]), pd.Series([mark.test_acc])
    limits = assignment.parameters_below, assignment.accuracy
    draw_accuracies(points, limits, results / names.ACCURACIES)


def name_group(run: pd.Series) -> str:
    """ "Net, --width 1.5, with the teacher ResidualNet, 75 epochs"."""
    parts = [run.network, *list_changes(read_recipe(run.recipe))]
    if run.teacher:
        parts.append(f"with the teacher {run.teacher}")
    if run.dataset != "cifar10":
        parts.append(f"on {run.dataset}")
    return ", ".join(parts)


def format_held_out(results: Path) -> str | None:
    """The runs on held-out images: each recipe against the one of the same length first in it."""
    runs = read_runs(results)
    runs = runs[runs.split == "val"].sort_values(["network", "epochs"], kind="stable")
    if runs.empty:
        return None
    compared = []
    for _, same in runs.groupby(["network", "epochs", "dataset"], sort=False):
        recipes = [group for _, group in same.groupby("group", sort=False)]
        recipes.sort(key=lambda group: len(list_changes(read_recipe(group.iloc[0].recipe))))
        compared += compare_with_first(recipes)
    return table(COMPARISON, compared)


def format_sweep(runs: pd.DataFrame) -> str:
    """These runs: each recipe against the one of the first run."""
    recipes = [group for _, group in runs.groupby("group", sort=False)]
    return table(COMPARISON, compare_with_first(recipes))


def compare_with_first(recipes: Sequence[pd.DataFrame]) -> list[tuple]:
    """A row for the runs of each recipe; differences are of runs of one seed and device model."""
    cells, pair = [], ["seed", "place"]
    first = recipes[0].drop_duplicates(pair).set_index(pair)[["accuracy", "loss"]]
    first = first.add_suffix("_first")
    for group in recipes:
        paired = group.join(first, on=pair, how="inner")
        differences = [
            format_mean(paired[x] - paired[f"{x}_first"], form)
            for x, form in (("accuracy", "+.2f"), ("loss", "+.4f"))
        ]
        if group is recipes[0]:
            differences = ["", ""]
        run, loss = group.iloc[0], f"{group.loss.mean():.4f}"
        figures = (format_mean(group.accuracy), differences[0], loss, differences[1])
        cells.append((escape(name_group(run)), run.epochs, *figures, len(group)))
    return cells


def format_bench(results: Path) -> str | None:
    """What experiments.bench measured."""
    rows = read_rows(results / names.BENCH, BenchRow)
    if not rows:
        return None
    cells = (
        (
            escape(each.mode),
            f"{each.images_per_second:,.0f}",
            f"{each.slowest:,.0f} to {each.fastest:,.0f}",
            f"{each.share_of_ceiling:.2f}",
            f"{each.ratio_to_plain:.2f}",
            f"{each.peak_memory_mb:,.0f} MB",
        )
        for each in rows
    )
    titles = ("mode", "images/s:", "slowest to fastest round:", "of the ceiling:", "x plain:")
    figures = table((*titles, "peak memory:"), cells)
    return f"{figures}\n\n`{rows[0].command}` on {escape(rows[0].device)}."


def format_times(results: Path) -> str | None:
    """The time to the accuracy asked for, where train.py and the plain script ran on a device."""
    runs, target = read_runs(results), read_assignment().accuracy
    runs = runs[(runs.split == "test") & runs.seconds.notna()]
    tables = []
    for (dataset, device), same in runs.groupby(["dataset", "device"], sort=False):
        if PLAIN_SCRIPT not in set(same.script):
            continue
        groups = [group for _, group in same.groupby(["script", "epochs"])]
        reached = [g.seconds.median() for g in groups if g.accuracy.min() > target]
        cells = []
        for group in groups:
            low, high, seconds = group.accuracy.min(), group.accuracy.max(), group.seconds.median()
            accuracy = f"{low:.2f}" if len(group) == 1 else f"{low:.2f} to {high:.2f}"
            share = f"{seconds / min(reached):.2f}" if reached else ""
            is_above = "yes" if low > target else "no"
            run, minutes = group.iloc[0], f"{seconds / 60:.1f}"
            cells.append((run.script, run.epochs, accuracy, is_above, len(group), minutes, share))
        titles = ("script", "epochs:", "test accuracy (%):", f"above {target:g} %", "runs:")
        figures = table((*titles, "minutes:", "x shortest:"), cells)
        tables.append(f"{figures}\n\nOn {escape(dataset)}, {escape(device)}.")
    return "\n\n".join(tables) or None


def compare_runs(runs: list[Path], picture: Path) -> str:
    """A Markdown table of the runs in these folders; draws their accuracies at `picture`."""
    rows, logs = [], {}
    for folder in dict.fromkeys(runs):
        config, log = read_config(folder), read_log(folder)
        images = names.SPLITS[config.split]
        accuracy, logs[f"{folder} ({images})"] = log.eval_acc, log
        figures = (
            f"{config.parameters:,}",
            len(log),
            f"{accuracy.iloc[-1]:.2f} %",
            f"{accuracy.max():.2f} %",
            f"{images} images of {escape(config.dataset)}",
            f"{log.seconds.sum() / 60:.1f} min",
        )
        rows.append((escape(str(folder)), *figures, escape(config.command)))
    draw_comparison(logs, picture)
    titles = ("parameters:", "epochs:", "last accuracy:", "best accuracy:", "on", "time:")
    figures = table(("run", *titles, "command"), rows)
    return f"{figures}\n\nTheir accuracy by epoch is drawn in {picture}."


def format_mean(values: pd.Series, form: str = ".2f") -> str:
    """ "88.25 ± 0.12": mean and standard deviation; the mean alone of one value; "" of none."""
    if values.empty:
        return ""
    spread = f" ± {values.std():{form.lstrip('+')}}" if len(values) > 1 else ""
    return f"{values.mean():{form}}{spread}"
