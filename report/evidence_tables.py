"""README tables of measurements over many runs; None if their file is not in the folder."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from console.markdown import escaped, table
from records import names
from records.evidence import TARGET, UNCHANGED, AblationRow, BenchRow, Mark, RecipeRow, TimeRow
from records.tables import as_table, read_rows


def by_recipe(rows: Sequence[RecipeRow]) -> list[pd.DataFrame]:
    """The runs of each recipe, with `RecipeRow.remarks` as a column; small networks first."""
    runs = as_table(rows).assign(
        recipe=[each.recipe for each in rows], remarks=[each.remarks for each in rows]
    )
    runs = runs.sort_values(["params", "epochs"], kind="stable")
    return [group for _, group in runs.groupby("recipe", sort=False)]


def recipes_table(results: Path) -> str | None:
    """The runs that experiments.record collected, a row per recipe, and results of others."""
    rows = read_rows(results / names.RECIPES, RecipeRow)
    if not rows:
        return None
    cells = []
    for group in by_recipe(rows):
        run = group.iloc[0]
        model = f"**{escaped(', '.join([run.model, *run.remarks]))}**"
        kept, accuracy = run.constraints_kept or "not recorded", mean_and_spread(group.test_acc)
        cells.append((model, f"{run.params:,}", kept, run.epochs, f"**{accuracy}**", len(group)))
    for mark in read_rows(results / names.MARKS, Mark):
        who = escaped(mark.who)
        who = f"[{who}]({mark.source})" if mark.source else who
        figures = (mark.constraints_kept, mark.epochs, f"{mark.test_acc:g}")
        cells.append((who, f"{mark.params:,}", *map(escaped, figures), ""))
    figures = ("epochs:", "test accuracy (%):", "runs:")
    return table(("network", "parameters:", "constraints kept", *figures), cells)


def ablation_table(results: Path) -> str | None:
    """What experiments.ablation measured: each change against the same seeds without one."""
    rows = read_rows(results / names.ABLATION, AblationRow)
    if not rows:
        return None
    same_run = ["change", "epochs", "seed", "dataset", "device", "settings"]
    runs = as_table(rows).drop_duplicates(same_run)
    compared = ["val_acc", "val_loss", "images_per_second"]
    unchanged = runs[runs.change == UNCHANGED].set_index(same_run[1:])[compared]
    runs = runs.join(unchanged.add_prefix("unchanged_"), on=same_run[1:])
    runs = runs.sort_values(["settings", "epochs"], kind="stable")
    cells = []
    same_row = ["change", "epochs", "dataset", "settings"]
    for (change, epochs, dataset, settings), group in runs.groupby(same_row, sort=False):
        pairs = group[group.unchanged_val_acc.notna() & (group.change != UNCHANGED)]
        timed = pairs[(pairs.images_per_second > 0) & (pairs.unchanged_images_per_second > 0)]
        speeds = timed.images_per_second / timed.unchanged_images_per_second
        figures = (
            mean_and_spread(group.val_acc),
            mean_and_spread(pairs.val_acc - pairs.unchanged_val_acc, "+.2f"),
            f"{group.val_loss.mean():.4f}",
            mean_and_spread(pairs.val_loss - pairs.unchanged_val_loss, "+.4f"),
            f"{group.val_acc_flipped.mean():.2f}",
            len(group),
            "" if speeds.empty else f"{speeds.median():.2f}",
        )
        remarks = ", ".join(filter(None, (settings, f"on {dataset}" * (dataset != "cifar10"))))
        title = f"{change} ({remarks})" if remarks else change
        cells.append((escaped(title), epochs, *figures))
    titles = ("change", "epochs:", "held-out accuracy (%):", "difference:", "held-out loss:")
    titles += ("difference:", "accuracy with flips averaged (%):", "runs:", "x images/s:")
    if not any(speed for *_, speed in cells):
        titles, cells = titles[:-1], [figures for *figures, _ in cells]
    return table(titles, cells)


def bench_table(results: Path) -> str | None:
    """What experiments.bench measured."""
    rows = read_rows(results / names.BENCH, BenchRow)
    if not rows:
        return None
    cells = (
        (
            escaped(each.mode),
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
    return f"{figures}\n\n`{rows[0].command}` on {escaped(rows[0].device)}."


def time_table(results: Path) -> str | None:
    """What experiments.time_to_85 measured: a table for each data set and device."""
    rows = read_rows(results / names.TIME_TO_85, TimeRow)
    if not rows:
        return None
    places = as_table(rows).groupby(["dataset", "device"], sort=False)
    return "\n\n".join(_time_table(*place, runs) for place, runs in places)


def _time_table(dataset: str, device: str, runs: pd.DataFrame) -> str:
    """A row for each script and number of epochs."""
    groups = list(runs.groupby(["script", "epochs"]))
    reached = [group for _, group in groups if group.test_acc.min() > TARGET]
    shortest = min((group.seconds.median() for group in reached), default=math.nan)
    rows = []
    for (script, epochs), group in groups:
        lowest, highest, seconds = *group.test_acc.agg(["min", "max"]), group.seconds.median()
        cells = (
            f"{lowest:.2f}" + f" to {highest:.2f}" * (len(group) > 1),
            "yes" if lowest > TARGET else "no",
            len(group),
            f"{seconds / 60:.1f}",
            "" if math.isnan(shortest) else f"{seconds / shortest:.2f}",
        )
        rows.append((escaped(script), epochs, *cells))
    titles = ("script", "epochs:", "test accuracy (%):", f"above {TARGET} %", "runs:")
    last = f"On {escaped(dataset)}, {escaped(device)}; the last run: `{runs.command.iloc[-1]}`."
    return f"{table((*titles, 'minutes:', 'x shortest:'), rows)}\n\n{last}"


def mean_and_spread(values: pd.Series, form: str = ".2f") -> str:
    """ "88.25 ± 0.12": mean and standard deviation; the mean alone of one value; "" of none."""
    if values.empty:
        return ""
    spread = f" ± {values.std():{form.lstrip('+')}}" if len(values) > 1 else ""
    return f"{values.mean():{form}}{spread}"
