"""Accuracy of the recorded runs against their training time."""

import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from records.evidence import RecipeRow
from records.tables import as_table
from report import pictures

WIDTH, ROW, MARGINS = 830, 30, 130  # pixels
SHOWN_ELSEWHERE = ("dataset", "data-dir", "epochs", "model", "width", "batch-size", "device")


def draw_recipes(rows: Sequence[RecipeRow], path: Path) -> Figure:
    """A point for each recipe: means over its runs, with the standard deviation of the accuracy
    and the range of the times. Labels are in the order of the accuracy."""
    runs = as_table(rows).assign(recipe=[row.recipe for row in rows], label=list(map(label, rows)))
    recipes = [group for _, group in runs.groupby("recipe", sort=False)]
    recipes.sort(key=lambda group: group.test_acc.mean())
    height = max(360, MARGINS + ROW * len(recipes))
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=1.5 * pictures.DPI)
    axes = figure.add_axes([0.08, 50 / height, 0.47, 1 - 70 / height], xscale="log")
    axes.set_xlabel("training time (minutes, on the device named)", size=9)
    axes.set_ylabel("top-1 test accuracy of the last epoch (%)", size=9)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter("")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    for index, group in enumerate(recipes):
        minutes, accuracy = group.seconds / 60, group.test_acc
        point = minutes.mean(), accuracy.mean()
        times = [[point[0] - minutes.min()], [minutes.max() - point[0]]]
        spread = accuracy.std() if len(group) > 1 else 0
        axes.errorbar(*point, spread, times, fmt="o", color=pictures.EVALUATED_COLOR, capsize=3)
        seeds = f"{len(group)} seed{'s' * (len(group) > 1)}"
        text = f"{point[1]:.2f} % {group.label.iloc[0]}, {seeds}"
        axes.annotate(
            text, point, (1.04, (index + 0.5) / len(recipes)), textcoords="axes fraction",
            size=8, va="center", parse_math=False, arrowprops={"arrowstyle": "-", "lw": 0.5},
        )  # fmt: skip
    return pictures.save(figure, path)


def label(row: RecipeRow) -> str:
    """The network, the epochs, other flags and the kind of device of a run."""
    flags = re.findall(r"--[\w-]+(?:[ =](?!--)\S+)*", row.recipe[0])
    names = f"--({'|'.join(SHOWN_ELSEWHERE)})\\b"
    others = [flag for flag in flags if not re.match(names, flag)]
    dataset = [] if row.dataset == "cifar10" else [f"on {row.dataset}"]
    device = row.device.split(",")[0]
    return ", ".join([row.model, f"{row.epochs} epochs", *dataset, *others, device])
