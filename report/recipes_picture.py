"""Accuracy of the recorded runs against their training time."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from records.evidence import RecipeRow
from report import pictures
from report.evidence_tables import by_recipe
from report.markdown import counted

WIDTH, ROW, MARGINS = 830, 44, 70  # pixels at the width at which the README shows it
LINE = 58  # letters in a line of a label


def draw_recipes(rows: Sequence[RecipeRow], path: Path) -> Figure:
    """A point for each recipe, labelled in the order of accuracy.

    It is at the means of the runs' last accuracies and times; the bars are the standard deviation
    of the accuracy and the range of the times.
    """
    recipes = sorted(by_recipe(rows), key=lambda group: group.test_acc.mean())
    height = MARGINS + max(290, ROW * len(recipes))
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=1.5 * pictures.DPI)
    axes = figure.add_axes([0.08, 50 / height, 0.46, 1 - MARGINS / height], xscale="log")
    minutes = [row.seconds / 60 for row in rows]
    # before anything is drawn: the limits that matplotlib finds for a single time can be equal
    axes.set_xlim(min(minutes) / 1.5, max(minutes) * 1.5)
    for index, group in enumerate(recipes):
        times, accuracy = group.seconds / 60, group.test_acc
        point = times.mean(), accuracy.mean()
        span = [[point[0] - times.min()], [times.max() - point[0]]]
        spread = accuracy.std() if len(group) > 1 else None
        axes.errorbar(*point, spread, span, fmt="o", color=pictures.EVALUATED_COLOR, capsize=3)
        axes.annotate(
            _label(group), point, (1.05, (index + 0.5) / len(recipes)),
            textcoords="axes fraction", size=8, va="center", parse_math=False,
            arrowprops={"arrowstyle": "-", "lw": 0.5, "relpos": (0, 0.5)},
        )  # fmt: skip
    axes.xaxis.set(
        major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator(),
        major_formatter=StrMethodFormatter("{x:g}"),
    )  # fmt: skip
    axes.set_xlabel("training time in minutes (log scale)", size=9)
    axes.set_ylabel("top-1 test accuracy of the last epoch, %", size=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    return pictures.save(figure, path)


def _label(group: pd.DataFrame) -> str:
    """The accuracy, the network, the epochs, the runs and their devices; then size and remarks."""
    row = group.iloc[0]
    devices = sorted({device.split(",")[0] for device in group.device})
    counts = counted(row.epochs, "epoch"), counted(len(group), "run")
    about = ", ".join([row.model, *counts, *devices])
    details = ", ".join([f"{row.params:,} parameters", *row.remarks])
    first = f"{group.test_acc.mean():.2f} %  {about}"
    below = textwrap.wrap(details, LINE, max_lines=2, placeholder=" ...")
    return "\n".join([pictures.shortened(first, LINE), *below])
