"""Measurements that are no part of a single run: file names, columns, tables for the README.

bench.csv               what bench.py measured, the columns of `BenchRow`
recipes.csv             finished runs that count as evidence, the columns of `RecipeRow`
ablation.csv            what each ingredient is worth, the columns of `AblationRow`
marks.csv               what others reached, the columns of `Mark`
"""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import artifacts
from storage import read_table

if TYPE_CHECKING:
    import pandas as pd

BENCH = Path("bench.csv")  # bench.py's
RECIPES = Path("recipes.csv")  # record.py's
ABLATION = Path("ablation.csv")  # ablation.py's
UNCHANGED = "none"  # the change of an ablation's run that has none
MARKS = Path("marks.csv")  # written by hand


@dataclass(frozen=True)
class BenchRow:
    """How fast one way of training is: medians over rounds, and the slowest and fastest round."""

    mode: str
    images_per_second: float
    slowest: float
    fastest: float
    share_of_ceiling: float
    ratio_to_plain: float
    peak_memory_mb: float  # of the training process, its workers not counted
    device: str
    command: str


@dataclass(frozen=True)
class RecipeRow:
    """A finished run that counts as evidence; accuracies on the test set, in percent."""

    model: str
    params: int
    mult_adds: int  # for one image
    epochs: int
    seed: int
    dataset: str
    test_acc: float  # of the last epoch
    best_test_acc: float
    seconds: float
    device: str
    command: str

    @property
    def recipe(self) -> str:
        """The command without what tells the runs of one recipe apart."""
        return re.sub(r" --(seed|out)[ =]\S+", "", self.command)


@dataclass(frozen=True)
class AblationRow:
    """A run of the recipe with one change, judged by held-out training images."""

    change: str  # "none" for the recipe itself
    epochs: int
    seed: int
    dataset: str
    val_loss: float  # of the last epoch
    val_acc: float
    val_acc_flipped: float  # of the logits' mean over an image and its mirror image
    train_loss: float
    device: str
    command: str


@dataclass(frozen=True)
class Mark:
    """What others reached on CIFAR-10's test set; a "?" is not known."""

    who: str
    source: str  # an address
    params: int
    mult_adds: str
    constraints_kept: str
    epochs: str
    test_acc: float


def archive_earlier_bench(out: Path) -> None:
    """Moves the measurement that lies in `out`, if one does, to archive/<its time>/ there."""
    if (out / BENCH).exists():
        measured = datetime.fromtimestamp((out / BENCH).stat().st_mtime)
        artifacts.archive(out, (BENCH,), measured.strftime("%Y-%m-%dT%H-%M-%S"))


def blocks(results: Path) -> dict[str, str]:
    """The blocks that are no part of a run: those whose file lies in the folder."""
    tables = {
        "RECIPES": (RECIPES, recipes_table),
        "ABLATION": (ABLATION, ablation_table),
        "BENCH": (BENCH, bench_table),
    }
    return {
        name: table(results) for name, (file, table) in tables.items() if (results / file).is_file()
    }


def recipes_table(results: Path) -> str:
    """What record.py gathered, the runs of one recipe in a row, beside what others reached."""
    lines = [
        "| network | parameters | mult-adds | constraints kept | epochs | top-1, last epoch "
        "| best epoch | runs |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    from constraints import MAX_PARAMETERS  # with torch: scripts check their flags before

    runs = read_table(results / RECIPES, RecipeRow)
    runs["recipe"] = [RecipeRow(**row).recipe for row in runs.to_dict("records")]
    for _, group in runs.groupby(["recipe", "params", "dataset"], sort=False):
        run = group.iloc[0]
        model = run.model if run.dataset == "cifar10" else f"{run.model}, on {run.dataset}"
        lines.append(
            f"| **{as_cell(model)}** | {run.params:,} | {run.mult_adds / 1e6:.1f} M "
            f"| {'yes' if run.params < MAX_PARAMETERS else 'no'} | {run.epochs} "
            f"| **{mean_and_spread(group.test_acc)}** | {group.best_test_acc.mean():.2f} "
            f"| {len(group)} |"
        )
    if (results / MARKS).is_file():
        for mark in read_table(results / MARKS, Mark).itertuples():
            who = as_cell(str(mark.who))
            who = f"[{who}]({mark.source})" if ":" in str(mark.source) else who
            lines.append(
                f"| {who} | {mark.params:,} | {mark.mult_adds} | {mark.constraints_kept} "
                f"| {mark.epochs} | {mark.test_acc:g} | | |"
            )
    return "\n".join(lines)


def ablation_table(results: Path) -> str:
    """What ablation.py measured: each change against the same seeds without one."""
    same_run = ["change", "epochs", "seed", "dataset"]
    runs = read_table(results / ABLATION, AblationRow).drop_duplicates(same_run)
    unchanged = runs[runs.change == UNCHANGED].set_index(same_run[1:]).val_acc
    runs = runs.join(unchanged.rename("unchanged"), on=same_run[1:])
    lines = [
        "| change | epochs | held-out accuracy | against the recipe | with flips averaged "
        "| held-out loss | runs |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (change, epochs, _), group in runs.groupby(["change", "epochs", "dataset"], sort=False):
        gain = (group.val_acc - group.unchanged).mean()
        lines.append(
            f"| {as_cell(change)} | {epochs} | {mean_and_spread(group.val_acc)} "
            f"| {'' if math.isnan(gain) else f'{gain:+.2f}'} "
            f"| {group.val_acc_flipped.mean():.2f} | {group.val_loss.mean():.4f} | {len(group)} |"
        )
    return "\n".join(lines)


def mean_and_spread(values: pd.Series) -> str:
    """ "88.25 +- 0.12", the spread being the standard deviation of the runs, if there are two."""
    spread = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread}"


def bench_table(results: Path) -> str:
    """What bench.py measured."""
    table = read_table(results / BENCH, BenchRow)
    lines = [
        "| mode | images/s | slowest to fastest round | of the ceiling | x plain | peak memory |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {as_cell(str(row.mode))} | {row.images_per_second:,.0f} "
        f"| {row.slowest:,.0f} to {row.fastest:,.0f} | {row.share_of_ceiling:.2f} "
        f"| {row.ratio_to_plain:.2f} | {row.peak_memory_mb:,.0f} MB |"
        for row in table.itertuples()
    ]
    first = table.iloc[0]
    return "\n".join([*lines, "", f"`{first.command}` on {as_cell(str(first.device))}."])


def as_cell(text: str) -> str:
    """`text` as it is in a Markdown table's cell, whatever names it contains."""
    escaped = html.escape(text, quote=False).replace("|", "&#124;").replace("`", "&#96;")
    return escaped.replace("\n", " ")
