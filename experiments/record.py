"""Adds finished runs to the evidence: a row each in results/recipes.csv, and their picture.

The log of each run is copied to results/runs/.

    python -m experiments.record runs/seed0 runs/seed1 runs/seed2
    python update_readme.py                              # and into the README

A run that is there already, of the same network with the same settings and seed, is replaced.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from console.errors import UserError, run
from console.flags import Parser, a_path, as_flags, as_typed
from inputs.sources import unambiguous_name
from recipe import Network, Recipe
from records import names
from records.evidence import RecipeRow
from records.files import check_writable, copy_file

if TYPE_CHECKING:
    from records.run import Config


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Add finished runs to the evidence, results/recipes.csv.")
    parser.add_argument("runs", metavar="RUN", type=a_path, nargs="+", help="the folder of a run")
    parser.add_argument(
        "--results", metavar="DIR", type=a_path, default=names.RESULTS, help="folder of recipes.csv"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    check_writable(args.results, "--results")
    record(args.runs, args.results)


def record(runs: list[Path], results: Path) -> None:
    """Adds a row for each of `runs` to the evidence in the folder `results`, and draws it."""
    from records.tables import read_rows, update_rows
    from report.recipes_picture import draw_recipes

    path = results / names.RECIPES
    new = {folder: row_of(folder) for folder in runs}
    read_rows(path, RecipeRow)  # an unusable table is refused before a log is copied
    unused_logs = set()  # of replaced rows: older code named the log of the same run differently

    def replaced(rows: list[RecipeRow]) -> list[RecipeRow]:
        left = {(row.recipe, row.seed): row for row in new.values()}
        kept = [left.pop((row.recipe, row.seed), row) for row in rows]
        unused_logs.update({row.log for row in rows} - {row.log for row in kept})
        return [*kept, *left.values()]

    for folder, row in new.items():
        copy_file(folder / names.TRAIN_LOG, results / row.log)
    update_rows(path, RecipeRow, replaced)
    for log in unused_logs:
        (results / log).unlink(missing_ok=True)
    draw_recipes(read_rows(path, RecipeRow), results / names.RECIPES_PLOT)
    for folder, row in new.items():
        figures = f"{row.test_acc:.2f} % after epoch {row.epochs}, seed {row.seed}"
        print(f"{folder}: {figures}", flush=True)


def row_of(folder: Path) -> RecipeRow:
    """The run in `folder`; UserError unless it is finished and was evaluated on a test set."""
    from constraints.tables import count_mult_adds
    from records.checkpoints import network_of
    from records.run import evaluated_on, load_best, read_config, read_log

    config, log = read_config(folder), read_log(folder)
    if evaluated_on(log) != "test":
        raise UserError(f"{folder} was evaluated on held-out images; evidence is of the test set")
    try:
        epochs, seed = int(config.flags["epochs"]), int(config.flags["seed"])
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{folder / names.CONFIG}: unusable flags: {error}") from error
    if len(log) != epochs:
        raise UserError(f"{folder} has {len(log)} of {epochs} epochs; finish it with --resume")
    best = load_best(folder, config)
    arguments = {k: v for k, v in best.arguments.items() if k != "num_classes"}
    constraints_kept = "yes" if all(config.constraints.values()) else "no"
    return RecipeRow(
        model=", ".join([best.network, *(f"{name} {value}" for name, value in arguments.items())]),
        params=config.parameters,
        mult_adds=count_mult_adds(network_of(best, folder / names.BEST)),
        epochs=epochs,
        seed=seed,
        dataset=unambiguous_name(config.dataset, config.fingerprint),
        test_acc=float(log.test_acc.iloc[-1]),
        best_test_acc=float(log.test_acc.max()),
        seconds=round(float(log.seconds.sum()), 3),
        device=config.device,
        command=config.command,
        commit=config.commit,
        constraints_kept=constraints_kept if config.constraints else "",
        settings=settings_of(config),
    )


def settings_of(config: Config) -> str:
    """The settings of a run that have no column of their own in recipes.csv, as flags.

    All are written, so that a row stays what it is when a default in recipe.py changes. A teacher
    is the hash of its weights: the file may change or be moved.
    """
    in_columns = as_flags(Network()).keys() | {"--epochs", "--seed"}
    flags = [flag for flag in as_flags(Recipe()) if flag not in in_columns]
    values = {
        flag: config.flags.get(flag[2:].replace("-", "_"))
        for flag in (*flags, "--limit-train", "--teacher")
    }
    if config.teacher:
        values["--teacher"] = config.teacher
    return as_typed(values)


if __name__ == "__main__":
    run(main)
